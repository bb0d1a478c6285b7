"""Real processes in real groups, for the tests of the limiters: what the supervisor does, in a few lines."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bounds import under_load

from flyte_notebook.limiters import affinity
from flyte_notebook.limiters.base import ATTEMPT_VARIABLE, SESSION_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.limiters.base import TaskGroup

MIB = 1 << 20
BOUND_S = under_load(30.0)
"""How long anything in these tests may take; far more than it does."""

PRELUDE = """
import mmap, os, signal, sys, time
MIB = 1 << 20
def use(mib):
    block = bytearray(mib * MIB)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return block
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def wait():
    while True:
        time.sleep(60)
"""


@dataclass
class Child:
    """A Python program in a group; `words` are the lines it wrote."""

    pid: int
    out: int
    status: int | None = None
    _text: bytes = b""
    words: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Wait for the next line."""
        until_s = time.monotonic() + BOUND_S
        while b"\n" not in self._text:
            assert time.monotonic() < until_s, "no word from the child"
            part = os.read(self.out, 4096)
            assert part, f"the child ended without a word after {self.words}"
            self._text += part
        line, _, self._text = self._text.partition(b"\n")
        self.words.append(line.decode())
        return self.words[-1]

    def poll(self) -> bool:
        """Whether it ended; collects it then."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None


class Children:
    """Starts programs, and ends those that are left."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._started: list[Child] = []

    def start(self, group: TaskGroup, code: str, *, name: str = "a", session: str | None = None) -> Child:
        """Fork, enter the group, execute; ``name`` and ``session`` are what the environment says.

        Before it executes, it has the memory of this process: hundreds of MiB after thousands of tests.
        """
        out, write = os.pipe()
        executed, until_executed = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                affinity.join(group.procs_files, group.cpus)
                os.dup2(write, 1)
                marks = {SESSION_VARIABLE: session or self.session, ATTEMPT_VARIABLE: name}
                os.execve(sys.executable, [sys.executable, "-S", "-E", "-c", PRELUDE + code], {**os.environ, **marks})  # noqa: S606 - our own interpreter
            finally:
                os._exit(99)
        os.close(write)
        os.close(until_executed)
        os.read(executed, 1)
        os.close(executed)
        group.attach(pid)
        child = Child(pid, out)
        self._started.append(child)
        return child

    def finish(self, child: Child, group: TaskGroup, *, kill_on_oom: bool = True) -> int:
        """Supervise until it ended; returns its exit status, or minus its signal."""
        until_s = time.monotonic() + BOUND_S
        while not child.poll():
            assert time.monotonic() < until_s, "the child does not end"
            group.sample()
            if group.exceeded() or (kill_on_oom and group.counters().oom_kills):
                group.kill()
            time.sleep(0.005)
        assert child.status is not None
        return child.status

    def close(self) -> None:
        """Kill and collect whatever a failed test left, close the pipes."""
        for child in self._started:
            if not child.poll():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
                until(child.poll)
            os.close(child.out)


def until(true: Callable[[], object], bound_s: float = BOUND_S) -> None:
    """Wait for something to become true."""
    until_s = time.monotonic() + bound_s
    while not true():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.005)


def empty_it(group: TaskGroup) -> None:
    """Kill until nobody is left."""

    def emptied() -> bool:
        group.kill()
        return group.empty()

    until(emptied)


def running(pid: int) -> bool:
    """Whether a process can still run; a zombie cannot."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - short-lived
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
