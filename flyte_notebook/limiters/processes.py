"""Finds the processes of each attempt without control groups. On Linux all data comes from ``/proc``.

A process belongs to an attempt when its parent does, when it is in a terminal session that a process of the attempt
leads, or when its environment names our session and the attempt (a daemon that lost its parent and left its session
keeps its environment). New processes are found cheaply: the last field of ``/proc/loadavg`` is the youngest pid, so
only pids above the last one seen are examined (in a sandbox where it is always 0, all are listed). Every `FULL_LOOK_S`
all of ``/proc`` is listed, to find missed processes.

Each member's ``statm`` is kept open, 1.2 us a reading; the descriptor also identifies the process: after its end
reading fails, even if another process has its pid. Source: proc(5), kernel Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flyte_notebook.limiters.base import ATTEMPT_VARIABLE, SESSION_VARIABLE
from flyte_notebook.limiters.kernel_files import read

PROC = Path("/proc/self/stat").exists()
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FULL_LOOK_S = 0.25
FULL_LOOK_SHARE = 20
"""The time until the next full look is at least this many times its duration, also with thousands of processes."""
MOST_NEW_PIDS = 64
PF_EXITING = 0x4
"""In the flags of ``/proc/PID/stat`` (kernel include/linux/sched.h)."""
SHMEM_STEP_PAGES = 256
"""How much shared pages must change before the 15 us are spent to read how many of them are shared memory."""
SWAP_EVERY_S = 0.25


class Member(Protocol):
    """A process of an attempt."""

    pid: int

    def quick_bytes(self) -> int | None:
        """Return its own memory; pages shared with a forked child count in both. ``None`` when it has ended."""

    def exact_bytes(self) -> int | None:
        """Return its proportional memory, each page divided by its users. ``None`` where this is not known."""

    def alive(self) -> bool:
        """Whether it can still run; a zombie cannot."""

    def stop(self) -> None:
        """Send SIGSTOP."""

    def kill(self) -> None:
        """Send SIGKILL."""


class Table(Protocol):
    """All attempts' processes."""

    poll_interval_s: float

    def adopt(self, pid: int, attempt: str) -> None:
        """Note that a new process is the first one of an attempt."""

    def refresh(self, *, full: bool = False) -> None:
        """Look for new processes; ``full`` leaves nothing out."""

    def members(self, attempt: str) -> Sequence[Member]:
        """Return the processes of an attempt, except those seen to have ended."""

    def forget(self, attempt: str) -> None:
        """Drop the data of an attempt. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The fields of ``/proc/PID/stat`` about the origin of a process. ``start_ticks`` counts from boot."""

    state: str
    ppid: int
    session: int
    threads: int
    start_ticks: int


