"""What a killed session leaves is removed by the next one; what a living one has is not touched."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from limited import Children, running, until
from living import Kernel

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters.cgroup_v1 import CgroupV1
from flyte_notebook.limiters.leftovers import left_alone, sweep
from flyte_notebook.limiters.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Give a notebook's kernel that lives until it is told to die."""
    kernel = Kernel()
    yield kernel
    kernel.die()
    shutil.rmtree(kernel.directory, ignore_errors=True)


def nothing_else() -> tuple[str, ...]:
    """Sweep files only."""
    return sweep(pids=(), groups=())


def test_directories_of_dead_sessions_go(kernel: Kernel) -> None:
    """A dead session's directory is removed with all in it; a living one's and a link to somewhere are not."""
    top = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as elsewhere:
        Path(elsewhere, "precious").touch()
        link = top / kernel.session.replace("fnb-", "fnb-9")
        link.symlink_to(elsewhere)
        (kernel.directory / "spooled").write_bytes(b"x")
        assert str(kernel.directory) not in nothing_else()
        assert (kernel.directory / "spooled").exists()
        kernel.die()
        assert (str(kernel.directory),) == nothing_else()
        assert not kernel.directory.exists()
        assert Path(elsewhere, "precious").exists()
        link.unlink()


@pytest.mark.linux
def test_what_cannot_be_proven_is_left_alone_and_counted(kernel: Kernel) -> None:
    """Without its directory, or with one that is of another place, a dead session's processes and files stay."""
    limiter = Watchdog(kernel.session)
    started = Children(kernel.session)
    child = started.start(limiter.group("a", Limits()), "say('here'); wait()")
    child.line()
    kernel.die()
    number, start, where, digits = kernel.session.split("-")[1:]
    other = f"{int(where, 16) ^ 1:08x}"
    foreign = kernel.directory.rename(kernel.directory.with_name(f"fnb-{number}-{start}-{other}-{digits}"))
    assert () == sweep(pids=[child.pid], groups=())
    assert 1 == left_alone(str(foreign.parent), groups=())
    assert not child.poll()
    foreign.rename(kernel.directory)
    assert [str(kernel.directory), f"process {child.pid} of {kernel.session}/a"] == sorted(
        sweep(pids=[child.pid], groups=())
    )
    until(child.poll)
    assert 0 == left_alone(str(foreign.parent), groups=())
    limiter.close()
    started.close()


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
    with tempfile.TemporaryDirectory() as elsewhere:
        kernel.die()
        assert () == sweep(pids=(), groups=places, directory=elsewhere)  # its directory would be the proof
        assert left_alone(elsewhere, groups=places) >= 1
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
    assert (f"process {child.pid} of {kernel.session}/a", str(kernel.directory)) == sweep(
        pids=[child.pid, os.getpid()], groups=()
    )
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
    assert (f"process {child.pid} of {kernel.session}/a",) == sweep(pids=[child.pid], groups=(), own=kernel.session)
    until(child.poll)
    assert kernel.directory.exists()
    limiter.close()
    started.close()
