"""The Python stacks of another process, read from its memory while it runs: no signal, no stop, nothing to load there.

The process opens its own ``/proc/self/mem`` and hands the descriptor over (the kernel checks the right to read when it
is opened, so this works for any user under any setting of ptrace), with a `Layout`. What is read is on the move: every
pointer is checked by the type of what it leads to, every length is bounded, no stack may end in a frame that has a
caller, each is read twice, and what does not agree is read again. So an answer is right or there is none, but for what
changes to and fro between two readings: of a program that does nothing but call, none of 1.8 million stacks was read
wrong on 3.11 and 3.13, and 2 in 100,000 on 3.10. What cannot be read never raises out of here.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import struct
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from flyte_notebook.worker.layout import Layout, UnknownLayoutError, find
from flyte_notebook.worker.linetable import line_310, line_311
from flyte_notebook.worker.userfiles import is_user_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

TRIES: Final = 8
MOST_THREADS: Final = 200
MOST_FRAMES: Final = 2_000
MOST_LINES: Final = 50
MOST_COROUTINES: Final = 500
MOST_VALUES: Final = 10_000
TEXT_CHARACTERS: Final = 4_096
TABLE_BYTES: Final = 1 << 20
KEPT_CODES: Final = 2_000
PAGE_BYTES: Final = 4096
_HIGHEST: Final = 1 << 56
_ASCII, _COMPACT, _KIND_SHIFT, _KIND_MASK = 1 << 6, 1 << 5, 2, 7
_ON_C_STACK = 3
_SUSPENDED: Final = frozenset({255, 254})
"""-1, and -2 since 3.13: it waits for something."""
_RESUMED: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_WIDTHS: Final = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
_Q: Final = struct.Struct("<Q")
_I: Final = struct.Struct("<i")


class _UnreadableError(Exception):
    """What was read is no stack: it changed meanwhile, or there is none."""


class Place(NamedTuple):
    """A line of code that a thread is at."""

    file: str
    number: int
    function: str


class Thread(NamedTuple):
    """A thread that runs Python: the kernel's number of it, and where the stack can be read."""

    native_id: int
    address: int


class _Frame(NamedTuple):
    address: int
    code: int
    instruction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    file: str
    name: str
    first_line: int
    table: bytes
    is_user: bool
    is_resumed: bool
    """Whether it is that of a generator or a coroutine, which never stands at the bottom of a stack."""


