"""Where CPython keeps its threads, frames and code in memory: private to each minor version, so it is tried out once.

The structures are those of CPython's ``Include/internal/pycore_{interp,frame,code}.h`` on machines with 64-bit
pointers. What differs from process to process (the address of the interpreter's state, those of a few types) is found
in the process itself, which then reads one stack of its own as another process would. Only when that is right the
layout counts as known.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig
import threading
import types
from dataclasses import asdict, dataclass
from typing import Any, Final

THREAD_BYTES: Final = 4096
"""Of glibc's and musl's description of a thread, in which the thread's number is looked for."""
DEBUG_COOKIE: Final = b"xdebugpy"
DEBUG_THREADS_HEAD: Final = 72
"""Where 3.13's ``_Py_DebugOffsets``, at the start of ``_PyRuntime``, says at which offset the threads are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Offsets in bytes. ``current`` leads from a thread to its frame; through another structure if ``inner`` is set.

    ``instruction`` is an address since 3.11, before it a number of instructions. Before 3.11 a coroutine points to its
    frame, which holds its state and points to its stack; since then all of them are one piece.
    """

    threads_head: int
    thread_id: int
    native_id: int | None
    current: int
    inner: int | None
    frame_bytes: int
    frame_code: int
    frame_previous: int
    frame_instruction: int
    frame_owner: int | None
    code_bytes: int
    code_filename: int
    code_name: int
    code_linetable: int
    code_first_line: int
    code_flags: int
    code_instructions: int | None
    ascii_bytes: int
    compact_bytes: int
    coroutine_frame: int
    coroutine_state: int
    stack_top: int
    stack: int
    thread_next: int = 8
    text_length: int = 16
    text_state: int = 32
    bytes_size: int = 16
    bytes_value: int = 32


SHAPES: Final = {
    10: Shape(
        threads_head=8,
        thread_id=176,
        native_id=None,
        current=24,
        inner=None,
        frame_bytes=100,
        frame_code=32,
        frame_previous=24,
        frame_instruction=96,
        frame_owner=None,
        code_bytes=176,
        code_filename=104,
        code_name=112,
        code_linetable=120,
        code_first_line=40,
        code_flags=36,
        code_instructions=None,
        ascii_bytes=48,
        compact_bytes=72,
        coroutine_frame=16,
        coroutine_state=108,
        stack_top=80,
        stack=64,
    ),
    11: Shape(
        threads_head=16,
        thread_id=152,
        native_id=160,
        current=56,
        inner=8,
        frame_bytes=72,
        frame_code=32,
        frame_previous=48,
        frame_instruction=56,
        frame_owner=69,
        code_bytes=184,
        code_filename=112,
        code_name=120,
        code_linetable=136,
        code_first_line=72,
        code_flags=48,
        code_instructions=184,
        ascii_bytes=48,
        compact_bytes=72,
        coroutine_frame=80,
        coroutine_state=75,
        stack_top=64,
        stack=72,
    ),
    12: Shape(
        threads_head=72,
        thread_id=136,
        native_id=144,
        current=56,
        inner=0,
        frame_bytes=72,
        frame_code=0,
        frame_previous=8,
        frame_instruction=56,
        frame_owner=70,
        code_bytes=192,
        code_filename=112,
        code_name=120,
        code_linetable=136,
        code_first_line=68,
        code_flags=48,
        code_instructions=192,
        ascii_bytes=40,
        compact_bytes=56,
        coroutine_frame=72,
        coroutine_state=67,
        stack_top=64,
        stack=72,
    ),
    13: Shape(
        threads_head=0,  # the interpreter says it itself: DEBUG_THREADS_HEAD
        thread_id=152,
        native_id=160,
        current=72,
        inner=None,
        frame_bytes=72,
        frame_code=0,
        frame_previous=8,
        frame_instruction=56,
        frame_owner=70,
        code_bytes=200,
        code_filename=112,
        code_name=120,
        code_linetable=136,
        code_first_line=68,
        code_flags=48,
        code_instructions=200,
        ascii_bytes=40,
        compact_bytes=56,
        coroutine_frame=72,
        coroutine_state=67,
        stack_top=64,
        stack=72,
    ),
}
"""By the minor version of Python 3."""


