"""Whether a session lives: who it is, where that means anything, and the lock that it holds while it does.

Everything of a session carries its name, ``fnb-<pid>-<start ticks>-<where>-<8 hex digits>``: control groups, its
directory, and the environment of workers. Pid and start time are those of the notebook's kernel. They mean something in
one pid namespace of one boot of one host only, and ``where`` is a digest of these three: directories for temporary
files and control groups are shared among containers, jobs and machines that share nothing else.

In the session's directory is the file ``lock``. The notebook's kernel and the supervisor each hold it shared
(flock(2)), and lose it when they are gone, however they ended. So a session is over when it was of here, no process
with its pid and start time is there any more, and its lock can be had alone: then it is held, while what the session
left is removed. Without all three it is left alone. What a session has elsewhere, and nobody else is to keep, it claims
by a file in its directory: that goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
import weakref
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flyte_notebook.core import private
from flyte_notebook.core.bound import from_json, to_json, unique
from flyte_notebook.limiters.processes import PROC, stat

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"fnb-(?P<pid>\d+)-(?P<start>\d+)-(?P<where>[0-9a-f]{8})-[0-9a-f]{8}")
LOCK = "lock"
LOG = "supervisor.log"
CLAIM = ".claim"


class Where(NamedTuple):
    """Where a pid means anything. Empty texts where the system has no such thing."""

    host: str
    boot: str
    pid_namespace: str

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that stand for it in a name."""
        return hashlib.sha256("\0".join(self).encode(errors="surrogateescape")).hexdigest()[:8]


@cache
def here() -> Where | None:
    """Return where this process is; ``None`` where ``/proc`` shows another pid namespace than this process's.

    Then no pid can be checked. Read once: the forks of a process are where it is.
    """
    if not PROC:
        return Where(os.uname().nodename, "", "")
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return None  # a container that sees the /proc of the machine
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
    """Whether a name is that of a session of here whose notebook kernel is gone; `proven_over` makes it certain."""
    return of_here(name) and not _runs(name)


def of_here(name: str) -> bool:
    """Whether a name is that of a session of this very host, boot and pid namespace."""
    match, where = NAME.fullmatch(name), here()
    return match is not None and where is not None and match["where"] == where.digest


def _runs(name: str) -> bool:
    _, pid, start, *_ = name.split("-")
    return started(int(pid)) == int(start)


def started(pid: int) -> int | None:
    """Return when a living process started, in ticks since boot; on macOS hundredths of a second of the day's clock."""
    if PROC:
        found = stat(pid)
        # A leader that ended while its threads go on looks like a zombie, but is none.
        return None if found is None or (found.state in "ZX" and found.threads <= 1) else found.start_ticks
    import psutil  # noqa: PLC0415 - only where there is no /proc

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.Error:
        return None


@contextlib.contextmanager
def proven_over(name: str, place: str) -> Iterator[private.Directory | None]:
    """Hold the proof that a session is over while the block runs; yield its directory, ``None`` without the proof.

    The directory is looked for in ``place``.
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
        """Make the directory and the lock, for a new session. Raises OSError; then there is neither."""
        place = os.path.abspath(tempfile.gettempdir())  # noqa: PTH100 - whoever uses it has paths as texts
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
            # Who cleans old files out of /tmp leaves alone what is locked (systemd-tmpfiles(8)); not every file system
            # locks directories.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptors[0], fcntl.LOCK_SH | fcntl.LOCK_NB)
            descriptors.append(_open_lock(directory))
            with contextlib.suppress(OSError):  # a file system without locks: nobody will have the proof to remove it
                fcntl.flock(descriptors[1], fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BaseException:
            _close(descriptors)
            raise
        return cls(name, directory, descriptors)

    def log(self) -> int:
        """Return a new descriptor of the session's log, which is appended to; the caller closes it. Raises OSError."""
        return os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600, dir_fd=self._descriptors[0])

    def leave(self) -> None:
        """Hold it no longer. Idempotent."""
        _close(self._descriptors)

    def end(self) -> None:
        """Remove the directory and what the session claims, then leave. Only by whom it was begun. Idempotent."""
        if self._pid == os.getpid():
            remove(self.directory)
        self.leave()


def claim(session: private.Directory, directory: private.Directory) -> str:
    """Have another directory of ours removed with a session; return what gives up the claim when it is removed.

    Raises `private.UnwritableError`.
    """
    path = session.new_path(CLAIM)
    private.write(path, to_json(directory.to_dict()).encode())
    return path


def remove(session: private.Directory) -> None:
    """Remove the directory of a session, what it claims first. Never raises.

    It stays known: what is removed later by a name in it is not to be somebody else's.
    """
    private.know(session)
    with contextlib.suppress(OSError):
        for path in Path(session.path).glob(f"*{CLAIM}"):
            with contextlib.suppress(OSError, ValueError, TypeError), private.read(str(path)) as file:
                private.Directory(**from_json(file.read().decode())).remove()
    session.remove()


_lives: weakref.WeakSet[Life] = weakref.WeakSet()


def _forked() -> None:
    """Let a process that a notebook forks hold nothing of the session: it may outlive it."""
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
