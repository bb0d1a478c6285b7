"""Reads the Python stacks of another process from its memory while it runs: without signals, stopping or injected code.

The process opens its own ``/proc/self/mem`` and hands the descriptor over (the kernel checks the right to read when it
is opened, so this works for any user under any setting of ptrace), with a `Layout`. The memory changes while it is
read: every pointer is checked by the type of its target, every length is bounded, and a stack has to end in the right
place. Each stack is read twice, the second time from the outermost frame on. Both readings have to agree, each caller
at exactly its call, and the thread has to be in the same frame before, between and after. If they do not agree, the
stack is read again; at last only the outer frames that two readings share are returned, or none.

So an answer is right or missing, except when memory changes and changes back between readings. Measured with a program
that only calls, returns and runs generators (``tests/worker/test_pystack.py``), reader and program on one processor
each: 0 to 2 of 20,000 stacks were read wrong on each of 3.11 to 3.15, at most 26 if the program is nearly always in its
generators. On 3.11 7 to 9% were not read at all, since 3.12 less than 0.1%; half of the others had their innermost
line, half only outer lines. Unreadable memory never causes an exception outside of this module.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from flyte_notebook.core.userfiles import is_user_file
from flyte_notebook.worker.stacks.layout import OF_GENERATOR, UNTAGGED, WIDTHS
from flyte_notebook.worker.stacks.linetable import line_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.worker.stacks.layout import Layout

TRIES: Final = 48
WALKS: Final = 12
"""How often a stack is read again; and after how many complete readings that do not agree it is given up."""
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
_NOT_BEGUN: Final = -2
"""The position in 3.11 and 3.12 of a frame that has executed nothing yet: before the first instruction."""
_MADE_UP: Final = "__init__"
"""File and name of the code that since 3.12 is between an ``__init__`` and its caller."""
_Q: Final = struct.Struct("<Q")
_I: Final = struct.Struct("<i")


class _UnreadableError(Exception):
    """The read memory is no stack: it changed meanwhile, or there is none."""


class Place(NamedTuple):
    """A line of code that a thread is at."""

    file: str
    number: int
    function: str


class Thread(NamedTuple):
    """A thread that runs Python: its number in the kernel, and the address of its state."""

    native_id: int
    address: int


class _Frame(NamedTuple):
    """``code`` may be a tagged pointer; it is no code where the owner says that the frame is for C code.

    ``top`` is the height of its stack when it called another frame. A number is negative while the frame runs.
    """

    address: int
    code: int
    previous: int
    instruction: int
    top: int
    owner: int


class _Walk(NamedTuple):
    """The frames of a thread, the innermost first, and the reads for them: address, size, number of the first frame."""

    head: int
    frames: list[_Frame]
    pieces: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    file: str
    name: str
    first_line: int
    table: bytes
    is_user: bool
    is_made_up: bool
    """Whether it has no source, because the interpreter added it."""


def _common(one: list[_Frame], other: list[_Frame]) -> list[_Frame]:
    """Return the outermost frames that are the same in both, but never a whole stack."""
    count = 0
    while count < min(len(one), len(other)) - 1 and one[-1 - count] == other[-1 - count]:
        count += 1
    return other[len(other) - count :]


class StackReader:
    """Reads the stacks of one process through its memory; owns the descriptor."""

    def __init__(self, memory: int, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._shape = layout.shape
        self._frame_bytes = layout.shape.frame_bytes
        self._fields = struct.Struct(layout.shape.frame_format)
        self._codes: dict[int, _Code] = {}
        self._used = threading.Lock()
        self._unwanted = False
        self.gone = False
        """Whether the process ended, or runs another program: then nothing more can be read."""

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the descriptor open during a read, in the one thread that reads."""
        try:
            with self._used:
                yield
        finally:
            self._close_if_wanted()

    def close(self) -> None:
        """Close the descriptor, now or at the end of the current read. Idempotent."""
        self._unwanted = True
        self._close_if_wanted()

    def _close_if_wanted(self) -> None:
        if self._unwanted and self._used.acquire(blocking=False):
            if self._memory >= 0:
                os.close(self._memory)
                self._memory = -1
            self._used.release()

    def forget(self) -> None:
        """Empty the cache of code: at the address of freed code there may be other code later."""
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
        """Return the innermost lines of a thread, limited in number, the innermost first. Never raises.

        Only those of the user's files when ``user``. If the innermost frames change too fast, only the outer ones that
        did not change. ``None`` when the stack cannot be read.
        """
        before: list[_Frame] = []
        outer: list[_Frame] = []
        walked = 0
        for _ in range(TRIES):
            try:
                walk = self._walk(thread, most, user=user)
                if self._head(thread) == walk.head and self._stands(walk) and self._head(thread) == walk.head:
                    return self._places(walk.frames, user=user)
                outer = _common(before, walk.frames)
                before = walk.frames
                walked += 1
                if walked == WALKS:
                    break
            except _UnreadableError:
                if self.gone:
                    return None
        try:
            return self._places(outer, user=user) or None
        except _UnreadableError:
            return None

    def stack_below(self, thread: Thread, frame: int) -> tuple[Place, ...] | None:
        """Return the lines of a frame and its callers, which do not change meanwhile: read once. Never raises."""
        try:
            return self._places(self._walk(thread, MOST_FRAMES, user=False, still=frame).frames, user=False)
        except _UnreadableError:
            return None

    def awaited(self, *, user: bool = True) -> tuple[Place, ...]:
        """Return the lines at which the task's coroutine and the awaited ones wait, the innermost first.

        Only those of the user's files when ``user``. Empty when it runs, when there is none, and when it cannot be
        read. Never raises.
        """
        for _ in range(TRIES):
            try:
                first, second = self._suspended(), self._suspended()
                if first == second:
                    return self._places(second, user=user)[:MOST_LINES]
            except _UnreadableError:
                if self.gone:
                    break
        return ()

    def _suspended(self) -> list[_Frame]:
        """Return the frames of the coroutines that wait for one another, from the innermost."""
        shape, size = self._shape, self._shape.generator_bytes
        frames: list[_Frame] = []
        coroutine = self._pointer(self._layout.awaited) if self._layout.awaited else 0
        while coroutine and len(frames) < MOST_COROUTINES:
            data, at = self._read(coroutine, size), shape.generator_frame
            if _Q.unpack_from(data, shape.object_type)[0] != self._layout.coroutine_type:
                break  # the last awaited object is no coroutine: a future, a task
            if data[shape.generator_state] not in shape.suspended:
                break
            frames.append(_Frame(coroutine + at, *self._fields.unpack_from(data, at)))
            values = coroutine + at + shape.frame_locals
            if shape.stack_counted:
                depth = _I.unpack_from(data, at + shape.frame_stack_top)[0]
            else:
                depth = (_Q.unpack_from(data, at + shape.frame_stack_top)[0] - values) // 8
            if not shape.awaited_depth <= depth <= MOST_VALUES:
                break
            coroutine = self._pointer(values + 8 * (depth - shape.awaited_depth)) & UNTAGGED
        return frames[::-1]

    def _stands(self, walk: _Walk) -> bool:
        """Read the frames of a walk again, the outermost first; return whether they did not change.

        A frame that called another one is at the call; only the running frame may be at another instruction, which is
        then used.
        """
        frames, until, unpack = walk.frames, len(walk.frames), self._fields.unpack_from
        for start, size, first in reversed(walk.pieces):
            window = self._read(start, size)
            for number in range(until - 1, first - 1, -1):
                frame = frames[number]
                again = _Frame(frame.address, *unpack(window, frame.address - start))
                if frame.address == walk.head:
                    frame = frame._replace(instruction=again.instruction, top=again.top)
                    frames[number] = again
                if again != frame:
                    return False
            until = first
        return True

    def _threads(self) -> list[Thread]:
        shape = self._shape
        found: list[Thread] = []
        address = self._pointer(self._layout.threads)
        size = max(shape.thread_next, shape.thread_native_id) + 8
        while address:
            if len(found) >= MOST_THREADS:
                raise _UnreadableError
            state = self._read(address, size)
            found.append(Thread(_Q.unpack_from(state, shape.thread_native_id)[0], address))
            address = _Q.unpack_from(state, shape.thread_next)[0]
        return found[::-1]

    def _head(self, thread: Thread) -> int:
        """Return the address of the frame that a thread is in; 0 when it runs no Python."""
        address = self._pointer(thread.address + self._shape.thread_frame)
        return address if self._shape.thread_inner is None else self._pointer(address + self._shape.thread_inner)

    def _walk(self, thread: Thread, most: int, *, user: bool, still: int | None = None) -> _Walk:
        """Return the frames from the innermost to the last one needed; starting with ``still`` if given."""
        shape, read, unpack, codes = self._shape, self._read, self._fields.unpack_from, self._codes
        entry_owners, entry = shape.entry_owners, shape.frame_entry
        frames: list[_Frame] = []
        pieces: list[tuple[int, int, int]] = []
        address = head = self._head(thread) if still is None else still
        start, last, window, called, wanted = 1, 0, b"", False, 0
        for _ in range(MOST_FRAMES if head else 0):
            # Frames are next to each other: one read of the page up to the innermost has most of them.
            if not start <= address <= last:
                start, last = address & -PAGE_BYTES, address
                window = read(start, address + self._frame_bytes - start)
                pieces.append((start, len(window), len(frames)))
            frame = _Frame(address, *unpack(window, address - start))
            frames.append(frame)
            if called and frame.top < 0:
                raise _UnreadableError  # it runs: the one that it called has returned
            called = False
            if frame.owner not in entry_owners:
                called = shape.stack_counted and (entry is None or not window[address - start + entry])
                wanted += not user or (codes.get(frame.code) or self._code(frame.code)).is_user
                if wanted >= most:
                    break
            address = frame.previous
            if not address:
                self._check_end(thread, frame)
                break
        return _Walk(head, frames, pieces)

    def _check_end(self, thread: Thread, last: _Frame) -> None:
        """Raise `_UnreadableError` unless a stack can end there: a generator that just yielded has no caller."""
        shape = self._shape
        base = None if shape.thread_base is None else self._pointer(thread.address + shape.thread_base)
        owned = last.owner in shape.entry_owners if shape.entry_owners else last.owner != OF_GENERATOR
        if not owned or base not in {None, last.address}:
            raise _UnreadableError

    def _places(self, frames: list[_Frame], *, user: bool) -> tuple[Place, ...]:
        """Return the lines of frames. Raises `_UnreadableError` if a frame is not at an instruction of its code."""
        shape, places = self._shape, []
        for frame in frames:
            if frame.owner in shape.entry_owners:
                continue
            code = self._code(frame.code)
            if code.is_made_up or (user and not code.is_user):
                continue
            at = frame.instruction - (frame.code & UNTAGGED) - shape.code_instructions
            number = line_of(code.table, code.first_line, max(0, at))
            if number is None or at < _NOT_BEGUN:
                raise _UnreadableError
            places.append(Place(code.file, number, code.name))
        return tuple(places)

    def _code(self, tagged: int) -> _Code:
        known = self._codes.get(tagged)
        if known is not None:
            return known
        address = tagged & UNTAGGED
        shape, layout = self._shape, self._layout
        head = self._read(address, shape.code_bytes)
        if _Q.unpack_from(head, shape.object_type)[0] != layout.code_type:
            raise _UnreadableError
        file = self._text(_Q.unpack_from(head, shape.code_filename)[0])
        name = self._text(_Q.unpack_from(head, shape.code_name)[0])
        is_made_up = file == name == _MADE_UP
        found = _Code(
            file=file,
            name=name,
            first_line=_I.unpack_from(head, shape.code_first_line)[0],
            table=self._bytes(_Q.unpack_from(head, shape.code_linetable)[0]),
            is_user=not is_made_up and is_user_file(file),
            is_made_up=is_made_up,
        )
        if len(self._codes) >= KEPT_CODES:
            self._codes.clear()
        self._codes[tagged] = found
        return found

    def _text(self, address: int) -> str:
        shape = self._shape
        head = self._read(address, shape.text_bytes)
        length = _Q.unpack_from(head, shape.text_length)[0]
        state = head[shape.text_state]
        width = (state >> _KIND_SHIFT) & _KIND_MASK
        if _Q.unpack_from(head, shape.object_type)[0] != self._layout.text_type or length > TEXT_CHARACTERS:
            raise _UnreadableError
        if not state & _COMPACT or width not in WIDTHS:
            raise _UnreadableError
        value = address + (shape.text_ascii if state & _ASCII else shape.text_compact)
        return self._read(value, length * width).decode(WIDTHS[width], "replace") if length else ""

    def _bytes(self, address: int) -> bytes:
        shape = self._shape
        head = self._read(address, shape.bytes_bytes)
        size = _Q.unpack_from(head, shape.bytes_size)[0]
        if _Q.unpack_from(head, shape.object_type)[0] != self._layout.bytes_type or size > TABLE_BYTES:
            raise _UnreadableError
        return self._read(address + shape.bytes_value, size) if size else b""

    def _pointer(self, address: int) -> int:
        pointer: int = _Q.unpack(self._read(address, 8))[0]
        return pointer

    def _read(self, address: int, size: int) -> bytes:
        """Return exactly that many bytes. Raises `_UnreadableError`."""
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
