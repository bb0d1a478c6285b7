"""Which processes belong to which attempt, and what they use, where there is no ``/proc`` (macOS): through psutil.

Slower by far, about 1 ms a process, so the poll is slower too. Resident memory counts pages of files with it; the
unique set is exact where the system lets us ask for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import psutil

from flyte_notebook.limiters.base import ATTEMPT_VARIABLE, SESSION_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHILDREN_EVERY_S = 0.25


class PsutilMember:
    """A process as psutil knows it, by pid and start time."""

    def __init__(self, process: psutil.Process) -> None:
        self.pid = process.pid
        self.process = process

    def quick_bytes(self) -> int | None:
        """Return resident memory, ``None`` when the process is gone."""
        try:
            return int(self.process.memory_info().rss)
        except psutil.ZombieProcess:
            return 0
        except psutil.Error:
            return None

    def exact_bytes(self) -> int | None:
        """Return the memory that nobody else has, ``None`` where the system keeps it to itself."""
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
        """Say that a new process is the first one of an attempt."""
        try:
            self._take([psutil.Process(pid)], attempt)
        except psutil.NoSuchProcess:
            self._members.setdefault(attempt, {})

    def members(self, attempt: str) -> Sequence[PsutilMember]:
        """Return the processes of an attempt that were not seen to be gone."""
        return list(self._members.get(attempt, {}).values())

    def refresh(self, *, full: bool = False) -> None:
        """Look for children, and when ``full`` for processes whose environment names us."""
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
        """Give up what is kept for an attempt. Idempotent."""
        self._members.pop(attempt, None)

    def close(self) -> None:
        """Give everything up. Idempotent."""
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
