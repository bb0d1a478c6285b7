"""What attempts leave in shared memory: POSIX objects and named semaphores, files in ``/dev/shm`` (shm_overview(7)).

They belong to no process, so they outlive the attempt that made them, and the kernel of the notebook. A pod's go with
the pod. Of a failed attempt such a file is removed that came while it ran, was seen open or mapped in one of its
processes, is this user's, and is in use by no living process; processes that may not be looked at are taken not to use
it. One that was seen and is in use stays, and is named.

Looking costs 6 us, to see that the directory is as it was, until something new is in it. All else is done by a thread:
the kernel may hold the memory of a process that is looked into.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

from flyte_notebook.limiters.kernel_files import read
from flyte_notebook.limiters.processes import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

PLACE = "/dev/shm"  # noqa: S108 - where glibc has them
LOOK_AGAIN_S = 0.05
LOOK_SHARE = 20
"""While something new is there that nobody of the attempt holds, a look is followed by so many times its duration."""
REMOVE_BOUND_S = 2.0
"""How long the end of an attempt waits for the look at all processes."""
TICK_NS = 20_000_000
"""How coarse the time of a directory's last change is, with room: within it two changes may look like one."""

_listing: tuple[int, dict[int, str]] = (-1, {})


def present() -> dict[int, str]:
    """Return names by inode. The same object while the directory is known to be as it was."""
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
    """Those of one attempt. ``ask`` has something done by a thread, soon."""

    def __init__(self, ask: Callable[[Callable[[], None]], None]) -> None:
        self._ask = ask
        self.begin()

    def begin(self) -> None:
        """Start anew: what is there now is not the attempt's."""
        self._before = frozenset(present())
        self._seen: set[int] = set()
        self._due_s = 0.0
        self._pending: threading.Event | None = None
        self._asked_s: float | None = None
        self.left: list[dict[str, Any]] = []
        """What was removed, and what was not and why; see `clear`."""

    def look(self, now: float, pids: Callable[[], Iterable[int]]) -> None:
        """See whether the attempt holds what is new. Does not wait."""
        new = self.unseen
        if not new or now < self._due_s or (self._pending is not None and not self._pending.is_set()):
            return
        self._look(new, list(pids()))

    def stand(self, pids: Callable[[], Iterable[int]], bound_s: float) -> None:
        """Look for the last time before the attempt is killed, and wait for that."""
        new = self.unseen
        if new:
            self._look(new, list(pids())).wait(bound_s)

    @property
    def unseen(self) -> set[int]:
        """What is new and was not seen in a process of the attempt."""
        now = present().keys()
        return set() if now <= self._before else now - self._before - self._seen

    @property
    def held(self) -> list[tuple[int, str]]:
        """Inode and name of what is there, new, and was seen in a process of the attempt."""
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
        """Clear away what a failed attempt left, after its last process is gone; whether that is over.

        Called until it is.
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
    """Remove objects that nobody uses; return each with its name, size, and ``why`` it is left, empty if it is not."""
    users: dict[int, int] = {}
    for pid in listed():
        users.update(dict.fromkeys(held(pid, mine), pid))
    found = []
    for inode, name in mine.items():
        path = f"{PLACE}/{name}"
        try:
            status = os.lstat(path)
            if status.st_ino != inode:
                continue  # another one has its name by now
            why = ""
            if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
                why = "not this user's own file"
            elif inode in users:
                program = (read(f"/proc/{users[inode]}/comm") or "").strip()
                why = f"in use by process {users[inode]} ({program})"
            else:
                os.unlink(path)  # noqa: PTH108 - as above
        except FileNotFoundError:
            continue  # who made it has tidied up
        except OSError as error:
            status, why = os.stat(PLACE), f"it cannot be removed: {error.strerror}"  # noqa: PTH116 - as above
        found.append({"name": name, "size_bytes": status.st_blocks * 512, "why": why})
    return found


def held(pid: int, names: dict[int, str]) -> set[int]:
    """Return which of these a process has mapped or open; none where it is gone, or may not be looked at. Never raises.

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
                # By name first: to look at a file may take for ever, on a file system that does not answer.
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
