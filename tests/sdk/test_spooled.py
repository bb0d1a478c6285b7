"""Files with inputs go when their run ended well, and are kept for a while when it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyte_notebook.sdk import spooled
from flyte_notebook.sdk.spooled import KEPT_RUNS, SpooledInputs

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def added(files: SpooledInputs, place: Path, run: str, size_bytes: int = 1) -> Path:
    """Add a file to a run, and return its path."""
    path = place / f"{run}-{len(list(place.iterdir()))}"
    path.touch()
    files.add(run, str(path), size_bytes)
    return path


def test_the_files_of_a_run_that_ended_well_are_removed(tmp_path: Path) -> None:
    """All files of that run go, those of others stay, and a second end changes nothing."""
    files = SpooledInputs()
    first, second, other = added(files, tmp_path, "r1"), added(files, tmp_path, "r1"), added(files, tmp_path, "r2")
    files.end("r1", failed=False)
    files.end("r1", failed=False)
    assert (False, False, True) == (first.exists(), second.exists(), other.exists())


def test_the_files_of_a_failed_run_stay_until_an_attempt_succeeds(tmp_path: Path) -> None:
    """A retry finds its inputs."""
    files = SpooledInputs()
    path = added(files, tmp_path, "r1")
    files.end("r1", failed=True)
    assert path.exists()
    files.end("r1", failed=False)
    assert not path.exists()


def test_only_so_many_failed_runs_are_kept(tmp_path: Path) -> None:
    """The oldest goes first; what runs is left alone."""
    files = SpooledInputs()
    running = added(files, tmp_path, "running")
    paths = [added(files, tmp_path, f"r{number}") for number in range(KEPT_RUNS + 2)]
    for number in range(KEPT_RUNS + 2):
        files.end(f"r{number}", failed=True)
    assert [False, False, True] == [path.exists() for path in paths[:3]]
    assert running.exists()


def test_failed_runs_are_kept_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the size the oldest goes, but the last one stays however large it is."""
    monkeypatch.setattr(spooled, "KEPT_BYTES", 100)
    files = SpooledInputs()
    small, large = added(files, tmp_path, "r1", 60), added(files, tmp_path, "r2", 600)
    files.end("r1", failed=True)
    files.end("r2", failed=True)
    assert (False, True) == (small.exists(), large.exists())


def test_everything_can_be_removed(tmp_path: Path) -> None:
    """Files of running and of failed runs go, and one that is gone already does not matter."""
    files = SpooledInputs()
    running, failed, gone = (added(files, tmp_path, name) for name in ("r1", "r2", "r3"))
    files.end("r2", failed=True)
    gone.unlink()
    files.clear()
    assert (False, False) == (running.exists(), failed.exists())
