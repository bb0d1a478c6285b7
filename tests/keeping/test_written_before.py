"""What earlier versions wrote is still read: one file for each version of the facts and of the file's layout.

The files in ``written/`` are never made anew.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.core.outcome import Failure
from flyte_notebook.history import CALL, Cell, FitTrial, Rerun
from flyte_notebook.storage import run_from
from flyte_notebook.storage.store import load

if TYPE_CHECKING:
    from flyte_notebook.history import Run

WRITTEN = Path(__file__).parent / "written"

PURPOSES = {
    "outer-1": Rerun(of="earlier-a0-0", changed="1Gi", cell=True, background=True),
    "cell-1": Cell(background=True),
    "oomer-fit-1": FitTrial(),
    "call-1": CALL,
}


def check(runs: dict[str, Run]) -> None:
    """See that each run has its purpose, and that the failed one has its failure."""
    assert PURPOSES == {name: run.purpose for name, run in runs.items()}
    failed = runs["outer-1"]
    assert isinstance(failed.failure, Failure)
    assert "OOMError" == type(failed.failure.error).__name__
    assert failed.failure is failed.actions[0].attempts[0].outcome
    assert ["outer", "oomer"] == [action.task_name for action in failed.actions]


@pytest.mark.parametrize("version", [1])
def test_facts_that_were_written_before_are_read(version: int) -> None:
    """Purposes were flags once, and are written as those; what is written anew is the same, but for outputs."""
    facts = json.loads((WRITTEN / f"runs-{version}.json").read_text())
    runs = [run_from(one) for one in facts]
    check({run.name: run for run in runs})
    assert [{**one, "outputs": []} for one in facts] == [run.to_dict() for run in runs]


@pytest.mark.parametrize("version", [1])
def test_a_file_that_was_saved_before_is_loaded(version: int, tmp_path: Path) -> None:
    """From a copy, since loading may write beside it."""
    place = tmp_path / "saved.sqlite"
    shutil.copyfile(WRITTEN / f"store-{version}.sqlite", place)
    place.chmod(0o600)
    check({run.name: run for run in load(place)})