class StackReader:
    """Reads the stacks of one process through its memory; owns the descriptor."""

    def __init__(self, memory: int, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._shape = layout.shape
        self._codes: dict[int, _Code] = {}
        self._used = threading.Lock()
        self._unwanted = False
        self.gone = False
        """Whether the process ended, or runs another program: then nothing more can be read."""

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the descriptor open meanwhile, in the one thread that reads."""
        try:
            with self._used:
                yield
        finally:
            self._close_if_wanted()

    def close(self) -> None:
        """Give the descriptor back, now or when nobody reads through it any more. Idempotent."""
        self._unwanted = True
        self._close_if_wanted()

    def _close_if_wanted(self) -> None:
        if self._unwanted and self._used.acquire(blocking=False):
            if self._memory >= 0:
                os.close(self._memory)
                self._memory = -1
            self._used.release()

    def forget(self) -> None:
        """Read code anew from now on: where some was freed, other code may come to lie."""
        self._codes.clear()

    def threads(self) -> list[Thread]:
        """Return the threads that run Python, the oldest first; empty when that cannot be read. Never raises."""
        for _ in range(TRIES):
            try:
                return self._threads()
            except _UnreadableError:
                if self.gone:
                    break
        return []

    def stack(self, thread: Thread, *, most: int = MOST_LINES, user: bool = True) -> tuple[Place, ...] | None:
        """Return the innermost lines that a thread is at, at most so many, the innermost first. Never raises.

        Only those of the user's files when ``user``. ``None`` when the stack cannot be read.
        """
        for _ in range(TRIES):
            try:
                first = self._walk(thread, most, user=user)
                second = self._walk(thread, most, user=user)
                if [frame[:2] for frame in first] == [frame[:2] for frame in second]:
                    return self._places(second, user=user)
            except _UnreadableError:
                if self.gone:
                    return None
        return self._outer(thread, most, user=user)

    def awaited(self) -> tuple[Place, ...]:
        """Return the user's lines at which the task's coroutine and those it awaits stand, the innermost first.

        Empty when it runs, when there is none, and when that cannot be read. Never raises.
        """
        for _ in range(TRIES):
            try:
                first, second = self._suspended(), self._suspended()
                if first == second:
                    return self._places(second, user=True)[:MOST_LINES]
            except _UnreadableError:
                if self.gone:
                    break
        return ()

    def _suspended(self) -> list[_Frame]:
        """Return the frames of the coroutines that wait for one another, from the innermost."""
        shape = self._shape
        frames: list[_Frame] = []
        coroutine = self._pointer(self._layout.awaited) if self._layout.awaited else 0
        while coroutine and len(frames) < MOST_COROUTINES:
            if self._pointer(coroutine + 8) != self._layout.coroutine_type:
                break  # what is awaited last is no coroutine: a future, a task
            place = coroutine + shape.coroutine_frame
            inline = shape.frame_owner is not None
            address = place if inline else self._pointer(place)
            state = self._read((coroutine if inline else address) + shape.coroutine_state, 1)
            if state[0] not in _SUSPENDED:
                break
            frames.append(self._frame(self._read(address, shape.frame_bytes), 0, address))
            depth = _I.unpack(self._read(address + shape.stack_top, 4))[0]
            values = address + shape.stack if inline else self._pointer(address + shape.stack)
            if not 0 < depth <= MOST_VALUES:
                break
            coroutine = self._pointer(values + 8 * (depth - 1))
        return frames[::-1]

    def _outer(self, thread: Thread, most: int, *, user: bool) -> tuple[Place, ...] | None:
        """Return the lines of the frames that stood still while others came and went above them."""
        try:
            first = self._walk(thread, MOST_FRAMES, user=user)
            second = self._walk(thread, MOST_FRAMES, user=user)
            same = 0
            for one, other in zip(reversed(first), reversed(second), strict=False):
                if one[:2] != other[:2]:
                    break
                same += 1
            return self._places(second[len(second) - same :], user=user)[:most] if same else None
        except _UnreadableError:
            return None

    def _threads(self) -> list[Thread]:
        shape = self._shape
        found: list[Thread] = []
        address = self._pointer(self._layout.threads)
        size = max(shape.thread_id, shape.native_id or 0) + 8
        while address:
            if len(found) >= MOST_THREADS:
                raise _UnreadableError
            state = self._read(address, size)
            if shape.native_id is not None:
                native_id: int = _Q.unpack_from(state, shape.native_id)[0]
            else:
                described = _Q.unpack_from(state, shape.thread_id)[0]
                native_id = _I.unpack(self._read(described + self._layout.native_id, 4))[0]
            found.append(Thread(native_id, address))
            address = _Q.unpack_from(state, shape.thread_next)[0]
        return found[::-1]

    def _walk(self, thread: Thread, most: int, *, user: bool) -> list[_Frame]:
        """Return the frames from the innermost to the last that is needed."""
        shape, wanted = self._shape, 0
        frames: list[_Frame] = []
        address = self._pointer(thread.address + shape.current)
        if shape.inner is not None:
            address = self._pointer(address + shape.inner)
        start, window = 0, b""
        while address and len(frames) < MOST_FRAMES:
            # Frames lie beside each other: one reading of the page up to the innermost serves most of them.
            if not (window and start <= address and address + shape.frame_bytes <= start + len(window)):
                start = address if shape.frame_owner is None else address & -PAGE_BYTES  # 3.10's are anywhere
                window = self._read(start, address + shape.frame_bytes - start)
            at = address - start
            if shape.frame_owner is None or window[at + shape.frame_owner] != _ON_C_STACK:
                frames.append(self._frame(window, at, address))
                wanted += not user or self._code(frames[-1].code).is_user
                if wanted >= most:
                    break
            address = _Q.unpack_from(window, at + shape.frame_previous)[0]
        if frames and not address and self._code(frames[-1].code).is_resumed:
            raise _UnreadableError  # it has yielded meanwhile, and leads to no caller any more
        return frames

    def _frame(self, window: bytes, at: int, address: int) -> _Frame:
        shape = self._shape
        code = _Q.unpack_from(window, at + shape.frame_code)[0]
        if shape.code_instructions is None:
            return _Frame(address, code, 2 * _I.unpack_from(window, at + shape.frame_instruction)[0])
        instruction = _Q.unpack_from(window, at + shape.frame_instruction)[0]
        return _Frame(address, code, instruction - code - shape.code_instructions)

    def _places(self, frames: list[_Frame], *, user: bool) -> tuple[Place, ...]:
        line_of = line_310 if self._layout.minor == 10 else line_311  # noqa: PLR2004 - Python 3.10
        places = []
        for frame in frames:
            code = self._code(frame.code)
            if user and not code.is_user:
                continue
            if frame.instruction < 0:
                continue  # it is just being made, and has executed nothing
            number = line_of(code.table, code.first_line, frame.instruction)
            places.append(Place(code.file, code.first_line if number is None else number, code.name))
        return tuple(places)

    def _code(self, address: int) -> _Code:
        known = self._codes.get(address)
        if known is not None:
            return known
        shape = self._shape
        head = self._read(address, shape.code_bytes)
        if _Q.unpack_from(head, 8)[0] != self._layout.code_type:
            raise _UnreadableError
        first_line = _I.unpack_from(head, shape.code_first_line)[0]
        file = self._text(_Q.unpack_from(head, shape.code_filename)[0])
        is_user = is_user_file(file)
        found = _Code(
            file=file,
            name=self._text(_Q.unpack_from(head, shape.code_name)[0]),
            first_line=first_line,
            table=self._bytes(_Q.unpack_from(head, shape.code_linetable)[0]),
            is_user=is_user,
            is_resumed=bool(_I.unpack_from(head, shape.code_flags)[0] & _RESUMED),
        )
        if len(self._codes) >= KEPT_CODES:
            self._codes.clear()
        self._codes[address] = found
        return found

    def _text(self, address: int) -> str:
        shape = self._shape
        head = self._read(address, shape.compact_bytes)
        length = _Q.unpack_from(head, shape.text_length)[0]
        state = head[shape.text_state]
        width = (state >> _KIND_SHIFT) & _KIND_MASK
        if _Q.unpack_from(head, 8)[0] != self._layout.text_type or length > TEXT_CHARACTERS:
            raise _UnreadableError
        if not state & _COMPACT or width not in _WIDTHS:
            raise _UnreadableError
        value = address + (shape.ascii_bytes if state & _ASCII else shape.compact_bytes)
        return self._read(value, length * width).decode(_WIDTHS[width], "replace") if length else ""

    def _bytes(self, address: int) -> bytes:
        shape = self._shape
        head = self._read(address, shape.bytes_value)
        size = _Q.unpack_from(head, shape.bytes_size)[0]
        if _Q.unpack_from(head, 8)[0] != self._layout.bytes_type or size > TABLE_BYTES:
            raise _UnreadableError
        return self._read(address + shape.bytes_value, size) if size else b""

    def _pointer(self, address: int) -> int:
        pointer: int = _Q.unpack(self._read(address, 8))[0]
        return pointer

    def _read(self, address: int, size: int) -> bytes:
        """Return exactly so many bytes. Raises `_UnreadableError`."""
        if not PAGE_BYTES <= address < _HIGHEST:
            raise _UnreadableError
        try:
            data = os.pread(self._memory, size, address)
        except OSError as error:
            raise _UnreadableError from error
        if len(data) != size:
            self.gone = self.gone or not data
            raise _UnreadableError
        return data


def known_layout() -> Layout:
    """Return the layout of this process, found and tried out. Raises `UnknownLayoutError`, and nothing else."""
    try:
        layout = find()
        reader = StackReader(os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC), layout)
    except (OSError, AttributeError) as error:
        raise UnknownLayoutError(f"the memory of this process cannot be read: {error}") from error
    try:
        if not _reads_itself(reader):
            raise UnknownLayoutError("the stack of this process was read wrong")
    finally:
        reader.close()
    return layout


def _reads_itself(reader: StackReader) -> bool:
    """Whether the reader finds the stack that Python itself reports, in this thread's place among the threads."""
    own = threading.get_native_id()
    for thread in reader.threads():
        if thread.native_id == own:
            read, expected = reader.stack(thread, most=MOST_FRAMES, user=False), _stack_of(sys._getframe())  # noqa: SLF001 - a function with a public use
            return read is not None and read[-len(expected) :] == expected
    return False


def _stack_of(frame: FrameType | None) -> tuple[Place, ...]:
    places = []
    while frame is not None:
        places.append(Place(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(places)
