"""Files and directories that only this user may use: created that way, and checked again each time one is opened.

Any user who may write to ``/tmp`` can put a directory or a link at the path of one of our directories, before or after
we create ours. So our directory is identified by device and inode, by its owner and by its permissions (no access for
other users), never by its path: it is opened without following a link, checked through the descriptor, and its files
are opened relative to that descriptor. A new file must not have existed before. A wrong file or directory is refused,
and not created again. For a file in a directory that the user named, the file is checked in the same way, the directory
is not.

Every function is bound when this package is imported, as those of `bound` are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from os import chmod, close, fchmod, fstat, getegid, geteuid, lstat, mkdir, rmdir, scandir, unlink
from os import link as os_link
from os import open as open_descriptor
from os import stat as os_stat
from os.path import split
from pathlib import Path
from shutil import rmtree
from typing import Any, BinaryIO

from flyte_notebook.core.bound import unique
from flyte_notebook.core.units import format_memory

_open = open

MOST_CAUSES = 20
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})

OTHERS = stat.S_IRWXG | stat.S_IRWXO
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_USERS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_THERE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OwnFileError(OSError):
    """A file of ours cannot be used; user code is not the cause."""


class NotPrivateError(OwnFileError, PermissionError):
    """A file or directory is wrong: missing, replaced, or open to other users. The text says which."""


class GoneError(OwnFileError, FileNotFoundError):
    """A file in a directory of ours does not exist any more: it was removed."""


class UnwritableError(OwnFileError):
    """A file of ours cannot be written, most often since the disk is full. The text says why, its size and its path."""

    def __str__(self) -> str:
        return self.strerror or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory of ours: its path, and the facts that distinguish it from any other directory at that path."""

    path: str
    device: int
    inode: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def hold(self) -> int:
        """Return a new descriptor of it, which the caller closes. Raises `NotPrivateError`."""
        descriptor = _opened(self.path)
        try:
            _same(_checked(descriptor, self.path), self)
        except BaseException:
            close(descriptor)
            raise
        return descriptor

    def new_path(self, suffix: str = "") -> str:
        """Return a path in it that is not in use, and will not be used by chance."""
        return f"{self.path}/{unique()}{suffix}"

    def remove(self) -> None:
        """Remove it with its contents, if it still exists and is still ours. Never raises."""
        with contextlib.suppress(OSError):
            descriptor = self.hold()
            try:
                _empty(descriptor)
            finally:
                close(descriptor)
            rmdir(self.path)


_known: dict[str, Directory] = {}
"""Our directories by path: a file opened under one of these paths must be in exactly that directory."""


def make(path: str) -> Directory:
    """Make a directory of ours. Raises OSError: FileExistsError where any file or directory has that name.

    Also `NotPrivateError`.
    """
    with _in_directory(path) as (directory, name):
        mkdir(name, 0o700, dir_fd=directory)
        if os_stat(name, dir_fd=directory, follow_symlinks=False).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            chmod(name, 0o700, dir_fd=directory)  # an umask may have removed bits; the result is checked below
        descriptor = _opened(path, name, directory)
    try:
        return _checked(descriptor, path)
    finally:
        close(descriptor)


