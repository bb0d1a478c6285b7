"""Tells whether a session runs: its name, the place where the name is valid, and the lock that it holds.

All parts of a session have its name, ``fnb-<pid>-<start ticks>-<where>-<8 hex digits>``: control groups, its directory,
and the environment of workers. Pid and start time are those of the notebook's kernel. They are valid in one pid
namespace of one boot of one host only, and ``where`` is a digest of these three: containers, jobs and machines with
different pids may share directories for temporary files and control groups.

The session's directory has a file ``lock``. The notebook's kernel and the supervisor each hold a shared lock on it
(flock(2)), which ends with them in any case. So a session is over if it ran in this place, no process with its pid and
start time exists any more, and an exclusive lock can be taken: this lock is held while the rest of the session is
removed. If one of the three is not so, nothing is removed. For a directory in another place that has to be removed with
it, a session makes a file in its own directory (a claim).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flyte_notebook.core import private
from flyte_notebook.core.bound import from_json, to_json, unique
from flyte_notebook.limiters.processes import PROC, stat

NAME = re.compile(r"fnb-(?P<pid>\d+)-(?P<start>\d+)-(?P<where>[0-9a-f]{8})-[0-9a-f]{8}")
LOCK = "lock"
LOG = "supervisor.log"
CLAIM = ".claim"


class Where(NamedTuple):
    """The place where a pid is valid. Empty texts where the system has no such thing."""

    host: str
    boot: str
    pid_namespace: str

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that identify the place in a name."""
        return hashlib.sha256("\0".join(self).encode(errors="surrogateescape")).hexdigest()[:8]


@cache
def here() -> Where | None:
    """Return the place of this process; ``None`` if ``/proc`` shows another pid namespace than this process's.

    Then no pid can be checked. Read once: forks of a process are in the same place.
    """
    if not PROC:
        return Where(os.uname().nodename, "", "")
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return None  # a container with the /proc of the machine
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return Where(os.uname().nodename, boot, str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        return None


def session_name(pid: int) -> str:
    """Return a new name for the session of the notebook kernel with that pid. Raises ProcessLookupError."""
    where = here()
    start = started(pid) if where is not None else 0
    if start is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return f"fnb-{pid}-{start}-{unique()[:8] if where is None else where.digest}-{unique()[:8]}"


def over(name: str) -> bool:
    """Whether a session of this place has no notebook kernel any more, by its name; `proven_over` makes it certain."""
    return of_here(name) and not _runs(name)


def of_here(name: str) -> bool:
    """Whether a name is that of a session of exactly this host, boot and pid namespace."""
    match, where = NAME.fullmatch(name), here()
    return match is not None and where is not None and match["where"] == where.digest


def _runs(name: str) -> bool:
    _, pid, start, *_ = name.split("-")
    return started(int(pid)) == int(start)


def started(pid: int) -> int | None:
    """Return when a living process started, in ticks since boot; on macOS hundredths of a second of the day's clock."""
    if PROC:
        found = stat(pid)
        # A main thread that ended before the other threads looks like a zombie, but the process still runs.
        return None if found is None or (found.state in "ZX" and found.threads <= 1) else found.start_ticks
    import psutil  # noqa: PLC0415 - only where there is no /proc

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.Error:
        return None


@contextlib.contextmanager
def proven_over(name: str, place: str) -> Iterator[private.Directory | None]:
    """Hold the exclusive lock of a session that is over during the block; yield its directory, ``None`` without lock.

    The directory is searched for in ``place``.
    """
    with contextlib.ExitStack() as held:
        directory = None
        if over(name):
            with contextlib.suppress(OSError):
                found = private.find(f"{place}/{name}")
                lock = _open_lock(found)
                held.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                directory = found
        yield directory


class Life:
    """The directory and the lock of one session, held by one process of it."""

    def __init__(self, name: str, directory: private.Directory, descriptors: list[int]) -> None:
        self.name = name
        self.directory = directory
        self._descriptors = descriptors
        self._pid = os.getpid()
        _lives.add(self)

    @classmethod
    def begin(cls, name: str) -> Life:
        """Make the directory and the lock, for a new session. Raises OSError; then neither exists."""
        place = os.path.abspath(tempfile.gettempdir())  # noqa: PTH100 - its users have paths as texts
        where = here()
        words = to_json({"name": name, **({} if where is None else where._asdict())}).encode()
        path = f"{place}/{name}"
        try:
            directory = private.make(path)
        except OSError as error:
            raise private.unwritable(path, len(words), error) from error
        try:
            private.write(f"{path}/{LOCK}", words)
            return cls.join(name, directory)
        except BaseException:
            directory.remove()
            raise

    @classmethod
    def join(cls, name: str, directory: private.Directory) -> Life:
        """Hold the directory and the lock of a session as another process of it. Raises OSError."""
        descriptors = [directory.hold()]
        try:
            # systemd-tmpfiles(8) does not remove locked old files from /tmp; not every file system can lock
            # directories.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptors[0], fcntl.LOCK_SH | fcntl.LOCK_NB)
            descriptors.append(_open_lock(directory))
            with contextlib.suppress(OSError):  # a file system without locks: no session can later prove its end
                fcntl.flock(descriptors[1], fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BaseException:
            _close(descriptors)
            raise
        return cls(name, directory, descriptors)

    def log(self) -> int:
        """Return a new descriptor for appending to the session's log; the caller closes it. Raises OSError."""
        return os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600, dir_fd=self._descriptors[0])

    def leave(self) -> None:
        """Release the lock and the directory. Idempotent."""
        _close(self._descriptors)

    def end(self) -> None:
        """Remove the directory and the claimed ones, then leave. Only for the process that began it. Idempotent."""
        if self._pid == os.getpid():
            remove(self.directory)
        self.leave()


def claim(session: private.Directory, directory: private.Directory) -> str:
    """Have another directory of ours removed with a session; return a function that ends this claim.

    Raises `private.UnwritableError`.
    """
    path = session.new_path(CLAIM)
    private.write(path, to_json(directory.to_dict()).encode())
    return path


def remove(session: private.Directory) -> None:
    """Remove the directory of a session, after the directories it claims. Never raises.

    It remains known: a file removed later by a path in it must not belong to another user.
    """
    private.know(session)
    with contextlib.suppress(OSError):
        for path in Path(session.path).glob(f"*{CLAIM}"):
            with contextlib.suppress(OSError, ValueError, TypeError), private.read(str(path)) as file:
                private.Directory(**from_json(file.read().decode())).remove()
    session.remove()


_lives: weakref.WeakSet[Life] = weakref.WeakSet()


def _forked() -> None:
    """Close the session's descriptors in a process that a notebook forks: it may outlive the session."""
    for life in _lives:
        life.leave()


os.register_at_fork(after_in_child=_forked)


def _open_lock(directory: private.Directory) -> int:
    descriptor = directory.hold()
    try:
        return os.open(LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
