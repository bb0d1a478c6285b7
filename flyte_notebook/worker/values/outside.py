"""Values that refer to something outside of the process, and how another process opens them again.

A file that is mapped into memory (`mmap.mmap`, ``numpy.memmap``, each array over one) is mapped again: pages are read
only when they are used, and changes are written to the file. The kernel tells which file is mapped at an address, from
which byte on, and whether it was removed since (``/proc/self/maps``). On other systems a ``numpy.memmap`` is copied.
For a private mapping (mode ``c``) the pages that differ from the file are sent along. Shared memory is attached by its
name.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import mmap
import os
import pickle
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from flyte_notebook.core.bound import open_file

COMPARED_BYTES = 1 << 20
_WHERE = "multiprocessing.shared_memory"
_GONE = " (deleted)"


class UnreachableError(pickle.PicklingError):
    """Something outside of the process cannot be reached from another one; the text says what, and what to do."""


class Mapped(NamedTuple):
    """A part of a file, and how it is mapped; ``access`` as in `mmap`."""

    path: str
    access: int
    offset: int
    length: int


def reduced(obj: Any) -> Any:
    """Return how an object is opened again elsewhere, in the form for a pickler; ``None`` for any other object.

    Raises `UnreachableError`.
    """
    kind = type(obj)
    if kind is mmap.mmap:
        where = _mapped(obj)
        return mapped_again, (where, obj.tell(), list(_differing(obj, where)))
    if kind.__module__ == _WHERE:
        return _of_shared_memory(obj)
    if said := connected(obj):
        raise UnreachableError(said)
    memory = _memory_of(obj)
    return None if memory is None else _array(obj, memory)


def is_outside(obj: Any) -> bool:
    """Whether an object refers to something outside, and needs almost no memory itself."""
    return type(obj) is mmap.mmap or type(obj).__module__ == _WHERE or _memory_of(obj) is not None


def is_shared(obj: Any) -> bool:
    """Whether changes to an object in another process are visible here: then no value has to be sent back."""
    if type(obj).__module__ == _WHERE:
        return True
    memory = obj if type(obj) is mmap.mmap else _memory_of(obj)
    try:
        return memory is not None and _mapped(memory).access != mmap.ACCESS_COPY
    except UnreachableError:
        return False


def content(obj: Any) -> str | None:
    """Return a digest of the outside data that an object refers to; ``None`` for any other object."""
    kind = type(obj)
    if kind is mmap.mmap:
        seen = memoryview(obj)
    elif kind.__module__ == _WHERE:
        if kind.__name__ != "SharedMemory":
            return repr(obj)
        seen = obj.buf
    elif _memory_of(obj) is not None:
        seen = memoryview(sys.modules["numpy"].ascontiguousarray(obj)).cast("B")
    else:
        return None
    shape = (getattr(obj, "shape", None), str(getattr(obj, "dtype", None)))
    with seen:
        return f"{kind.__name__} {shape} {hashlib.sha256(seen).hexdigest()}"


def mapped_again(where: Mapped, position: int, differing: list[tuple[int, bytes]]) -> mmap.mmap:
    """Map a part of a file as it was mapped elsewhere. Called while loading; raises OSError."""
    with open_file(where.path, "r+b" if where.access == mmap.ACCESS_WRITE else "rb") as file:
        memory = mmap.mmap(file.fileno(), where.length, access=where.access, offset=where.offset)
    for start, data in differing:
        memory[start : start + len(data)] = data
    memory.seek(position)
    return memory


def array_again(memory: mmap.mmap, layout: dict[str, Any], attributes: dict[str, Any], *, writeable: bool) -> Any:
    """Return an array over a mapping; a ``memmap`` where it has ``attributes``. Called while loading."""
    numpy = importlib.import_module("numpy")
    kind = numpy.memmap if attributes else numpy.ndarray
    array = numpy.ndarray.__new__(kind, buffer=memory, **layout)
    if not writeable:
        array.flags.writeable = False
    if attributes:
        vars(array).update(attributes, _mmap=memory)
    return array


def attached(kind: str, name: str) -> Any:
    """Attach to the shared memory of that name. Called while loading; raises FileNotFoundError.

    Before Python 3.13 a process that attaches to it also removes it at its end, unless the tracker is not notified.
    """
    shared = importlib.import_module(_WHERE)
    tracker: Any = importlib.import_module("multiprocessing.resource_tracker")
    before, tracker.register = tracker.register, lambda *_: None
    try:
        return getattr(shared, kind)(name=name)
    finally:
        tracker.register = before


def _array(array: Any, memory: mmap.mmap) -> Any:
    if array.dtype.hasobject:
        return None
    layout = {name: getattr(array, name) for name in ("shape", "dtype", "strides")}
    layout["offset"] = array.__array_interface__["data"][0] - _address(memory)
    names = ("offset", "filename", "mode") if type(array).__name__ == "memmap" else ()
    attributes = {name: getattr(array, name) for name in names}
    return functools.partial(array_again, writeable=bool(array.flags.writeable)), (memory, layout, attributes)


def _memory_of(obj: Any) -> mmap.mmap | None:
    """Return the file mapping that has the memory of an array, ``None`` for any other object."""
    kind = type(obj)
    if kind.__module__ != "numpy" or kind.__name__ not in {"ndarray", "memmap"} or not obj.size:
        return None
    base = obj
    while base is not None and type(base) is not mmap.mmap:
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    # Memory without a file is copied, as for any array: arrays loaded from a pickle are in such memory, too.
    return base if base is not None and _looked_up(base) is not None else None


def _mapped(memory: mmap.mmap) -> Mapped:
    """Return the mapped file and its mapped part. Raises `UnreachableError`."""
    found = _looked_up(memory)
    if found is None:
        raise UnreachableError("it is memory without a file, of this process alone; send bytes(...) of it")
    try:
        size_bytes = os.stat(found.path).st_size
    except OSError:
        path = found.path.removesuffix(_GONE)
        raise UnreachableError(f"its file {path} is gone, and no other process can map it; send a copy") from None
    if size_bytes < found.offset + found.length:
        mapped = f"{found.offset + found.length} are mapped"
        raise UnreachableError(f"its file {found.path} has {size_bytes} bytes now, and {mapped}")
    return found


def _looked_up(memory: mmap.mmap) -> Mapped | None:
    """Return the same, even if the file does not exist; ``None`` if the memory belongs to no file with a name."""
    address, length = _address(memory), len(memory)
    with contextlib.suppress(OSError), open_file("/proc/self/maps", "rb") as maps:
        for line in maps:
            span, flags, offset, _, inode, *path = line.rstrip(b"\n").split(None, 5)
            begin, end = (int(part, 16) for part in span.split(b"-"))
            if begin <= address < end:
                if not path or inode == b"0" or path[0].startswith((b"/memfd:", b"/dev/zero")):
                    return None
                access = mmap.ACCESS_READ if b"w" not in flags else mmap.ACCESS_WRITE
                name = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), path[0])
                return Mapped(
                    os.fsdecode(name),
                    access if b"s" in flags else mmap.ACCESS_COPY,
                    int(offset, 16) + address - begin,
                    length,
                )
    return None


def _differing(memory: mmap.mmap, where: Mapped) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of a private mapping that differ from its file."""
    if where.access != mmap.ACCESS_COPY:
        return
    with open_file(where.path, "rb") as file, memoryview(memory) as held:
        file.seek(where.offset)
        for start in range(0, where.length, COMPARED_BYTES):
            part = held[start : start + COMPARED_BYTES]
            there = file.read(len(part))
            if part == there:
                continue
            for page in range(0, len(part), mmap.PAGESIZE):
                ours = bytes(part[page : page + mmap.PAGESIZE])
                if ours != there[page : page + mmap.PAGESIZE]:
                    yield start + page, ours


