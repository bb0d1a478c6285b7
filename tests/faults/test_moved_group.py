"""A worker's control group changed by somebody else: what cannot hold any more is said, and the rest goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from hand_made import limit_file
from programs import alive, error_of, until

from flyte_notebook.limiters.control_groups import own

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="moved", resources=flyte.Resources(cpu=1, memory="250Mi"))

MIB = 1 << 20


@env.task
def waits(place: str, mebibytes: int) -> int:
    """Say where it is, wait for the word, and use memory."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next(line.split(":", 2)[2] for line in lines if ":memory:" in line or line.startswith("0::"))
    Path(f"{place}.new").write_text(f"{os.getpid()} {path}")
    Path(f"{place}.new").rename(place)
    until_s = time.monotonic() + 100
    while not Path(f"{place}.go").exists() and time.monotonic() < until_s:
        time.sleep(0.01)
    return len(bytearray(mebibytes << 20))


@env.task
async def add(a: int, b: int) -> int:
    return a + b


def group_at(path: str) -> Path:
    """Return the directory of the group that a task says it is in."""
    v1, v2 = own("memory"), own("")
    if v1 is not None:
        return Path(v1[0], *path.split("/")[-2:])  # the session's and the task's, below our own
    assert v2 is not None
    return Path(v2[1] + path)


def outside(group: Path) -> Path:
    """Return the group in which sessions are, or of version 2 its leaf where one was made for who lives there."""
    above = group.parent.parent
    return main if (main := above / "fnb-main").exists() else above


def meddled(place: Path, meddle: Callable[[int, Path], None]) -> threading.Thread:
    """Have something done to the running task's process and group, and the task told to go on."""

    def work() -> None:
        until(place.exists)
        pid, path = place.read_text().split()
        meddle(int(pid), group_at(path))
        Path(f"{place}.go").touch()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def out_of_the_group(pid: int, group: Path) -> None:
    (outside(group) / "cgroup.procs").write_text(str(pid))
    until(lambda: not alive(pid))  # the task goes on after that, if it was not noticed


def out_and_gone(pid: int, group: Path) -> None:
    (outside(group) / "cgroup.procs").write_text(str(pid))
    with contextlib.suppress(FileNotFoundError):  # it may have been noticed already
        group.rmdir()
    until(lambda: not alive(pid))


def removed(pid: int, group: Path) -> None:
    with pytest.raises(OSError, match="busy") as refused:
        group.rmdir()
    assert errno.EBUSY == refused.value.errno


def lowered(pid: int, group: Path) -> None:
    limit_file(group).write_text(str(100 * MIB))


def raised(pid: int, group: Path) -> None:
    for file in (group / "memory.memsw.limit_in_bytes", limit_file(group)):
        if file.exists():
            file.write_text(str(400 * MIB))


@pytest.mark.parametrize("meddle", [out_of_the_group, out_and_gone])
def test_a_worker_without_its_limits_is_ended(tmp_path: Path, meddle: Any) -> None:
    """Moved out of its group a task is under no limit: it is ended, as a system error that says why; the next works."""
    thread = meddled(tmp_path / "place", meddle)
    error = error_of(waits, str(tmp_path / "place"), 10)
    thread.join()
    assert flyte.errors.RuntimeSystemError is type(error)
    assert "its process was moved out of its limits' group, so it was ended" in str(error)
    assert "moved out of its limits' group" in error.failure.headline
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


def test_a_group_in_use_cannot_be_removed(tmp_path: Path) -> None:
    """The kernel refuses it, and the task ends as if nobody had tried."""
    thread = meddled(tmp_path / "place", removed)
    assert 10 * MIB == flyte.run(waits, str(tmp_path / "place"), 10).outputs()[0]
    thread.join()


def test_a_limit_that_is_lowered_holds(tmp_path: Path) -> None:
    """The kernel holds what is written last: OOMError far below what was declared; the next run works."""
    thread = meddled(tmp_path / "place", lowered)
    error = error_of(waits, str(tmp_path / "place"), 150)
    thread.join()
    assert flyte.errors.OOMError is type(error)
    assert error.failure.report.trace.peak_bytes <= 100 * MIB
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


def test_a_limit_that_is_raised_shows(session: Session, tmp_path: Path) -> None:
    """The task may use more, and its trace says that it did; the next run has its own limit."""
    thread = meddled(tmp_path / "place", raised)
    flyte.run(waits, str(tmp_path / "place"), 300)
    thread.join()
    run = session.history[-1]
    assert run.actions[0].attempts[0].trace.peak_bytes > 300 * MIB
    assert flyte.errors.OOMError is type(error_of(uses, 300))


@env.task
def uses(mebibytes: int) -> int:
    return len(bytearray(mebibytes << 20))
