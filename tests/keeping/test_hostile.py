"""Whatever lies at a path, loading it ends soon, in bounded memory, with runs or with `StoreError`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import FILES

Found = dict[str, tuple[str, float, float]]

MOST_MI = 128.0
BOUND_S = 20.0
"""Ten times what it may take."""

RUNS = {
    "noise for a journal": 1,
    "a hundred thousand rows": 0,
    "large name and large row": 1,
    "odd dates": 1,
    "one string": 1,
    "lists": 1,
    "dictionaries": 1,
    "numbers": 1,
    "numbers of 4,000 digits": 1,
    "one long number": 1,
    "deep": 1,
    "quotes that do not end": 1,
}
"""What of a file is runs: the one that was saved."""

SOME = {"wide letters", "many wide texts", "runs of many actions", "runs of many samples"}
"""As many of the newest as there is room and time for."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what came of each file."""
    program = Path(__file__).with_name("hostile_files.py")
    command = [sys.executable, str(program), str(tmp_path_factory.mktemp("hostile"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=len(FILES) * BOUND_S)
    assert 0 == done.returncode, done.stderr
    found: Found = json.loads(done.stdout)
    return found


@pytest.mark.linux
@pytest.mark.parametrize("name", FILES)
def test_whatever_a_file_holds_it_is_loaded_in_bounded_memory_and_time(found: Found, name: str) -> None:
    """Runs, or the one error that says what is wrong."""
    ended, took_s, grown_mi = found[name]
    assert grown_mi <= MOST_MI
    assert took_s <= BOUND_S
    if name in SOME:
        assert "runs" == ended.split(" ", 1)[1]
    elif name in RUNS:
        assert f"{RUNS[name]} runs" == ended
    else:
        assert "StoreError" == ended.partition(":")[0]