def parse_stat(text: str) -> Stat:
    """Return the fields after the name, which is in brackets and may itself contain brackets and spaces."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(
        state=fields[0],
        ppid=int(fields[1]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def stat(pid: int) -> Stat | None:
    """Return the origin of a process, or ``None`` when it has ended."""
    text = read(f"/proc/{pid}/stat")
    return parse_stat(text) if text else None


def ending(pid: int) -> bool:
    """Whether a process has ended, or is ending: it is releasing its memory, or is a zombie."""
    text = read(f"/proc/{pid}/stat")
    return not text or bool(int(text[text.rindex(")") + 2 :].split()[6]) & PF_EXITING)


def marks(pid: int) -> tuple[str, str] | None:
    """Return the session and the attempt that a process's environment names, or ``None``; another user's is hidden."""
    found = {}
    for line in (read(f"/proc/{pid}/environ") or "").split("\0"):
        name, _, value = line.partition("=")
        if name in {SESSION_VARIABLE, ATTEMPT_VARIABLE}:
            found[name] = value
    return (found[SESSION_VARIABLE], found[ATTEMPT_VARIABLE]) if len(found) == 2 else None  # noqa: PLR2004 - both


def listed() -> set[int]:
    """Return the pids of all visible processes."""
    with os.scandir("/proc") as entries:
        return {int(entry.name) for entry in entries if entry.name.isdigit()}


class LinuxMember:
    """A process, identified by its open ``statm``. Raises OSError when it has ended already."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._shared_seen = -SHMEM_STEP_PAGES
        self._extra_bytes = 0  # shared memory, which statm does not separate, and swap, which it does not have
        self._swap_due_s = 0.0 if SWAP else float("inf")

    def quick_bytes(self) -> int | None:
        """Return anonymous and shared memory and swap; pages of files are not the task's."""
        try:
            fields = os.pread(self._statm, 128, 0).split()
        except OSError:
            return None
        resident, shared = int(fields[1]), int(fields[2])
        now = time.monotonic()
        if abs(shared - self._shared_seen) >= SHMEM_STEP_PAGES or now >= self._swap_due_s:
            self._shared_seen = shared
            self._swap_due_s = now + SWAP_EVERY_S if SWAP else float("inf")
            self._extra_bytes = _kib_lines(f"/proc/{self.pid}/status", ("RssShmem", "VmSwap")) or 0
        return (resident - shared) * PAGE_BYTES + self._extra_bytes

    def exact_bytes(self) -> int | None:
        """Return proportional memory from ``smaps_rollup``; the kernel walks all pages, 8 us per MiB."""
        return _kib_lines(f"/proc/{self.pid}/smaps_rollup", ("Pss_Anon", "Pss_Shmem", "SwapPss"))

    def alive(self) -> bool:
        """Whether any thread of it can still run."""
        if self.gone():
            return False
        now = stat(self.pid)
        # A main thread that ended before the other threads looks like a zombie, but the process still runs.
        return now is not None and (now.state not in "ZX" or now.threads > 1)

    def stop(self) -> None:
        """Send SIGSTOP, if it is still the same process."""
        self._send(signal.SIGSTOP)

    def kill(self) -> None:
        """Send SIGKILL, if it is still the same process."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.gone():
            return
        try:
            os.kill(self.pid, number)
        except OSError:
            return  # it ended meanwhile, or runs as another user now

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._statm)

    def gone(self) -> bool:
        """Whether it ended and was waited for."""
        try:
            os.pread(self._statm, 1, 0)
        except OSError:
            return True
        return False


class LinuxProcesses:
    """The table of one session, from ``/proc``."""

    poll_interval_s = 0.005

    def __init__(self, session: str) -> None:
        self._session = session
        self._members: dict[str, dict[int, LinuxMember]] = {}
        self._attempt_of: dict[int, str] = {}
        self._leaders: dict[int, str] = {}
        self._strangers: set[int] = set()
        self._loadavg = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._youngest = 0
        self._full_look_due_s = 0.0

    def adopt(self, pid: int, attempt: str) -> None:
        """Note that a new process is the first one of an attempt."""
        self._take(pid, attempt)

    def members(self, attempt: str) -> Sequence[LinuxMember]:
        """Return the processes of an attempt that still exist; this includes zombies."""
        return list(self._members.get(attempt, {}).values())

    def refresh(self, *, full: bool = False) -> None:
        """Examine new processes; all processes when ``full`` or when a full look is due."""
        if full:
            self._strangers.clear()  # a process that is executing a program at this moment has no environment
        began_s = time.monotonic()
        before, self._youngest = self._youngest, int(os.pread(self._loadavg, 128, 0).split()[-1])
        if full or began_s >= self._full_look_due_s or not 0 <= self._youngest - before <= MOST_NEW_PIDS:
            some_ended = self._drop_gone()
            pids = listed()
            self._strangers &= pids
            self._look_at(pids - self._strangers)
            if some_ended:
                self._drop_leaders()
            now = time.monotonic()
            self._full_look_due_s = now + max(FULL_LOOK_S, FULL_LOOK_SHARE * (now - began_s))
        elif self._youngest != before:
            self._look_at(range(before + 1, self._youngest + 1))

    def forget(self, attempt: str) -> None:
        """Close the descriptors of an attempt. Idempotent."""
        for pid, member in self._members.pop(attempt, {}).items():
            member.close()
            del self._attempt_of[pid]
        self._leaders = {pid: name for pid, name in self._leaders.items() if name != attempt}

    def close(self) -> None:
        """Close everything. Idempotent."""
        for attempt in list(self._members):
            self.forget(attempt)
        if self._loadavg >= 0:
            os.close(self._loadavg)
            self._loadavg = -1

    def _drop_gone(self) -> bool:
        gone = [(pid, members) for members in self._members.values() for pid in members if members[pid].gone()]
        for pid, members in gone:
            members.pop(pid).close()
            del self._attempt_of[pid]
        return bool(gone)

    def _drop_leaders(self) -> None:
        """Forget terminal sessions without a process of ours: another program may soon get their number."""
        origins = (stat(pid) for pid in self._attempt_of)
        known = {origin.session for origin in origins if origin is not None} | set(self._attempt_of)
        self._leaders = {pid: name for pid, name in self._leaders.items() if pid in known}

    def _look_at(self, pids: Iterable[int]) -> None:
        """Assign each new process to its attempt; a child may be listed before its parent."""
        new = {pid: found for pid in pids if pid not in self._attempt_of and (found := stat(pid)) is not None}
        found_one = True
        while found_one:
            found_one = False
            for pid, origin in list(new.items()):
                attempt = self._attempt_of.get(origin.ppid) or self._leaders.get(origin.session)
                if attempt is not None and _is_process(pid):
                    del new[pid]
                    found_one = self._take(pid, attempt) or found_one
        for pid in new:
            marked = marks(pid)
            known = marked is not None and marked[0] == self._session and marked[1] in self._members
            if marked is None or not known or not _is_process(pid) or not self._take(pid, marked[1]):
                self._strangers.add(pid)

    def _take(self, pid: int, attempt: str) -> bool:
        try:
            member = LinuxMember(pid)
        except OSError:
            return False
        self._members.setdefault(attempt, {})[pid] = member
        self._attempt_of[pid] = attempt
        self._leaders[pid] = attempt
        return True


def _is_process(pid: int) -> bool:
    """Whether it is a process: a thread's number has a directory in ``/proc`` too."""
    text = read(f"/proc/{pid}/status") or ""
    return f"\nTgid:\t{pid}\n" in text


