"""Which processes belong to which attempt, from real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from limited import Children, running, until

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters.affinity import Cpus
from flyte_notebook.limiters.base import ATTEMPT_VARIABLE, SESSION_VARIABLE
from flyte_notebook.limiters.processes import LinuxProcesses, Stat, listed, marks, parse_stat, stat
from flyte_notebook.limiters.watchdog import WatchdogGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.linux


@pytest.fixture
def table(session: str) -> Iterator[LinuxProcesses]:
    """Give the table of a session."""
    table = LinuxProcesses(session)
    yield table
    table.close()
    table.close()


@pytest.fixture
def group(table: LinuxProcesses) -> WatchdogGroup:
    """Give an attempt in that table."""
    return WatchdogGroup("a", Limits(), table, Cpus())


def no_full_look(table: LinuxProcesses) -> None:
    """Let nothing be found by listing everything."""
    table.refresh()
    table._full_look_due_s = float("inf")


def pids(table: LinuxProcesses) -> set[int]:
    """Return who belongs to the attempt."""
    return {member.pid for member in table.members("a")}


def test_a_name_may_hold_brackets_and_spaces() -> None:
    """The fields count from the last bracket."""
    text = "12 (a) R 1 (b) S 7 12 9 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 3 0 4567 8 9"
    assert Stat(state="S", ppid=7, session=9, threads=3, start_ticks=4567) == parse_stat(text)


def test_a_process_says_where_it_comes_from() -> None:
    """Our own parent and session are what the system calls say; a pid that nobody has gives None."""
    found = stat(os.getpid())
    assert found is not None
    assert (os.getppid(), os.getsid(0)) == (found.ppid, found.session)
    assert stat(0) is None
    assert os.getpid() in listed()


def test_marks_need_both_names() -> None:
    """Session and attempt together mark a process; one of them alone, or a longer name, does not."""
    both = {SESSION_VARIABLE: "fnb-1", ATTEMPT_VARIABLE: "a"}
    found = []
    for environ in (both, {SESSION_VARIABLE: "fnb-1"}, {"X" + SESSION_VARIABLE: "fnb-1", ATTEMPT_VARIABLE: "a"}):
        command = [sys.executable, "-S", "-E", "-c", "print(flush=True); input()"]
        process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            found.append(marks(process.pid))
            process.kill()
    assert [("fnb-1", "a"), None, None] == found


def test_a_child_is_found_without_listing_everything(
    table: LinuxProcesses, group: WatchdogGroup, children: Children
) -> None:
    """The next look after a fork finds the child by its number alone."""
    code = "signal.sigwait([signal.SIGUSR1])\nif os.fork() == 0:\n    say(os.getpid())\nwait()"
    child = children.start(group, "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); say('up')\n" + code)
    child.line()
    no_full_look(table)
    assert {child.pid} == pids(table)
    os.kill(child.pid, signal.SIGUSR1)
    grandchild = int(child.line())
    table.refresh()
    assert {child.pid, grandchild} == pids(table)
    group.kill()
    until(child.poll)
    until(lambda: not running(grandchild))
    table.refresh(full=True)
    assert grandchild not in pids(table) or group.empty()


def test_a_thread_is_no_process(table: LinuxProcesses, group: WatchdogGroup, children: Children) -> None:
    """The numbers of threads have directories in ``/proc`` too, and would count all memory again."""
    code = """
import threading
signal.sigwait([signal.SIGUSR1])
for _ in range(5):
    threading.Thread(target=wait).start()
say('started')
wait()
"""
    child = children.start(group, "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); say('up')\n" + code)
    child.line()
    no_full_look(table)
    os.kill(child.pid, signal.SIGUSR1)
    child.line()
    table.refresh()
    assert {child.pid} == pids(table)
    group.kill()
    until(child.poll)


def test_a_session_number_is_forgotten_with_its_last_process(
    table: LinuxProcesses, group: WatchdogGroup, children: Children
) -> None:
    """The number of a process that is gone may be a stranger's next: it leads nobody to us any more."""
    child = children.start(group, "")
    until(child.poll)
    assert {child.pid: "a"} == table._leaders
    table.refresh(full=True)
    assert {} == table._leaders
    assert set() == pids(table)


def test_a_gone_process_cannot_be_killed_again(
    table: LinuxProcesses, group: WatchdogGroup, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept descriptor pins the process: once that one is gone, no signal goes to whoever has its number."""
    child = children.start(group, "")
    until(child.poll)
    member = table.members("a")[0]
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal to a number that may be a stranger's"))
    member.kill()
    assert member.quick_bytes() is None
    assert member.exact_bytes() is None
    assert not member.alive()
    table.forget("a")
