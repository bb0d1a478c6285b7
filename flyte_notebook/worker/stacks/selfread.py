"""Finds the layout of this process and tries it out by reading its own stacks as another process would.

The result has to agree with Python's own report: for this thread, through a generator, through C code, a constructor
and names of every kind of text; and for a coroutine that awaits another one, before, while and after it waits. Only
then is the layout used.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.worker.stacks import layout as layouts
from flyte_notebook.worker.stacks import shapes
from flyte_notebook.worker.stacks.layout import Layout, UnknownLayoutError
from flyte_notebook.worker.stacks.pystack import Place, StackReader
from flyte_notebook.worker.values.known_values import own_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator
    from types import FrameType

    from flyte_notebook.worker.stacks.layout import Shape

NAMES: Final = ("größe", "名前", "\U0001f40d")
CONSTRUCTED: Final = 10
"""After this many calls the interpreter calls a constructor in its fast way, which adds a frame in between."""


def known_layout() -> Layout:
    """Return the layout of this process, found and tried out. Raises `UnknownLayoutError`, and nothing else."""
    if sys.platform != "linux" or sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:  # noqa: PLR2004 - bytes of a pointer
        raise UnknownLayoutError("stacks are read on Linux, from 64-bit CPython only")
    if "t" in sys.abiflags:
        raise UnknownLayoutError("stacks of a free-threaded Python cannot be read: its frames change under the reader")
    try:
        layout = _found()
        with own_memory() as memory:
            wrong = _wrong(memory, StackReader(memory, layout), layout.shape)
    except UnknownLayoutError:
        raise
    except Exception as error:  # any error that an unknown interpreter causes
        raise UnknownLayoutError(f"the memory of this process cannot be read: {error!r}") from error
    if wrong:
        raise UnknownLayoutError(f"the {wrong} of this process were read wrong")
    return layout


def _found() -> Layout:
    shape = shapes.found()
    get = ctypes.pythonapi.PyInterpreterState_Get
    get.restype = ctypes.c_void_p
    return Layout(
        shape=shape,
        threads=get() + shape.interpreter_threads,
        code_type=id(types.CodeType),
        text_type=id(str),
        bytes_type=id(bytes),
        coroutine_type=id(types.CoroutineType),
        awaited=layouts.awaited_address(),
    )


def _wrong(memory: int, reader: StackReader, shape: Shape) -> str:
    """Return the things that the reader reads wrong in this process; none when all is right."""
    if not _reads_stacks(memory, reader, shape):
        return "stacks"
    return "" if _reads_coroutines(reader) else "coroutines"


def _reads_stacks(memory: int, reader: StackReader, shape: Shape) -> bool:
    """Whether the reader finds the stack that Python reports, and no thread that is unknown to the kernel."""
    threads = {thread.native_id: thread for thread in reader.threads()}
    own = threads.get(threading.get_native_id())
    if own is None or not {str(number) for number in threads} <= set(os.listdir("/proc/self/task")):
        return False

    def right() -> bool:
        # No function call in between: the thread has to be in exactly this frame.
        place = own.address + shape.thread_frame
        if shape.thread_inner is not None:
            place = int.from_bytes(os.pread(memory, 8, place), sys.byteorder) + shape.thread_inner
        here = int.from_bytes(os.pread(memory, 8, place), sys.byteorder)
        return reader.stack_below(own, here) == _stack_of(sys._getframe())  # noqa: SLF001 - a function with a public use

    look = right
    for name in NAMES:
        look = functools.partial(types.FunctionType(_called.__code__.replace(co_name=name), globals()), look)
    return next(_yielded(look))


def _called(look: Callable[[], bool]) -> bool:
    return look()


def _yielded(look: Callable[[], bool]) -> Iterator[bool]:
    looked = False
    for turn in range(CONSTRUCTED):
        looked = _Constructed(look if turn == CONSTRUCTED - 1 else bool).looked
    yield looked


class _Constructed:
    """Reads the stack in its constructor."""

    def __init__(self, look: Callable[[], bool]) -> None:
        self.looked = look()


def _stack_of(frame: FrameType | None) -> tuple[Place, ...]:
    places = []
    while frame is not None:
        places.append(_place(frame))
        frame = frame.f_back
    return tuple(places)


def _place(frame: FrameType) -> Place:
    return Place(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)


def _reads_coroutines(reader: StackReader) -> bool:
    """Whether the reader finds where coroutines wait for one another, and nothing before, while running, and after."""
    seen: list[tuple[Place, ...]] = []

    def look() -> None:
        seen.append(reader.awaited(user=False))

    inner: Any = _waits(look)
    outer: Any = _waits_for(iter([inner]).__next__)
    layouts.runs(outer)
    try:
        look()
        outer.send(None)
        look()
        expected = (_place(inner.cr_frame), _place(outer.cr_frame))
        outer.close()
        look()
    finally:
        layouts.runs(None)
        outer.close()
    return [(), (), expected, ()] == seen


async def _waits(look: Callable[[], None]) -> None:
    await _Signal(look)


async def _waits_for(take: Callable[[], Coroutine[Any, Any, None]]) -> None:
    one, two = range(2)
    await take()
    assert one < two


class _Signal:
    """Reads the stack, and waits."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def __await__(self) -> Generator[None, None, None]:
        self._look()
        yield