def _kib_lines(path: str, names: tuple[str, ...]) -> int | None:
    """Return the sum of ``Name: 123 kB`` lines in bytes, ``None`` when there is no such line."""
    found = None
    for line in (read(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name in names:
            found = (found or 0) + int(value.split()[0]) * 1024
    return found


def _machine_swaps() -> bool:
    return len((read("/proc/swaps") or "").splitlines()) > 1


SWAP = _machine_swaps()


NEARLY = 0.9
"""A process that has used this part of a limit may be refused the next allocation: these are often several MiB."""

_NAMES = {"Max address space": ("RLIMIT_AS", 0), "Max data size": ("RLIMIT_DATA", 5)}
"""Lines of ``/proc/PID/limits``, with the field of ``/proc/PID/statm`` that counts against each."""


def activity(pid: int) -> tuple[int, ...] | None:
    """Return numbers that stay the same while a process does nothing; ``None`` when they are not meaningful now.

    This is so for a process that waits for a disk, or that was stopped.
    """
    if not PROC:
        import psutil  # noqa: PLC0415 - only where there is no /proc

        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            return ()
        return (int(times.user * 1000), int(times.system * 1000))
    text = read(f"/proc/{pid}/stat")
    if not text:
        return ()
    fields = text[text.rindex(")") + 2 :].split()
    # Minor and major page faults, and time in user and system mode, of all threads.
    return None if fields[0] in "DTt" else tuple(map(int, (fields[7], fields[9], fields[11], fields[12])))


def stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP), as far as this is known; a debugger does not count."""
    text = read(f"/proc/{pid}/stat") if PROC else None
    return text is not None and text[text.rindex(")") + 2 :].startswith("T")


def reached(pid: int) -> tuple[str, int, int] | None:
    """Return a limit that a process has (nearly) reached, its bytes, and those in use; ``None`` if there is none."""
    used = (read(f"/proc/{pid}/statm") or "").split()
    for line in (read(f"/proc/{pid}/limits") or "").splitlines():
        for words, (name, field) in _NAMES.items():
            with contextlib.suppress(ValueError, IndexError):  # unlimited, or the process has ended
                limit_bytes = int(line.removeprefix(words).split()[0]) if line.startswith(words) else None
                used_bytes = int(used[field]) * mmap.PAGESIZE
                if limit_bytes is not None and used_bytes >= NEARLY * limit_bytes:
                    return name, limit_bytes, used_bytes
    return None
