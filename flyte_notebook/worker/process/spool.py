"""Storage for pickled values: memory while they are small, a file when they are large.

The format is a sequence of chunks, each after its kind and length. Most hold the pickle itself, in pieces. The memory
of large arrays is stored separately (pickle protocol 5, out-of-band buffers): it goes from the array to the file and
from the file into the memory that the loaded array will have, so that neither side ever holds it twice. The reader
allocates this memory: in a worker it counts against the task's limit, as in a container (the kernel charges a page to
the process that first touches it).

A buffer is written before the pickle's reference to it, which pickle flushes later; so it is read before the unpickler
needs it. Values of several `dump` calls may follow each other, and reading may begin at any of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import pickle
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

from flyte_notebook.core import private
from flyte_notebook.worker.process.protocol import INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

APART_BYTES = 1 << 20
"""Buffers of at least this size are stored separately from the pickle."""

HUGE_BYTES = 4 << 20
"""From this size on memory is requested in huge pages, as numpy does for its own arrays."""

WRITE_BYTES = 32 << 20
"""How much is written in one system call, so that an interrupt can be handled between two."""

_HEADER = struct.Struct("!cQ")
HEADER_BYTES = _HEADER.size
_PICKLE, _BUFFER = b"p", b"b"


class TooLargeError(Exception):
    """A value has more bytes than allowed; writing it ends."""


class Spool:
    """A file for pickles: in memory at first, on disk from `INLINE_BYTES` on.

    ``place`` names the file on disk. ``hashed`` says whether `hexdigest` will be called. Give `take_buffer` to the
    pickler as its ``buffer_callback``.
    """

    def __init__(self, place: Callable[[], str], *, hashed: bool = False) -> None:
        self._place = place
        self._file: Any = io.BytesIO()
        self._hash = hashlib.sha256() if hashed else None
        self.path: str | None = None
        self.position = 0
        self._end: int | None = None

    def begin(self, limit_bytes: int | None) -> None:
        """Begin a value; writing more than ``limit_bytes`` from here raises `TooLargeError`."""
        self._end = None if limit_bytes is None else self.position + limit_bytes

    def write(self, data: Buffer) -> int:
        """Append a piece of the pickle. Raises `private.UnwritableError`, `TooLargeError`."""
        return self._append(_PICKLE, memoryview(data).cast("B"))

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Append a buffer if it has to be stored separately; return whether it belongs into the pickle instead."""
        try:
            data = buffer.raw()
        except BufferError:  # not in one piece
            return True
        if data.nbytes < APART_BYTES:
            return True
        self._append(_BUFFER, data)
        return False

    def _append(self, kind: bytes, data: memoryview) -> int:
        self.position += HEADER_BYTES + data.nbytes
        if self._end is not None and self.position > self._end:
            raise TooLargeError
        if self._hash is not None:
            self._hash.update(data)
        try:
            if self.path is None and self.position > INLINE_BYTES:
                self._to_disk()
            self._file.write(_HEADER.pack(kind, data.nbytes))
            for begin in range(0, data.nbytes, WRITE_BYTES):
                self._file.write(data[begin : begin + WRITE_BYTES])
        except private.UnwritableError:
            raise
        except OSError as error:
            raise self._problem(error) from error
        return data.nbytes

    def _problem(self, error: OSError) -> private.UnwritableError:
        return private.unwritable(self.path or "", self.position, error)

    def _to_disk(self) -> None:
        held: io.BytesIO = self._file
        path = self._place()
        try:
            self._file = private.create(path)
        except OSError as error:
            raise private.unwritable(path, self.position, error) from error
        self.path = path
        self._file.write(held.getbuffer())

    def hexdigest(self) -> str:
        """Return the digest of the written bytes."""
        assert self._hash is not None
        return self._hash.hexdigest()

    def finish(self) -> bytes | None:
        """Close; return the written bytes if they are still in memory. Raises `private.UnwritableError`."""
        if self.path is None:
            data: bytes = self._file.getvalue()
            return data
        try:
            self._file.close()
        except OSError as error:
            raise self._problem(error) from error
        return None

    def discard(self) -> None:
        """Close, and remove the file if there is one. Idempotent."""
        with contextlib.suppress(OSError):  # the rest of the buffer need not be written
            self._file.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                private.remove(self.path)


class SpoolReader:
    """Reads what a `Spool` wrote, as the file of an unpickler and as its ``buffers``.

    ``file`` is open, binary, and positioned at the beginning of a value. Raises EOFError at the end, and when the file
    is truncated; MemoryError when a buffer cannot be allocated.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = 0
        self._apart: deque[mmap.mmap | bytearray] = deque()

    def read(self, size: int) -> bytes:
        """Return the next bytes of the pickle, fewer only at the end."""
        if size <= self._left:
            piece = self._file.read(size)
            self._left -= len(piece)
            if len(piece) < size:
                raise EOFError("the file of a pickled value is cut short")
            return piece
        data = bytearray(size)
        length = self.readinto(data)
        return bytes(data) if length == size else bytes(data[:length])

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer with the next bytes of the pickle; return how many there were."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < view.nbytes and self._more():
            got = _readinto(self._file, view[done : done + self._left])
            done, self._left = done + got, self._left - got
        return done

    def readline(self) -> bytes:
        """Return the next line of the pickle; in protocol 5 only names of old opcodes are lines."""
        line = bytearray()
        while not line.endswith(b"\n") and self._more():
            part = self._file.readline(self._left)
            if not part:
                raise EOFError("the file of a pickled value is cut short")
            line += part
            self._left -= len(part)
        return bytes(line)

    def buffers(self) -> Iterator[mmap.mmap | bytearray]:
        """Yield the separate buffers, in order."""
        while True:
            if not self._apart:
                raise pickle.UnpicklingError("a buffer of a pickled value is missing")
            yield self._apart.popleft()

    def _more(self) -> bool:
        """Go to the next piece of the pickle; return whether there is one. Reads the buffers that come before it."""
        while not self._left:
            header = self._file.read(HEADER_BYTES)
            if not header:
                return False
            if len(header) < HEADER_BYTES:
                raise EOFError("the file of a pickled value is cut short")
            kind, length = _HEADER.unpack(header)
            if kind == _BUFFER:
                memory = _allocated(length)
                _readinto(self._file, memoryview(memory))
                self._apart.append(memory)
            elif kind == _PICKLE:
                self._left = length
            else:
                raise pickle.UnpicklingError("this is no file of pickled values")
        return True


def _readinto(file: BinaryIO, view: memoryview) -> int:
    """Fill all of a view. Raises EOFError."""
    done = 0
    while done < view.nbytes:
        got = file.readinto(view[done:])  # type: ignore[attr-defined]  # every binary file that is used here has it
        if not got:
            raise EOFError("the file of a pickled value is cut short")
        done += got
    return done


def _allocated(size: int) -> mmap.mmap | bytearray:
    """Return new memory of this process. Raises MemoryError."""
    private = getattr(mmap, "MAP_PRIVATE", None)
    if private is None:  # not on Windows
        return bytearray(size)
    try:
        memory = mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryError(f"no {size} bytes for a value that is loaded") from error
    if size >= HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
