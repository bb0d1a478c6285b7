"""Functions for both versions of control groups: where ours are mounted, and how to use their files and directories.

A control group is a directory of a special file system; a process belongs to one group per hierarchy. Version 1 mounts
one hierarchy per controller, version 2 one for all. ``/proc/self/cgroup`` names our group, and ``/proc/self/mountinfo``
its mount point (cgroups(7), kernel Documentation/admin-guide/cgroup-v1 and cgroup-v2).

Files are written with ``os.write``: a buffered write reports the kernel's refusal too late, or never.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flyte_notebook.limiters.kernel_files import read, write

KILL_PASSES = 4
"""How often one `kill` looks again for processes that were forked while it sent signals."""

REMOVE_PATIENCE_S = 0.2
"""How long `remove_tree` waits for a group that is still busy: the kernel releases it shortly after the last exit."""

CPU_PERIOD_US = 100_000
CPU_SMALLEST_QUOTA_US = 1_000  # the kernel refuses less


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mounted hierarchy: ``root`` is the group that is mounted at the directory ``point``."""

    version: int
    controllers: frozenset[str]
    root: str
    point: str


def parse_mounts(mountinfo: str) -> tuple[Mount, ...]:
    """Return the control group hierarchies in the text of ``/proc/self/mountinfo``."""
    found = []
    for line in mountinfo.splitlines():
        place, _, kind = line.partition(" - ")
        fields, types = place.split(), kind.split()
        if len(fields) >= 5 and len(types) >= 3 and types[0] in {"cgroup", "cgroup2"}:  # noqa: PLR2004 - proc(5)
            version = 2 if types[0] == "cgroup2" else 1
            controllers = frozenset(types[2].split(",")) if version == 1 else frozenset[str]()
            root, point = _unescaped(fields[3]), _unescaped(fields[4])
            found.append(Mount(version=version, controllers=controllers, root=root, point=point))
    return tuple(found)


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def parse_membership(text: str) -> dict[str, str]:
    """Return our group per controller from the text of ``/proc/self/cgroup``; version 2 has the name ``""``."""
    found = {}
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            found[""] = path
        found.update(dict.fromkeys(filter(None, controllers.split(",")), path))
    return found


def own_directory(mount: Mount, path: str) -> str | None:
    """Return the directory of the group ``path``, or ``None`` when this mount does not show it."""
    if mount.root == "/":
        relative = path
    elif path == mount.root or path.startswith(mount.root + "/"):
        relative = path[len(mount.root) :]
    else:
        return None  # mounted in another cgroup namespace; names in between are unknown
    if ".." in relative.split("/"):
        return None  # our group is outside of this namespace
    return (mount.point.rstrip("/") + "/" + relative.strip("/")).rstrip("/")


@cache
def _mounts() -> tuple[Mount, ...]:
    return parse_mounts(read("/proc/self/mountinfo") or "")


def membership() -> dict[str, str]:
    """Return our current group per controller."""
    return parse_membership(read("/proc/self/cgroup") or "")


