"""Finds the processes of each attempt and their memory where there is no ``/proc`` (macOS), with psutil.

This is much slower, about 1 ms per process, so the poll is slower too. Resident memory includes pages of files; the
unique set is exact where the system lets us read it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence

import psutil

from flyte_notebook.limiters.base import ATTEMPT_VARIABLE, SESSION_VARIABLE

CHILDREN_EVERY_S = 0.25


class PsutilMember:
    """A process of psutil, identified by pid and start time."""

    def __init__(self, process: psutil.Process) -> None:
        self.pid = process.pid
        self.process = process

    def quick_bytes(self) -> int | None:
        """Return resident memory, ``None`` when the process has ended."""
        try:
            return int(self.process.memory_info().rss)
        except psutil.ZombieProcess:
            return 0
        except psutil.Error:
            return None

    def exact_bytes(self) -> int | None:
        """Return the memory that is not shared with other processes, ``None`` where the system does not tell it."""
        try:
            return int(self.process.memory_full_info().uss)
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Whether it can still run."""
        try:
            return bool(self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def stop(self) -> None:
        """Send SIGSTOP; psutil checks that it is still the same process."""
        try:
            self.process.suspend()
        except psutil.Error:
            return

    def kill(self) -> None:
        """Send SIGKILL; psutil checks that it is still the same process."""
        try:
            self.process.kill()
        except psutil.Error:
            return


class PsutilProcesses:
    """The table of one session, from psutil."""

    poll_interval_s = 0.05

    def __init__(self, session: str) -> None:
        self._session = session
        self._members: dict[str, dict[int, PsutilMember]] = {}
        self._due_s = 0.0

    def adopt(self, pid: int, attempt: str) -> None:
        """Note that a new process is the first one of an attempt."""
        try:
            self._take([psutil.Process(pid)], attempt)
        except psutil.NoSuchProcess:
            self._members.setdefault(attempt, {})

    def members(self, attempt: str) -> Sequence[PsutilMember]:
        """Return the processes of an attempt, except those seen to have ended."""
        return list(self._members.get(attempt, {}).values())

    def refresh(self, *, full: bool = False) -> None:
        """Look for children, and when ``full`` for processes whose environment names our session."""
        if not full and time.monotonic() < self._due_s:
            return
        for attempt, members in self._members.items():
            for pid, member in list(members.items()):
                with contextlib.suppress(psutil.Error):
                    self._take(member.process.children(recursive=True), attempt)
                if not psutil.pid_exists(pid):
                    del members[pid]
        if full:
            self._look_for_marks()
        self._due_s = time.monotonic() + CHILDREN_EVERY_S

    def forget(self, attempt: str) -> None:
        """Drop the data of an attempt. Idempotent."""
        self._members.pop(attempt, None)

    def close(self) -> None:
        """Drop all data. Idempotent."""
        self._members.clear()

    def _take(self, found: Iterable[psutil.Process], attempt: str) -> None:
        members = self._members.setdefault(attempt, {})
        for process in found:
            if process.pid not in members:
                members[process.pid] = PsutilMember(process)

    def _look_for_marks(self) -> None:
        for process in psutil.process_iter():
            try:
                environ = process.environ() if process.pid != os.getpid() else {}
            except (psutil.Error, OSError):
                continue  # another user's
            attempt = environ.get(ATTEMPT_VARIABLE)
            if attempt in self._members and environ.get(SESSION_VARIABLE) == self._session:
                self._take([process], attempt)