class _Buffer(ctypes.Structure):
    """The fields of CPython's buffer protocol that are used here."""

    _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_byte * 256))


def _address(memory: mmap.mmap) -> int:
    """Return the address of a mapping. Raises `UnreachableError` when it is closed."""
    seen = _Buffer()
    try:
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(memory), ctypes.byref(seen), 0)
    except ValueError as error:
        raise UnreachableError(str(error)) from None
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(seen))
    return seen.address or 0


def _of_shared_memory(obj: Any) -> Any:
    kind = type(obj).__name__
    if kind not in {"SharedMemory", "ShareableList"}:
        return None
    name = obj.name if kind == "SharedMemory" else obj.shm.name
    try:
        attached("SharedMemory", name).close()
    except FileNotFoundError:
        raise UnreachableError(f"the shared memory {name} is gone") from None
    return attached, (kind, name)


def connected(connection: Any) -> str:
    """Return the message about an open database, "" for any other object; its file is known in its own thread only."""
    if type(connection).__module__ != "sqlite3" or type(connection).__name__ != "Connection":
        return ""
    path = ""
    with contextlib.suppress(Exception):
        path = next((row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main"), "")
    call = f"sqlite3.connect({path!r})" if path else "sqlite3.connect(...)"
    what = f"it is open on {path}" if path else "it is open in this process"
    return f"{what}; open it in the cell: {call}"
