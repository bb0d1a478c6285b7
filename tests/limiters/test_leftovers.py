"""What a killed session leaves is removed by the next one; what a living one has is not touched."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from limited import Children, running, until

from flyte_notebook.limiters.cgroup_v1 import CgroupV1
from flyte_notebook.limiters.leftovers import over, session_name, sweep
from flyte_notebook.limiters.watchdog import Watchdog
from flyte_notebook.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kernel:
    """A process that stands for a notebook's kernel."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"])
        self.session = session_name(self._process.pid)

    def die(self) -> None:
        """Be killed, and be collected."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Give a notebook's kernel that lives until it is told to die."""
    kernel = Kernel()
    yield kernel
    kernel.die()


def nothing_else() -> tuple[str, ...]:
    """Sweep files only."""
    return sweep(pids=(), groups=())


def test_a_session_is_named_after_its_kernel() -> None:
    """Pid, start time and eight random digits make the name; two sessions of one kernel differ."""
    names = [session_name(os.getpid()) for _ in range(2)]
    assert names[0] != names[1]
    assert [f"fnb-{os.getpid()}"] * 2 == [name.rpartition("-")[0].rpartition("-")[0] for name in names]
    assert re.fullmatch(r"fnb-\d+-\d+-[0-9a-f]{8}", names[0])


def test_nobody_has_no_session(kernel: Kernel) -> None:
    """There is no name for a process that is not there."""
    pid = int(kernel.session.split("-")[1])
    kernel.die()
    with pytest.raises(ProcessLookupError, match=str(pid)):
        session_name(pid)


def test_a_session_is_over_with_its_kernel(kernel: Kernel) -> None:
    """A living kernel's session goes on; with another start time under the same pid it is over."""
    number, start, digits = kernel.session.split("-")[1:]
    assert not over(kernel.session)
    assert over(f"fnb-{number}-{int(start) + 1}-{digits}")
    kernel.die()
    assert over(kernel.session)


@pytest.mark.parametrize(
    "name", ["fnb-main", "fnb-99999999", "fnb-99999999-1-XYZ", "other-99999999-1-00000000", "fnb-a"]
)
def test_other_names_are_never_over(name: str) -> None:
    """What is not named as a session is nobody's leftover."""
    assert not over(name)


def test_directories_of_dead_sessions_go(kernel: Kernel) -> None:
    """A dead session's directory is removed with all in it; a living one's and a link to somewhere are not."""
    top = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as elsewhere:
        Path(elsewhere, "precious").touch()
        link = top / "fnb-99999999-1-00000000"
        link.symlink_to(elsewhere)
        directory = top / kernel.session
        directory.mkdir()
        (directory / "spooled").write_bytes(b"x")
        assert str(directory) not in nothing_else()
        assert (directory / "spooled").exists()
        kernel.die()
        assert (str(directory),) == nothing_else()
        assert not directory.exists()
        assert Path(elsewhere, "precious").exists()
        link.unlink()


@pytest.mark.cgroup_v1
def test_groups_of_dead_sessions_go(kernel: Kernel) -> None:
    """Processes in a dead session's groups are killed and the groups removed; a living session's are left."""
    limiter = CgroupV1(kernel.session)
    places = [str(Path(limiter._memory).parent)]  # the cpu hierarchy may be everybody's
    started = Children(kernel.session)
    group = limiter.group("a", Limits())
    child = started.start(group, "say('here'); wait()")
    child.line()
    assert limiter._memory not in sweep(pids=(), groups=places)
    assert not child.poll()
    kernel.die()
    assert limiter._memory in sweep(pids=(), groups=places)
    until(child.poll)
    assert -signal.SIGKILL == child.status
    assert not Path(limiter._memory).exists()
    group.remove()
    limiter.close()
    started.close()


@pytest.mark.linux
def test_processes_of_dead_sessions_go(kernel: Kernel) -> None:
    """Without groups, a process is found by its environment and killed when its session is over."""
    limiter = Watchdog(kernel.session)
    started = Children(kernel.session)
    child = started.start(limiter.group("a", Limits()), "say('here'); wait()")
    child.line()
    assert () == sweep(pids=[child.pid, os.getpid()], groups=())
    kernel.die()
    assert (f"process {child.pid} of {kernel.session}/a",) == sweep(pids=[child.pid, os.getpid()], groups=())
    until(child.poll)
    assert not running(child.pid)
    limiter.close()
    started.close()


@pytest.mark.linux
def test_what_a_lost_supervisor_left_goes_and_its_files_stay(kernel: Kernel) -> None:
    """A session that goes on without its supervisor: named as one's own its processes go, its files are kept."""
    limiter = Watchdog(kernel.session)
    started = Children(kernel.session)
    child = started.start(limiter.group("a", Limits()), "say('here'); wait()")
    child.line()
    directory = Path(tempfile.gettempdir(), kernel.session)
    directory.mkdir()
    assert (f"process {child.pid} of {kernel.session}/a",) == sweep(pids=[child.pid], groups=(), own=kernel.session)
    until(child.poll)
    assert directory.exists()
    directory.rmdir()
    limiter.close()
    started.close()
