"""Finds the shape of an unknown interpreter version by searching its memory for known values.

An offset is accepted if every object that was made for the search has its value at this offset, and at no other one.
The search assumes facts that hold from 3.13 to 3.15: a thread points to its frame, the frame of a generator is inside
the generator, a frame has its caller's address. If this is not so, the search fails, and there is no shape.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from flyte_notebook.worker.stacks.layout import OF_GENERATOR, OF_THREAD, UNTAGGED, Shape, UnknownLayoutError
from flyte_notebook.worker.values.known_values import Planted, first_instruction, own_memory, peek, thread_state

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator
    from types import FrameType

    from flyte_notebook.worker.values.known_values import Fact

SEARCHED_BYTES: Final = 512
FRAME_BYTES: Final = 128
INTERPRETER_BYTES: Final = 1 << 15
"""How much of each structure is searched; the interpreter's is larger, but its threads are near its beginning."""
OBJECT_HEAD_BYTES: Final = 16
MOST_FRAMES: Final = 10_000
GONE_BOUND_S: Final = 1.0
"""How long the kernel may still list a thread that ended."""
_Q: Final = struct.Struct("<Q")
_T = TypeVar("_T")


def searched() -> Shape:
    """Return the shape of this process's structures, every offset found. Raises `UnknownLayoutError` and OSError."""
    planted, thread = Planted(), thread_state()
    with own_memory() as memory:
        thread_frame, generator_frame = _running_generator(memory, thread)
        facts = (*planted.object_facts(), *planted.frame_facts(generator_frame))
        candidates: dict[str, set[int]] = {}
        for fact in facts:
            places = _places(memory, fact)
            candidates[fact.field] = candidates.get(fact.field, places) & places
        owners = candidates.pop("frame_owner")
        found: dict[str, Any] = {field: _sole(field, places) for field, places in candidates.items()}
        found |= {"thread_frame": thread_frame, "generator_frame": generator_frame}
        found["code_instructions"] = first_instruction()
        found["frame_previous"] = _caller(memory, thread, thread_frame)
        found |= _owners(memory, thread, owners, found)
        found |= _states(memory, generator_frame)
        found |= _stack(memory, generator_frame, found["frame_locals"])
        found |= _threads(memory)
    return Shape(**found, thread_inner=None, thread_base=None, frame_entry=None)


def _sole(field: str, found: set[_T]) -> _T:
    if len(found) != 1:
        raise UnknownLayoutError(
            f"the structures of Python 3.{sys.version_info.minor} are not known: {field} is at {len(found)} places"
        )
    return found.pop()


def _words(data: bytes) -> dict[int, int]:
    """Return the eight-byte numbers by their offset."""
    return {8 * index: word for index, (word,) in enumerate(_Q.iter_unpack(data[: len(data) & -8]))}


def _places(memory: int, fact: Fact) -> set[int]:
    """Return every offset at which a fact holds."""
    data = peek(memory, SEARCHED_BYTES, fact.address)
    step = fact.width if fact.width in {1, 4} else 8
    return {at for at in range(0, len(data), step) if fact.holds(data[at : at + fact.width])}


def _running_generator(memory: int, thread: int) -> tuple[int, int]:
    """Return the offsets of the frame in a thread and in a generator: the thread points there only while it runs.

    The handled exception (``exc_info``) points into a generator as well, but still does so during a call.
    """

    def snapshot() -> bytes:
        return os.pread(memory, SEARCHED_BYTES, thread)

    def run() -> Generator[bytes, None, None]:
        yield os.pread(memory, SEARCHED_BYTES, thread)
        yield snapshot()

    generator = run()
    inside = range(id(generator), id(generator) + sys.getsizeof(generator))
    own, called = ({at: word for at, word in _words(data).items() if word in inside} for data in generator)
    thread_frame = _sole("thread_frame", set(own) - set(called))
    return thread_frame, own[thread_frame] - id(generator)


def _caller(memory: int, thread: int, thread_frame: int) -> int:
    """Return the offset of the caller's address in a frame."""

    def callee() -> bytes:
        (own,) = _Q.unpack(os.pread(memory, 8, thread + thread_frame))
        return os.pread(memory, FRAME_BYTES, own)

    def caller() -> tuple[int, bytes]:
        (own,) = _Q.unpack(os.pread(memory, 8, thread + thread_frame))
        return own, callee()

    own, data = caller()
    return _sole("frame_previous", {at for at, word in _words(data).items() if word == own})


def _owners(memory: int, thread: int, places: set[int], found: dict[str, int]) -> dict[str, Any]:
    """Return the offset of a frame's owner, and the owner values of frames for C code between two Python frames.

    Every frame that Python reports belongs to a thread or a generator, and all other frames do not.
    """
    frames = next(map(_own_frames, [memory], [thread], [found]))  # called by C code
    owned = ([OF_THREAD], [OF_GENERATOR])
    fits = {at for at in places if all(real == (list(data[at : at + 1]) in owned) for data, real in frames)}
    owner = _sole("frame_owner", fits)
    others = {data[owner] for data, real in frames if not real}
    return {"frame_owner": owner, "entry_owners": tuple(sorted(others))}


