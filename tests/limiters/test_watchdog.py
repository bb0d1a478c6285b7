"""The watchdog holds limits by looking, with real processes, and convicts nobody on shared pages."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
from limited import MIB, Child, Children, empty_it, running, until

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters import watchdog
from flyte_notebook.limiters.affinity import Cpus
from flyte_notebook.limiters.base import LimiterUnavailableError
from flyte_notebook.limiters.cgroup_v1 import CgroupV1
from flyte_notebook.limiters.life import session_name
from flyte_notebook.limiters.portable import PsutilProcesses
from flyte_notebook.limiters.processes import LinuxMember
from flyte_notebook.limiters.watchdog import Watchdog, WatchdogGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.limiters.base import TaskGroup
    from flyte_notebook.limiters.watchdog import Table

pytestmark = pytest.mark.linux

FORKS = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
block = use(100)
pipes = []
for _ in range(COUNT):
    mine, theirs = os.pipe()
    if os.fork() == 0:
        os.read(mine, 1)
        if WRITES:
            for at in range(0, len(block), 4096):
                block[at] = 2
        say('written')
        wait()
    pipes.append(theirs)
say('forked')
signal.sigwait([signal.SIGUSR1])
for pipe in pipes:
    os.write(pipe, b'x')
wait()
"""
BLOCKED = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"