_awaited = ctypes.c_uint64(0)


def runs(coroutine: object) -> None:
    """Say which coroutine runs the task, so that where it waits can be read while no thread is in it; ``None`` after.

    No context manager: the library's way of making one sets the traceback of what was raised, and not all can be set.
    """
    _awaited.value = 0 if coroutine is None else id(coroutine)


class UnknownLayoutError(Exception):
    """The stacks of this interpreter cannot be read from outside; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is needed to read the stacks of one process: addresses, and which `Shape` its structures have.

    ``native_id`` is the offset of the kernel's number of a thread in the C library's description of it, where the
    interpreter does not keep that number itself. At ``awaited`` stands the address of the coroutine that runs the task,
    0 when there is none.
    """

    minor: int
    threads: int
    code_type: int
    text_type: int
    bytes_type: int
    coroutine_type: int = 0
    awaited: int = 0
    native_id: int = 0

    @property
    def shape(self) -> Shape:
        """The offsets."""
        return SHAPES[self.minor]

    def to_dict(self) -> dict[str, int]:
        """Return plain numbers for a message."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Layout:
        """Return what `to_dict` gave. Raises ValueError for what cannot be one."""
        try:
            layout = cls(**{name: int(value) for name, value in fields.items()})
        except TypeError as error:
            raise ValueError(f"not a layout: {fields}") from error
        if layout.minor not in SHAPES:
            raise ValueError(f"the structures of Python 3.{layout.minor} are not known")
        return layout


def find() -> Layout:
    """Return the layout of this process. Raises `UnknownLayoutError`."""
    if sys.platform != "linux" or sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:  # noqa: PLR2004 - bytes of a pointer
        raise UnknownLayoutError("stacks are read on Linux, from 64-bit CPython only")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise UnknownLayoutError("the structures of a free-threaded interpreter are not known")
    shape = SHAPES.get(sys.version_info.minor)
    if shape is None:
        raise UnknownLayoutError(f"the structures of Python 3.{sys.version_info.minor} are not known")
    get = ctypes.pythonapi.PyInterpreterState_Get
    get.restype = ctypes.c_void_p
    return Layout(
        minor=sys.version_info.minor,
        threads=get() + (shape.threads_head or _threads_head()),
        code_type=id(types.CodeType),
        text_type=id(str),
        bytes_type=id(bytes),
        coroutine_type=id(types.CoroutineType),
        awaited=ctypes.addressof(_awaited),
        native_id=0 if shape.native_id is not None else _native_id(),
    )


def _threads_head() -> int:
    """Return the offset that the interpreter itself publishes for debuggers."""
    try:
        start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    except ValueError as error:
        raise UnknownLayoutError("the interpreter does not say where its state is") from error
    head = ctypes.string_at(start, DEBUG_THREADS_HEAD + 8)
    if not head.startswith(DEBUG_COOKIE):
        raise UnknownLayoutError("the interpreter does not say how its state is laid out")
    offset: int = struct.unpack_from("<Q", head, DEBUG_THREADS_HEAD)[0]
    return offset


def _native_id() -> int:
    """Return the offset of this thread's number in what its ``pthread_t`` points to, which is mapped for certain."""
    wanted = struct.pack("<i", threading.get_native_id())
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.pread(memory, THREAD_BYTES, threading.get_ident())
    except (OSError, OverflowError):
        found = b""
    finally:
        os.close(memory)
    for offset in range(0, len(found) - 3, 4):
        if found[offset : offset + 4] == wanted:
            return offset
    raise UnknownLayoutError("the C library does not show the numbers of its threads")