def own(controller: str, groups: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """Return (our group's directory, its mount point) for a version 1 controller, or for version 2 (``""``).

    ``groups`` is the result of `membership`, for callers that need more than one controller.
    """
    path = (membership() if groups is None else groups).get(controller)
    if path is None:
        return None
    for mount in _mounts():
        if controller in mount.controllers if controller else mount.version == 2:  # noqa: PLR2004 - the version
            directory = own_directory(mount, path)
            if directory is not None and os.path.isdir(directory):  # noqa: PTH112 - called ten times a second
                return directory, mount.point
    return None


def upwards(directory: str, point: str) -> Iterator[str]:
    """Yield the directory and its parents, up to and including the mount point."""
    while True:
        yield directory
        if len(directory) <= len(point):
            return
        directory = directory.rpartition("/")[0]


def subdirectories(directory: str) -> list[str]:
    """Return the groups below, deepest first; empty when the directory does not exist."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [path for name in names for path in (*subdirectories(name), name)]


def processes(directory: str) -> list[int]:
    """Return the living processes of a group and of the groups below it."""
    pids = []
    for place in (*subdirectories(directory), directory):
        # A process of another pid namespace is listed as 0, and kill(0) would hit this process.
        pids += [int(pid) for pid in (read(place + "/cgroup.procs") or "").split() if pid != "0"]
    return pids


def kill_all(directory: str) -> None:
    """Send SIGKILL to every process of a group and of the groups below, including processes forked meanwhile."""
    try:
        write(directory + "/cgroup.kill", "1")  # version 2, kernel 5.14: one call, nothing escapes
    except OSError:
        for _ in range(KILL_PASSES):
            pids = processes(directory)
            for pid in pids:
                if pid != os.getpid():
                    _kill(pid)
            if not pids:
                return


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return  # removed already, or not ours


def remove_tree(directory: str, patience_s: float = REMOVE_PATIENCE_S) -> None:
    """Remove a group and those below it. Raises OSError (EBUSY) if a process is still inside after the waiting time."""
    give_up = time.monotonic() + patience_s
    while (refused := _remove_once(directory)) is not None:
        if refused.errno not in {errno.EBUSY, errno.ENOTEMPTY} or time.monotonic() >= give_up:
            raise refused
        time.sleep(0.002)


def _remove_once(directory: str) -> OSError | None:
    try:
        for place in (*subdirectories(directory), directory):
            with contextlib.suppress(FileNotFoundError):  # another process removes it too: a sweep, a task
                Path(place).rmdir()
    except OSError as refused:
        return refused
    return None


def clear(directory: str, patience_s: float = 2.0) -> None:
    """Kill the rest of a group and remove it; after the waiting time it is left for a later sweep, without an error."""
    give_up = time.monotonic() + patience_s
    while processes(directory) and time.monotonic() < give_up:
        kill_all(directory)
        time.sleep(0.002)
    try:
        remove_tree(directory)
    except OSError:
        return


def quota_us(cores: float) -> int:
    """Return the CPU time per `CPU_PERIOD_US` for that many cores."""
    return max(CPU_SMALLEST_QUOTA_US, round(cores * CPU_PERIOD_US))


def prove_entry(directories: Sequence[str]) -> None:
    """Let a short-lived process join the groups. Raises OSError when the kernel refuses.

    A group that can be made cannot always be joined: version 2 also requires write access to the common ancestor.
    """
    for directory in directories:
        script = ["sh", "-c", 'echo 0 > "$1"', "sh", directory + "/cgroup.procs"]
        silent = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
        pid = os.posix_spawn("/bin/sh", script, {}, file_actions=silent)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            raise PermissionError(errno.EACCES, "no process of ours may enter the group", directory)


class Meter:
    """Memory of a group less the page cache it could drop, read through open descriptors in 10 us.

    ``memory.usage_in_bytes`` and ``memory.current`` are exact to a batch of 64 pages per CPU; the statistics of the
    page cache may be behind by as much. The difference is never below zero.
    """

    def __init__(self, usage_path: str, stat_path: str, cache_keys: tuple[bytes, ...]) -> None:
        self._cache_keys = cache_keys
        self._usage = os.open(usage_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._stat = os.open(stat_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._usage)
            raise
        self._last_bytes = 0
        self._open = True
        self.page_cache_bytes = 0

    def read(self) -> int:
        """Return the bytes in use now; the last reading once the group is removed."""
        if not self._open:
            return self._last_bytes
        try:
            usage_bytes = int(os.pread(self._usage, 32, 0))
            stat = os.pread(self._stat, 16_384, 0)
        except OSError:
            return self._last_bytes
        cache_bytes = sum(_value(stat, key) for key in self._cache_keys)
        self.page_cache_bytes = max(self.page_cache_bytes, min(cache_bytes, usage_bytes))
        self._last_bytes = max(0, usage_bytes - cache_bytes)
        return self._last_bytes

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        if self._open:
            self._open = False
            os.close(self._usage)
            os.close(self._stat)


def _value(stat: bytes, key: bytes) -> int:
    start = stat.find(key)
    return 0 if start < 0 else int(stat[start + len(key) : stat.index(b"\n", start + len(key))])