@pytest.fixture
def limiter(session: str) -> Iterator[Watchdog]:
    """Give the watchdog; it leaves nothing."""
    limiter = Watchdog(session)
    yield limiter
    limiter.close()
    limiter.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up no exact look: on a busy machine one may wait for its turn as long as for processes that fork."""
    monkeypatch.setattr(watchdog, "LOOK_BOUND_S", 30.0)


def look(group: TaskGroup, *, seconds: float) -> tuple[int, bool]:
    """Sample every 5 ms; returns the highest sample and whether the limit was ever seen to be passed."""
    highest, exceeded, until_s = 0, False, time.monotonic() + seconds
    while time.monotonic() < until_s:
        highest = max(highest, group.sample())
        exceeded = exceeded or group.exceeded()
        time.sleep(0.005)
    return highest, exceeded


def end(group: TaskGroup, child: Child) -> None:
    """Kill, collect, remove."""
    empty_it(group)
    until(child.poll)
    group.remove()


def test_a_task_above_its_limit_is_killed(limiter: Watchdog, children: Children) -> None:
    """A process that grows past its limit is seen within polls of 5 ms and killed."""
    group = limiter.group("a", Limits(memory_bytes=100 * MIB))
    assert 0.005 == group.poll_interval_s
    child = children.start(group, "block = use(500); wait()")  # it may be over before a busy machine looks once
    assert children.finish(child, group) == -signal.SIGKILL
    counters = group.counters()
    assert (0, True, None) == (counters.oom_kills, counters.limit_reached, counters.peak_bytes)
    empty_it(group)
    group.remove()
    assert group.counters().limit_reached


def test_a_task_below_its_limit_is_left_alone(limiter: Watchdog, children: Children) -> None:
    """A process below its limit ends by itself; what it uses is what it touched, its libraries left out."""
    group = limiter.group("a", Limits(memory_bytes=250 * MIB))
    child = children.start(group, BLOCKED + "block = use(150); say('used'); signal.sigwait([signal.SIGUSR1])")
    child.line()
    assert 150 * MIB <= group.sample() <= 175 * MIB
    os.kill(child.pid, signal.SIGUSR1)
    assert children.finish(child, group) == 0
    assert not group.counters().limit_reached
    group.remove()


def test_children_count_together(limiter: Watchdog, children: Children) -> None:
    """Three children of 60 MiB each pass 120 MiB, though each one would not."""
    code = "for _ in range(3):\n    if os.fork() == 0:\n        block = use(60)\n        wait()\nwait()"
    group = limiter.group("a", Limits(memory_bytes=120 * MIB))
    child = children.start(group, code)
    assert children.finish(child, group) == -signal.SIGKILL
    assert group.counters().limit_reached
    empty_it(group)
    group.remove()


@pytest.mark.usefixtures("patient")
def test_shared_pages_of_forked_children_are_no_reason(limiter: Watchdog, children: Children) -> None:
    """One parent with 100 MiB and three forked children use 100 MiB, not 400; when the children write, they do."""
    group = limiter.group("a", Limits(memory_bytes=220 * MIB))
    child = children.start(group, "WRITES, COUNT = True, 3" + FORKS)
    assert child.line() == "forked"
    highest, exceeded = look(group, seconds=0.8)
    assert not exceeded
    assert 100 * MIB <= highest <= 150 * MIB
    os.kill(child.pid, signal.SIGUSR1)
    assert children.finish(child, group) == -signal.SIGKILL
    assert group.counters().limit_reached
    empty_it(group)
    group.remove()


@pytest.mark.usefixtures("patient")
def test_shared_pages_are_counted_once_also_far_below_the_limit(limiter: Watchdog, children: Children) -> None:
    """The chart of a task with forked children shows what it uses, though no verdict needs it."""
    group = limiter.group("a", Limits())
    assert group.poll_interval_s is None
    child = children.start(group, "WRITES, COUNT = False, 4" + FORKS)
    highest, _ = look(group, seconds=1.0)  # from before the forks on: no sample may be above what is used
    child.line()
    assert 100 * MIB <= group.sample() <= highest <= 150 * MIB
    end(group, child)


@dataclass
class Process:
    """A process that says what it is told to."""

    pid: int
    quick: int
    exact: int | None

    def quick_bytes(self) -> int:
        return self.quick

    def exact_bytes(self) -> int | None:
        return self.exact


class Processes:
    """A table of such processes."""

    poll_interval_s = 0.005

    def __init__(self, *members: Process) -> None:
        self.found = list(members)

    def refresh(self) -> None:
        pass

    def members(self, _name: str) -> list[Process]:
        return self.found


def test_a_child_that_is_still_being_copied_is_not_counted_twice_afterwards() -> None:
    """A look may come in the middle of a fork: what the child has after that is its parent's, until the next look."""
    parent, child = Process(1, 110 * MIB, 110 * MIB), Process(2, MIB, MIB // 2)
    table = Processes(parent)
    group = WatchdogGroup("a", Limits(memory_bytes=1 << 40), cast("Table", table), Cpus())
    assert 110 * MIB == group.sample()
    table.found.append(child)
    parent.exact = 110 * MIB - child.exact
    assert 110 * MIB == group.sample()
    child.quick = 110 * MIB
    assert group.sample() <= 111 * MIB
    parent.quick = 130 * MIB  # of a process that was there before, more is more
    assert 130 * MIB <= group.sample() <= 131 * MIB


def test_a_child_that_cannot_be_looked_into_counts_with_nothing() -> None:
    """The kernel refuses it while it is being copied: what it has is its parent's."""
    table = Processes(Process(1, 110 * MIB, 110 * MIB))
    group = WatchdogGroup("a", Limits(memory_bytes=1 << 40), cast("Table", table), Cpus())
    assert 110 * MIB == group.sample()
    table.found.append(Process(2, 110 * MIB, None))
    assert 110 * MIB == group.sample()


@pytest.mark.usefixtures("patient")
def test_shared_memory_counts_once(limiter: Watchdog, children: Children) -> None:
    """150 MiB of shared memory that two processes map are 150 MiB, and pass a limit of 100."""
    code = """
block = mmap.mmap(-1, 150 * MIB)
if os.fork() == 0:
    wait_for_me = sys.stdin
for at in range(0, len(block), 4096):
    block[at] = 1
say('used')
wait()
"""
    group = limiter.group("a", Limits(memory_bytes=400 * MIB))
    child = children.start(group, code)
    child.line()
    child.line()
    look(group, seconds=0.4)
    assert 150 * MIB <= group.sample() <= 200 * MIB
    end(group, child)
    group = limiter.group("b", Limits(memory_bytes=100 * MIB))
    child = children.start(group, code, name="b")
    assert children.finish(child, group) == -signal.SIGKILL
    empty_it(group)
    group.remove()


DAEMON = """
def daemon(environ=None):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if environ is not None:
                os.execve(sys.executable, [sys.executable, '-S', '-E', '-c', f'''
import os, time
os.write(1, (str(os.getpid()) + chr(10)).encode())
time.sleep(60)'''], environ)
            say(os.getpid())
            wait()
        os._exit(0)
    os.wait()
"""


def test_kill_reaches_a_daemon_by_its_environment(limiter: Watchdog, children: Children) -> None:
    """A daemon that left parent and session before anybody looked is found by what its environment names."""
    group = limiter.group("a", Limits())
    child = children.start(group, DAEMON + "daemon(); say('parent'); wait()")
    daemon = int(next(word for word in (child.line(), child.line()) if word != "parent"))
    assert not group.empty()
    empty_it(group)
    until(child.poll)
    until(lambda: not running(daemon))
    group.remove()


def test_kill_reaches_a_daemon_of_a_dead_worker(limiter: Watchdog, children: Children) -> None:
    """The first process is gone and collected, its daemon is not: the group is not empty until that one is killed."""
    group = limiter.group("a", Limits())
    child = children.start(group, DAEMON + "daemon()")
    daemon = int(child.line())
    until(child.poll)
    assert not group.empty()
    with pytest.raises(OSError, match="alive"):
        group.remove()
    empty_it(group)
    assert not running(daemon)
    group.remove()


def test_a_session_leads_to_its_members(limiter: Watchdog, children: Children) -> None:
    """An orphan without our environment is found when it is still in the worker's session."""
    group = limiter.group("a", Limits())
    code = """
if os.fork() == 0:
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, '-S', '-E', '-c', 'import os, time; os.write(1, str(os.getpid()).encode() + bytes([10])); time.sleep(60)'], {})
    os._exit(0)
os.wait()
wait()
"""  # noqa: E501 - a program
    child = children.start(group, code)
    orphan = int(child.line())
    empty_it(group)
    until(child.poll)
    until(lambda: not running(orphan))
    group.remove()


def test_another_sessions_attempt_of_the_same_name_is_not_ours(limiter: Watchdog, children: Children) -> None:
    """Two notebooks may name attempts alike: only session and name together say whose a process is."""
    group = limiter.group("a", Limits())
    session = session_name(os.getpid())  # of one that lives: what belongs to a dead one anybody may sweep away
    other = Watchdog(session)
    strangers = other.group("a", Limits())
    child = children.start(group, "say('here'); wait()")
    stranger = children.start(strangers, "say('here'); wait()", session=session)
    child.line()
    stranger.line()
    empty_it(group)
    until(child.poll)
    group.remove()
    assert running(stranger.pid)
    end(strangers, stranger)
    other.close()


def test_a_zombie_is_nobody(limiter: Watchdog, children: Children) -> None:
    """A group whose only process is a zombie is empty."""
    group = limiter.group("a", Limits())
    child = children.start(group, "say('over')")
    child.line()
    until(lambda: not running(child.pid))
    assert group.empty()
    assert 0 == group.sample()
    group.remove()
    until(child.poll)


def test_a_leader_that_ended_before_its_threads_is_alive(limiter: Watchdog, children: Children) -> None:
    """A process whose main thread ended looks like a zombie, and its other threads are still there to be killed."""
    code = """
import ctypes, threading
threading.Thread(target=lambda: (time.sleep(0.2), say('thread'), time.sleep(60))).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    group = limiter.group("a", Limits())
    child = children.start(group, code)
    child.line()
    until(lambda: not running(child.pid))  # this is what its state says
    assert not group.empty()
    end(group, child)


def test_close_ends_what_is_left(limiter: Watchdog, children: Children) -> None:
    """Closing the limiter kills the processes of groups that nobody removed."""
    group = limiter.group("a", Limits())
    child = children.start(group, "say('here'); wait()")
    child.line()
    limiter.close()
    until(child.poll)
    assert child.status == -signal.SIGKILL


def test_a_share_of_the_machine_is_a_number_of_cpus(limiter: Watchdog, children: Children) -> None:
    """Half a core is one CPU, the next group gets another one, and more than there are is all."""
    every = os.sched_getaffinity(0)
    if len(every) < 2:
        pytest.skip("needs two CPUs")
    seen = []
    groups = [limiter.group(name, Limits(cpu_cores=0.5)) for name in ("a", "b")]
    for name, group in zip("ab", groups, strict=True):
        child = children.start(group, "say(*os.sched_getaffinity(0))", name=name)
        seen.append(child.line())
        until(child.poll)
    assert ["1", "1"] == [str(len(line.split())) for line in seen]
    assert seen[0] != seen[1]
    for group in groups:
        group.remove()
    assert frozenset() == Cpus().take(len(every))
    assert frozenset() == Cpus().take(None)
    assert "affinity" == limiter.enforcement.cpu


@pytest.mark.cgroup_v1
def test_a_kill_by_the_machines_kernel_is_told_apart(limiter: Watchdog, session: str, children: Children) -> None:
    """When the kernel kills because the machine is short, the machine-wide counter rose and no limit was reached."""
    group = limiter.group("a", Limits(memory_bytes=8 << 30))
    assert 0 == group.counters().machine_oom_kills
    machine = CgroupV1(session)
    small = machine.group("machine", Limits(memory_bytes=80 * MIB))
    group.procs_files = small.procs_files  # the child enters the small machine
    child = children.start(group, "use(200)")
    assert children.finish(child, group) == -signal.SIGKILL
    counters = group.counters()
    assert counters.machine_oom_kills >= 1
    assert (0, False) == (counters.oom_kills, counters.limit_reached)
    group.remove()
    small.remove()
    machine.close()


@pytest.mark.alone
def test_a_sample_is_cheap(limiter: Watchdog, children: Children) -> None:
    """Polling one process every 5 ms costs far less than a tenth of a core."""
    group = limiter.group("a", Limits(memory_bytes=200 * MIB))
    child = children.start(group, "block = use(50); say('used'); wait()")
    child.line()
    group.sample()
    began_s = time.thread_time()
    look(group, seconds=0.5)
    assert time.thread_time() - began_s < 0.05
    end(group, child)


@pytest.mark.alone
def test_exact_looks_are_rationed(limiter: Watchdog, children: Children) -> None:
    """Nine processes far above the limit by the quick sum, looked at for 0.6 s, take less than a third of it."""
    group = limiter.group("a", Limits(memory_bytes=220 * MIB))
    child = children.start(group, "WRITES, COUNT = False, 8" + FORKS)
    child.line()
    began_s = time.thread_time()
    look(group, seconds=0.6)
    assert time.thread_time() - began_s < 0.2
    end(group, child)


def test_an_exact_look_that_hangs_is_given_up(
    limiter: Watchdog, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are just being copied let nobody look into them: no clock waits for all of a fork bomb's."""
    exact_bytes = LinuxMember.exact_bytes
    looked_at = []

    def late(member: LinuxMember) -> int | None:
        looked_at.append(member.pid)
        time.sleep(0.15)
        return exact_bytes(member)

    monkeypatch.setattr(LinuxMember, "exact_bytes", late)
    group = limiter.group("a", Limits(memory_bytes=220 * MIB))
    child = children.start(group, "WRITES, COUNT = False, 8" + FORKS)
    child.line()
    group.sample()
    assert 1 == len(looked_at)  # not nine
    assert not group.exceeded()
    end(group, child)


def test_nothing_to_look_with_is_said(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process table the limiter is refused with the reason."""

    def refuse(_session: str) -> None:
        raise PermissionError("no loadavg")

    monkeypatch.setattr(watchdog, "LinuxProcesses", refuse)
    with pytest.raises(LimiterUnavailableError, match="no loadavg"):
        Watchdog(session)


class TestThroughPsutil:
    """The same without ``/proc``: psutil's view, which serves macOS, works on Linux too."""

    @pytest.fixture
    def limiter(self, session: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
        """Give a watchdog that thinks there is no ``/proc``."""
        monkeypatch.setattr(watchdog, "PROC", False)
        limiter = Watchdog(session)
        assert isinstance(limiter._table, PsutilProcesses)
        yield limiter
        limiter.close()

    def test_a_task_above_its_limit_is_killed(self, limiter: Watchdog, children: Children) -> None:
        """A process that stays above its limit is killed at the slower poll too."""
        group = limiter.group("a", Limits(memory_bytes=100 * MIB))
        assert 0.05 == group.poll_interval_s
        child = children.start(group, "block = use(200); wait()")
        assert children.finish(child, group) == -signal.SIGKILL
        empty_it(group)
        group.remove()

    def test_shared_pages_of_forked_children_are_no_reason(self, limiter: Watchdog, children: Children) -> None:
        """Forked children that write nothing do not pass the limit."""
        group = limiter.group("a", Limits(memory_bytes=220 * MIB))
        child = children.start(group, "WRITES, COUNT = False, 3" + FORKS)
        child.line()
        assert not look(group, seconds=0.5)[1]
        end(group, child)

    def test_kill_reaches_a_daemon_of_a_dead_worker(self, limiter: Watchdog, children: Children) -> None:
        """A daemon is found by its environment."""
        group = limiter.group("a", Limits())
        child = children.start(group, DAEMON + "daemon()")
        daemon = int(child.line())
        until(child.poll)
        assert not group.empty()
        empty_it(group)
        assert not running(daemon)
        group.remove()
