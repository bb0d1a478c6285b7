"""Shared memory that attempts leave: POSIX objects and named semaphores, files in ``/dev/shm`` (shm_overview(7)).

They belong to no process, so they outlive the attempt that made them, and the kernel of the notebook. Those of a pod
are removed with the pod. After a failed attempt such a file is removed if it was made while the attempt ran, was seen
open or mapped in one of its processes, belongs to this user, and is not in use by a running process; processes that may
not be examined are assumed not to use it. A file that was seen and is in use is kept, and its name is reported.

As long as the directory has no new file, a check takes 6 us. A thread does all other work: the kernel may lock the
memory of an examined process.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from flyte_notebook.limiters.kernel_files import read
from flyte_notebook.limiters.processes import listed

PLACE = "/dev/shm"  # noqa: S108 - where glibc has them
LOOK_AGAIN_S = 0.05
LOOK_SHARE = 20
"""While there is a new file of unknown origin, the pause after a look is this many times its duration."""
REMOVE_BOUND_S = 2.0
"""How long the end of an attempt waits for the look at all processes."""
TICK_NS = 20_000_000
"""The resolution of a directory's modification time, with margin: two changes within it may look like one."""

_listing: tuple[int, dict[int, str]] = (-1, {})


def present() -> dict[int, str]:
    """Return names by inode. The same object is returned while the directory is known to be unchanged."""
    global _listing  # noqa: PLW0603 - one directory, one listing
    try:
        changed_ns = os.stat(PLACE).st_mtime_ns  # noqa: PTH116 - for every sample
        if changed_ns != _listing[0]:
            with os.scandir(PLACE) as entries:
                found = {entry.inode(): entry.name for entry in entries}
            settled = time.time_ns() - changed_ns > TICK_NS
            _listing = (changed_ns if settled else -1, found if found != _listing[1] else _listing[1])
    except OSError:  # not on this system
        return {}
    return _listing[1]


class SharedObjects:
    """The shared memory of one attempt. ``ask`` queues work for a thread."""

    def __init__(self, ask: Callable[[Callable[[], None]], None]) -> None:
        self._ask = ask
        self.begin()

    def begin(self) -> None:
        """Start again: objects that exist now do not belong to the attempt."""
        self._before = frozenset(present())
        self._seen: set[int] = set()
        self._due_s = 0.0
        self._pending: threading.Event | None = None
        self._asked_s: float | None = None
        self.left: list[dict[str, Any]] = []
        """The objects that were removed, and those that were not, with the reason; see `clear`."""

    def look(self, now: float, pids: Callable[[], Iterable[int]]) -> None:
        """Check whether the attempt uses new objects. Does not wait."""
        new = self.unseen
        if not new or now < self._due_s or (self._pending is not None and not self._pending.is_set()):
            return
        self._look(new, list(pids()))

    def stand(self, pids: Callable[[], Iterable[int]], bound_s: float) -> None:
        """Check for the last time before the attempt is killed, and wait for the result."""
        new = self.unseen
        if new:
            self._look(new, list(pids())).wait(bound_s)

    @property
    def unseen(self) -> set[int]:
        """The new objects that were not seen in a process of the attempt."""
        now = present().keys()
        return set() if now <= self._before else now - self._before - self._seen

    @property
    def held(self) -> list[tuple[int, str]]:
        """Inode and name of new objects that still exist and were seen in a process of the attempt."""
        return [(inode, name) for inode, name in present().items() if inode in self._seen] if self._seen else []

    def _look(self, new: Collection[int], pids: Iterable[int]) -> threading.Event:
        done = self._pending = threading.Event()
        names = {inode: name for inode, name in present().items() if inode in new}

        def work() -> None:
            began_s = time.monotonic()
            for pid in pids:
                self._seen |= held(pid, names)
            took_s = time.monotonic() - began_s
            self._due_s = time.monotonic() + max(LOOK_AGAIN_S, LOOK_SHARE * took_s)
            done.set()

        self._ask(work)
        return done

    def settled(self, now: float) -> bool:
        """Remove the objects of a failed attempt, after its last process has ended; return whether this is done.

        Called until it is done.
        """
        if self._asked_s is None:
            mine = dict(self.held)
            if not mine:
                return True
            self._asked_s = now
            done = self._pending = threading.Event()

            def work() -> None:
                self.left = clear(mine)
                done.set()

            self._ask(work)
        return self._pending is None or self._pending.is_set() or now - self._asked_s > REMOVE_BOUND_S


def clear(mine: dict[int, str]) -> list[dict[str, Any]]:
    """Remove unused objects; return each with its name, size, and ``why`` it was kept, empty if it was removed."""
    users: dict[int, int] = {}
    for pid in listed():
        users.update(dict.fromkeys(held(pid, mine), pid))
    found = []
    for inode, name in mine.items():
        path = f"{PLACE}/{name}"
        try:
            status = os.lstat(path)
            if status.st_ino != inode:
                continue  # another object has its name by now
            why = ""
            if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
                why = "not this user's own file"
            elif inode in users:
                program = (read(f"/proc/{users[inode]}/comm") or "").strip()
                why = f"in use by process {users[inode]} ({program})"
            else:
                os.unlink(path)  # noqa: PTH108 - as above
        except FileNotFoundError:
            continue  # the program that made it has removed it
        except OSError as error:
            status, why = os.stat(PLACE), f"it cannot be removed: {error.strerror}"  # noqa: PTH116 - as above
        found.append({"name": name, "size_bytes": status.st_blocks * 512, "why": why})
    return found


def held(pid: int, names: dict[int, str]) -> set[int]:
    """Return which of these a process has mapped or open; none if it has ended, or may not be examined. Never raises.

    By inode and device: mounts may have other names for them in the process.
    """
    found = set[int]()
    try:
        device = os.stat(PLACE).st_dev  # noqa: PTH116 - as above
        mark = f"{os.major(device):02x}:{os.minor(device):02x}"
        for line in (read(f"/proc/{pid}/maps") or "").splitlines():
            fields = line.split(None, 5)
            if len(fields) > 4 and fields[3] == mark and int(fields[4]) in names:  # noqa: PLR2004 - proc(5)
                found.add(int(fields[4]))
        ends = tuple(f"/{name}" for name in names.values())
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                # By name first: examining a file may block for ever, on a file system that does not answer.
                if _target(entry.path).endswith(ends):
                    status = entry.stat()
                    found |= {status.st_ino} & names.keys() if status.st_dev == device else set()
    except OSError:
        return found
    return found


def _target(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - as above
    except OSError:
        return ""  # closed meanwhile