def _own_frames(memory: int, thread: int, found: dict[str, int]) -> list[tuple[bytes, bool]]:
    """Return the frames of this thread's stack, each with whether Python reports it."""
    frames: list[tuple[bytes, bool]] = []
    expected: FrameType | None = sys._getframe()  # noqa: SLF001 - a function with a public use
    (address,) = _Q.unpack(os.pread(memory, 8, thread + found["thread_frame"]))
    while address and len(frames) < MOST_FRAMES:
        data = os.pread(memory, FRAME_BYTES, address)  # the last one may be at the end of the mapped memory
        code = _Q.unpack_from(data, found["frame_code"])[0] & UNTAGGED
        real = expected is not None and id(expected.f_code) == code
        if real or not _is_made_up(memory, code, found):
            frames.append((data, real))
        expected = expected.f_back if expected is not None and real else expected
        (address,) = _Q.unpack_from(data, found["frame_previous"])
    if expected is not None:
        raise UnknownLayoutError("the frames of this process do not lead to its callers")
    return frames


def _is_made_up(memory: int, code: int, found: dict[str, int]) -> bool:
    """Whether the interpreter put this code between an ``__init__`` and its caller: file and name are one text."""
    made_up = _Q.pack(id(sys.intern("__init__")))
    return all(peek(memory, 8, code + found[field]) == made_up for field in ("code_name", "code_filename"))


def _states(memory: int, generator_frame: int) -> dict[str, Any]:
    """Return the offset of a generator's state, and the states that mean that it waits."""

    def state(generator: object) -> bytes:
        return os.pread(memory, generator_frame, id(generator))

    def run(itself: list[Any]) -> Generator[bytes, None, None]:
        yield state(itself[0])

    samples = []
    for function in (_narrow, _wide):
        itself: list[Any] = []
        generator = run(itself)
        itself.append(generator)
        begun, running, yielded = state(generator), next(generator), state(generator)
        generator.close()
        with _waiting(function) as (outer, _):
            samples.append((yielded, state(outer), begun, running, state(generator)))
    fits = {}
    for at in range(OBJECT_HEAD_BYTES, generator_frame):
        seen = {tuple(data[at] for data in sample) for sample in samples}
        waits, others = seen.copy().pop()[:2], seen.copy().pop()[2:]
        if len(seen) == 1 and len(set(others)) == len(others) and not set(waits) & set(others):
            fits[at] = tuple(sorted(set(waits)))
    place = _sole("generator_state", set(fits))
    return {"generator_state": place, "suspended": fits[place]}


class _Signal:
    """Waits for its coroutine to be resumed."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def _awaited() -> None:
    await _Signal()


async def _narrow(take: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await take()


async def _wide(take: Callable[[], Coroutine[Any, Any, None]]) -> None:
    one, two, three = range(3)
    await take()
    assert one + two < three + 1


@contextmanager
def _waiting(function: Callable[..., Coroutine[Any, Any, None]]) -> Iterator[tuple[Any, Any]]:
    """Yield a waiting coroutine and the awaited one, which is on its stack and in no variable."""
    inner = _awaited()
    outer = function(iter([inner]).__next__)
    outer.send(None)
    try:
        yield outer, inner
    finally:
        outer.close()


def _stack(memory: int, generator_frame: int, frame_locals: int) -> dict[str, Any]:
    """Return the offset of a frame's stack height, how it is stored, and how far below the awaited object is."""
    fits: set[tuple[int, bool, int]] | None = None
    for function in (_narrow, _wide):
        with _waiting(function) as (outer, inner):
            address = id(outer) + generator_frame
            data = os.pread(memory, sys.getsizeof(outer) - generator_frame, address)
            words = _words(data)
            on_it = {at for at, word in words.items() if at >= frame_locals and word & UNTAGGED == id(inner)}
            here: set[tuple[int, bool, int]] = set()
            for depth in (1, 2):
                top = _sole("what is awaited", on_it.copy()) + 8 * depth
                here |= {(at, False, depth) for at, word in words.items() if word == address + top}
                count = struct.pack("<i", (top - frame_locals) // 8)
                here |= {(at, True, depth) for at in range(0, frame_locals, 4) if data[at : at + 4] == count}
            fits = here if fits is None else fits & here
    place, counted, depth = _sole("frame_stack_top", fits or set())
    return {"frame_stack_top": place, "stack_counted": counted, "awaited_depth": depth}


def _threads(memory: int) -> dict[str, int]:
    """Return the offsets of the newest thread and of each thread's predecessor, found while a thread waits."""
    get = ctypes.pythonapi.PyInterpreterState_Get
    get.restype = ctypes.c_void_p
    interpreter = get()
    states: list[int] = []
    up, down = threading.Event(), threading.Event()

    def stand() -> None:
        states.append(thread_state())
        up.set()
        down.wait()

    before = _words(os.pread(memory, INTERPRETER_BYTES, interpreter))
    thread = threading.Thread(target=stand, daemon=True)
    thread.start()
    up.wait()
    during = _words(os.pread(memory, INTERPRETER_BYTES, interpreter))
    own = _words(peek(memory, SEARCHED_BYTES, states[0]))
    down.set()
    thread.join()
    until_s = time.monotonic() + GONE_BOUND_S
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < until_s:
        time.sleep(0.0005)  # the next fork must happen in a process with one thread
    fits = {
        (at, offset)
        for at, word in during.items()
        if word == states[0]
        for offset, other in own.items()
        if other and other == before.get(at)
    }
    threads, following = _sole("interpreter_threads", fits)
    return {"interpreter_threads": threads, "thread_next": following}