def cache_directory() -> Path:
    """Return the path of our files that outlive a session, for this user; it may not exist yet, and may be deleted.

    In ``$XDG_CACHE_HOME`` where that is set, as https://specifications.freedesktop.org/basedir-spec says; else in
    ``~/.cache``, on macOS ``~/Library/Caches``. Raises RuntimeError for a user without a home.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        cache = Path(given)
    else:
        cache = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return cache / "flyte-notebook"


def lasting(path: Path) -> Directory:
    """Return a directory of ours; it is made, with its parent directories, if it does not exist.

    Raises OSError, `NotPrivateError` among others: also where another user could replace the directory.
    """
    path = path.parent.resolve() / path.name
    missing = [place for place in (path, *path.parents) if not exists(str(place))]
    _check_above(*(place for place in path.parents if place not in missing))
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError):
            make(str(place))
    _check_above(*path.parents)  # another process may have made one meanwhile
    return find(str(path))


def find(path: str) -> Directory:
    """Return a directory that already exists. Raises `NotPrivateError` unless only this user may use it."""
    descriptor = _opened(path)
    try:
        return _checked(descriptor, path)
    finally:
        close(descriptor)


def know(directory: Directory) -> None:
    """From now on, require in this process that a file under the path of a directory is in exactly that directory."""
    _known[directory.path] = directory


def forget(directory: Directory) -> None:
    """Undo `know`."""
    _known.pop(directory.path, None)


def known_above(path: str) -> Directory | None:
    """Return the known directory that contains a path, at any depth."""
    return next((directory for place, directory in _known.items() if path.startswith(f"{place}/")), None)


def check_above(path: str) -> None:
    """Check that the known directory above a path is unchanged, for callers that open files by name. Raises OSError."""
    directory = known_above(path)
    if directory is not None:
        close(directory.hold())


def create(path: str) -> BinaryIO:
    """Make a new file that only this user may use; return it, open for writing.

    Raises OSError, `NotPrivateError` among others.
    """
    with _in_directory(path) as (directory, name):
        descriptor = open_descriptor(name, _NEW, 0o600, dir_fd=directory)
    try:
        fchmod(descriptor, 0o600)
        return _open(descriptor, "wb")
    except BaseException:
        close(descriptor)
        raise


def write(path: str, data: bytes) -> None:
    """Make a new file with these bytes. Raises `UnwritableError`; then there is no file."""
    made = False
    try:
        with create(path) as file:
            made = True
            file.write(data)
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                remove(path)
        raise unwritable(path, len(data), error) from error


def link(path: str, new_path: str) -> int:
    """Give a file a second name in the same directory, and return its size in bytes. Raises OSError."""
    with _in_directory(path) as (directory, name):
        os_link(name, split(new_path)[1], src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        return os_stat(name, dir_fd=directory, follow_symlinks=False).st_size


def read(path: str) -> BinaryIO:
    """Open a file that belongs to this user and that no other user may write.

    Raises OSError; in a directory that is known `GoneError` and `NotPrivateError`.
    """
    with _in_directory(path) as (directory, name):
        try:
            descriptor = open_descriptor(name, _THERE, dir_fd=directory)
        except FileNotFoundError as error:
            if split(path)[0] not in _known:
                raise
            raise GoneError(errno.ENOENT, "a file of ours was removed", path) from error
    try:
        _check_file(descriptor, path)
        return _open(descriptor, "rb")
    except BaseException:
        close(descriptor)
        raise


def remove(path: str) -> None:
    """Remove a file. Raises OSError, `NotPrivateError` among others."""
    with _in_directory(path) as (directory, name):
        unlink(name, dir_fd=directory)


def exists(path: str) -> bool:
    """Whether something has that path."""
    try:
        lstat(path)
    except OSError:
        return False
    return True


def size_bytes(path: str) -> int:
    """Return the size of a file. Raises OSError."""
    return os_stat(path).st_size


def unwritable(path: str, size_bytes: int, error: OSError) -> UnwritableError:
    """Return the error for a file of at least this size that could not be written."""
    reason = error.strerror or str(error)
    return UnwritableError(error.errno, f"{reason}: {format_memory(size_bytes)} cannot be written to {path}")


def fault_in(error: BaseException | None, place: str = "the disk") -> OwnFileError | None:
    """Return the file or directory of ours that caused an error, if one did.

    A full or broken disk counts as ours too. Only for errors that do not come from user code. ``place`` is the path
    that was being written, for an error that does not name one.
    """
    for _ in range(MOST_CAUSES):
        if error is None or isinstance(error, OwnFileError):
            return error
        if isinstance(error, OSError) and error.errno in _DISK:
            return UnwritableError(
                error.errno, f"{error.strerror}: a value cannot be written to {error.filename or place}"
            )
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def _in_directory(path: str) -> Iterator[tuple[int, str]]:
    """Open the directory of a file, which must be the one that is known by its path; yield descriptor and name."""
    place, name = split(path)
    known = _known.get(place)
    descriptor = open_descriptor(place or ".", _USERS) if known is None else known.hold()
    try:
        yield descriptor, name
    finally:
        close(descriptor)


def _refused(path: str, why: str) -> NotPrivateError:
    return NotPrivateError(errno.EPERM, why, path)


def _opened(path: str, name: str | None = None, directory: int | None = None) -> int:
    try:
        return open_descriptor(path if name is None else name, _DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        raise _refused(path, "a directory of ours is gone") from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EACCES}:
            raise _refused(path, "it is no directory that is ours to open") from None
        raise


def _checked(descriptor: int, path: str) -> Directory:
    found = fstat(descriptor)
    if found.st_uid != geteuid():
        raise _refused(path, f"it belongs to user {found.st_uid}, not to {geteuid()}")
    if found.st_mode & OTHERS:
        raise _refused(path, f"others may enter it (mode {stat.S_IMODE(found.st_mode):04o})")
    return Directory(path=path, device=found.st_dev, inode=found.st_ino)


def _check_above(*places: Path) -> None:
    """Refuse directories in which another user can replace an entry."""
    for place in places:
        found = os_stat(place)
        if found.st_uid not in {0, geteuid()} or (_others_write(found) and not found.st_mode & stat.S_ISVTX):
            raise _refused(str(place), "others may replace what is in it")


def _others_write(found: os.stat_result) -> bool:
    """Whether other users may write; members of root's group and of the user's own (umask 002) do not count."""
    return bool(found.st_mode & (stat.S_IWOTH | (0 if found.st_gid in {0, getegid()} else stat.S_IWGRP)))


def _same(found: Directory, wanted: Directory) -> None:
    if found != wanted:
        raise _refused(wanted.path, "another directory stands where one of ours was")


def _check_file(descriptor: int, path: str) -> None:
    found = fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "it is no file")
    if found.st_uid != geteuid():
        raise _refused(path, f"it belongs to user {found.st_uid}, not to {geteuid()}")
    if _others_write(found):
        raise _refused(path, "others may write to it")


def _empty(descriptor: int) -> None:
    with scandir(descriptor) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        with contextlib.suppress(OSError):  # files that a user mounted or locked there are kept
            if is_directory:
                rmtree(name, ignore_errors=True, dir_fd=descriptor)
            else:
                unlink(name, dir_fd=descriptor)
