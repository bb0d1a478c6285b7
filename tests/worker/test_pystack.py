"""Reading the Python stacks of another process: right or not at all, whatever that process does meanwhile."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
import random
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
from stack_programs import eventually, started

from flyte_notebook.core import userfiles
from flyte_notebook.worker.stacks import linetable, pystack, selfread, shapes
from flyte_notebook.worker.stacks.layout import Layout, Shape
from flyte_notebook.worker.stacks.pystack import Place, StackReader, Thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.linux

STANDS_STILL = """
import threading, time
def outer():
    inner(
        3,
    )
def inner(n):
    time.sleep(60)
class Umlaut:
    def größe(self):
        time.sleep(60)
threading.Thread(target=Umlaut().größe, daemon=True).start()
print("up", flush=True)
outer()
"""

RUNS = """
import sys
print("up", flush=True)
def a(n):
    return b(n) + 1
def b(n):
    return sum(c(n))
def c(n):
    for i in range(3):
        yield i * n
def d(n):
    return [a(i) for i in range(3)] if n else a(n)
def f():
    while True:
        d(1)
        exec("x = 1")
        (lambda: a(2))()
f()
"""


TORN = """
def four(n):
    return n
def many(n):
    yield n
    n += 1
    four(n)  # four
    yield n
def three(n):
    n += 1
    four(n)  # four
    n += 1
    n += sum(many(n))  # many
    four(n)  # four
    n += 1
    return n
def two(n):
    n += 1
    for item in many(n):  # many
        n += item
        n -= item
    three(n)  # three
    n += 1
    return n
def main():
    while True:
        n = 1
        n += 1
        four(n)  # four
        n += 1
        n += 1
        two(n)  # two
        n += 1
        three(n)  # three
        n += 1
        n += 1
        for item in many(n):  # many
            n = item
print("up", flush=True)
main()  # main
"""
"""Calls, returns and runs generators, and nothing else. Where a function is called, its name stands behind."""

MOST_WRONG = 0.005

CONSTRUCTS = """
import time
class Made:
    def __init__(self, number):
        if number == 40:
            print("up", flush=True)
            time.sleep(60)
for number in range(50):
    Made(number)
"""

NOT_BEGUN = """
import time
from flyte_notebook.worker.stacks import layout
async def outer():
    time.sleep(60)
coroutine = outer()
layout.runs(coroutine)
print("up", flush=True)
time.sleep(60)
"""

WAITS = """
import asyncio
from flyte_notebook.worker.stacks import layout
async def outer():
    await middle()
async def middle():
    async with asyncio.Lock():
        return await inner(1)
async def inner(n):
    print("up", flush=True)
    await asyncio.sleep(60)
async def main():
    task = outer()
    layout.runs(task)
    await task
asyncio.run(main())
"""


def test_the_stacks_of_another_process(tmp_path: Path) -> None:
    """File, line and function of each frame of each thread, a call over many lines and any name included."""
    with started(STANDS_STILL, tmp_path) as (reader, process, file):
        expected = [
            (Place(file, 9, "inner"), Place(file, 5, "outer"), Place(file, 15, "<module>")),
            (Place(file, 12, "größe"),),
        ]
        eventually(lambda: expected == [reader.stack(thread) for thread in reader.threads()])
        assert process.pid == reader.threads()[0].native_id
        assert process.pid != reader.threads()[1].native_id
        (innermost,) = reader.stack(reader.threads()[0], most=1) or ()
        assert expected[0][0] == innermost


def test_where_a_coroutine_waits(tmp_path: Path) -> None:
    """While no thread is in the user's code, the lines are those at which coroutines await one another."""
    with started(WAITS, tmp_path) as (reader, _, file):
        expected = (Place(file, 12, "inner"), Place(file, 9, "middle"), Place(file, 6, "outer"))
        eventually(lambda: expected == reader.awaited())


def test_every_read_of_a_running_process_is_right_or_none(tmp_path: Path) -> None:
    """While functions come and go, no stack is read that the program cannot have, and most can be read."""
    with started(RUNS, tmp_path) as (reader, _, file):
        # A comprehension is a function of its own before 3.12, and since then a part of the one that it stands in.
        comprehension = {"<listcomp>": {"d"}} if sys.version_info < (3, 12) else {}
        callers = {
            "a": {"d", "<lambda>", *comprehension},
            "b": {"a"},
            "c": {"b"},
            **comprehension,
            "d": {"f"},
            "<lambda>": {"f"},
            "f": {"<module>"},
        }
        # Where a call begins, the line is that of the definition.
        lines = {"a": {5, 6}, "b": {7, 8}, "c": {9, 10, 11}, "d": {12, 13}, "<listcomp>": {13}, "<lambda>": {18}}
        lines |= {"f": {15, 16, 17, 18}, "<module>": {19}}
        (main,) = reader.threads()
        eventually(lambda: len(reader.stack(main) or ()) > 1)
        known = 0
        for number in range(3_000):
            if number % 100 == 0:
                reader.forget()
            stack = reader.stack(main)
            if not stack:
                continue
            known += 1
            assert "<module>" == stack[-1].function
            for place in stack:
                assert file == place.file
                assert place.number in lines[place.function]
            for inner, outer in itertools.pairwise(stack):
                assert outer.function in callers[inner.function]
        assert known > 2_500


def test_what_only_calls_and_returns_is_hardly_ever_read_wrong(tmp_path: Path) -> None:
    """Each caller stands at the line that calls, but in one reading of 200, and most readings give an answer."""
    called = {number: line.rpartition("# ")[2] for number, line in enumerate(TORN.splitlines(), 2) if "  # " in line}
    with started(TORN, tmp_path) as (reader, _, file):
        (main,) = reader.threads()
        eventually(lambda: len(reader.stack(main) or ()) > 1)
        reads, answers, wrong = 20_000, 0, []
        for number in range(reads):
            if number % 100 == 0:
                reader.forget()
            stack = reader.stack(main)
            answers += bool(stack)
            if not stack:
                continue
            right = all(called.get(outer.number) == inner.function for inner, outer in itertools.pairwise(stack))
            if not right or "<module>" != stack[-1].function or any(file != place.file for place in stack):
                wrong.append(stack)
    assert len(wrong) <= MOST_WRONG * reads, wrong[:5]
    assert answers > reads / 2


def test_the_frame_that_makes_an_object_is_no_line(tmp_path: Path) -> None:
    """Between a constructor and its caller the interpreter may put code that no file has: it is left out."""
    with started(CONSTRUCTS, tmp_path) as (reader, _, file):
        expected = (Place(file, 8, "__init__"), Place(file, 10, "<module>"))
        (main,) = reader.threads()
        eventually(lambda: expected == reader.stack(main))


def fake_thread(reader: StackReader, frame: int) -> tuple[Thread, list[ctypes.c_uint64]]:
    """Return a thread that is in this frame, and what must live as long."""
    shape = reader._shape
    innermost = ctypes.c_uint64(frame)
    if shape.thread_inner is None:
        return Thread(1, ctypes.addressof(innermost) - shape.thread_frame), [innermost]
    leads = ctypes.c_uint64(ctypes.addressof(innermost) - shape.thread_inner)
    return Thread(1, ctypes.addressof(leads) - shape.thread_frame), [innermost, leads]


@pytest.fixture
def own() -> Iterator[StackReader]:
    """Read this very process."""
    reader = StackReader(os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC), selfread.known_layout())
    yield reader
    reader.close()


def test_a_generator_that_has_just_yielded_is_no_stack(own: StackReader) -> None:
    """Its frame leads to no caller any more: what a thread was in a moment ago is not all of where it is."""

    def counts() -> Iterator[int]:
        yield 1

    generator = counts()
    next(generator)
    thread, kept = fake_thread(own, id(generator) + own._shape.generator_frame)
    assert own.stack(thread, user=False) is None
    assert ("counts",) == tuple(place.function for place in own.stack(thread, user=False, most=1) or ())
    assert kept


THREAD, INNER, LAST, CALLER, CALLEE = 0x1000, 0x1800, 0x2000, 0x2100, 0x2200
"""Where a made-up memory has a thread, what leads to its frame, and three frames: the last stands for C code."""


class Memory:
    """A process of one thread, whose frames are written as they are wanted."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.data = bytearray(1 << 14)
        if shape.thread_inner is not None:
            self.put(THREAD + shape.thread_frame, INNER)
        if shape.thread_base is not None:
            self.put(THREAD + shape.thread_base, LAST)
        for frame, previous in ((CALLEE, CALLER), (CALLER, LAST), (LAST, 0)):
            self.put(frame + shape.frame_previous, previous)
            self.put(frame + shape.frame_stack_top, 3, 4)
        self.put(LAST + shape.frame_owner, shape.entry_owners[0] if shape.entry_owners else 0, 1)

    def put(self, address: int, value: int, size: int = 8) -> None:
        """Write a number."""
        self.data[address : address + size] = value.to_bytes(size, "little", signed=value < 0)

    def run(self, frame: int, code: int, instruction: int) -> bytes:
        """Have the thread run this code in that frame, and return the memory as it is then."""
        shape = self.shape
        if shape.stack_counted:
            self.put(frame + shape.frame_stack_top, -1, 4)
        self.put(frame + shape.frame_code, code)
        self.put(frame + shape.frame_instruction, instruction)
        self.put(THREAD + shape.thread_frame if shape.thread_inner is None else INNER + shape.thread_inner, frame)
        return bytes(self.data)

    def call(self, code: int, instruction: int) -> bytes:
        """Have the caller, which is at this instruction, call that code, and return the memory as it is then."""
        self.run(CALLER, 0x100, instruction)
        self.put(CALLER + self.shape.frame_stack_top, 3, 4)
        return self.run(CALLEE, code, 1)


class Moving(StackReader):
    """Reads memories, one after the other: the next one from the given number of readings on."""

    def __init__(self, shape: Shape, memories: list[bytes], changes: tuple[int, ...] = ()) -> None:
        none = dict.fromkeys(("threads", "code_type", "text_type", "bytes_type", "coroutine_type", "awaited"), 0)
        super().__init__(-1, Layout(shape=shape, **none))
        self.memories, self.changes, self.readings = memories, changes, 0

    def _read(self, address: int, size: int) -> bytes:
        memory = self.memories[sum(self.readings >= change for change in self.changes)]
        self.readings += 1
        return memory[address : address + size]

    def _code(self, tagged: int) -> Any:  # noqa: ARG002 - no code is made up
        return types.SimpleNamespace(is_user=True)

    def _places(self, frames: list[pystack._Frame], *, user: bool) -> Any:  # noqa: ARG002 - as above
        return tuple((frame.code, frame.instruction) for frame in frames if frame.address != LAST)


def test_whenever_a_thread_moves_on_its_stack_is_one_that_it_had() -> None:
    """It returns from one function, and calls another: at whatever reading each happens, no stack is made of two."""
    shape = shapes.found()
    memory = Memory(shape)
    memories = [memory.call(0x200, 10), memory.run(CALLER, 0x100, 20), memory.call(0x300, 30)]
    stacks = [((0x200, 1), (0x100, 10)), ((0x100, 20),), ((0x300, 1), (0x100, 30))]
    thread = Thread(1, THREAD)
    for one, stack in zip(memories, stacks, strict=True):
        assert stack == Moving(shape, [one]).stack(thread)
    for changes in itertools.combinations_with_replacement(range(60), 2):
        found = Moving(shape, memories, changes).stack(thread)
        assert found in stacks, (changes, found)


def test_what_moves_all_the_time_has_only_the_lines_around_it() -> None:
    """Where another function runs at each reading its caller is told, which stood still: it is at the call."""
    shape = shapes.found()
    memory = Memory(shape)
    leaves = [memory.call(code, 10) for code in range(0x200, 0x600)]
    assert Moving(shape, leaves, tuple(range(1, 1_000))).stack(Thread(1, THREAD)) == ((0x100, 10),)


def test_a_stack_that_ends_elsewhere_than_the_thread_says_is_none() -> None:
    """Where a thread says which frame is its last, a chain of frames has to lead there."""
    shape = dataclasses.replace(shapes.found(), thread_base=400)
    memory = Memory(shape)
    assert Moving(shape, [memory.call(0x200, 10)]).stack(Thread(1, THREAD)) is not None
    memory.put(THREAD + 400, CALLER)
    assert Moving(shape, [memory.call(0x200, 10)]).stack(Thread(1, THREAD)) is None


def test_a_caller_that_runs_has_no_callee() -> None:
    """Where a frame shows that it runs itself, the one that it called has returned, and no stack is made of both."""
    shape = shapes.found()
    memory = Memory(shape)
    memory.call(0x200, 10)
    memory.put(CALLER + shape.frame_stack_top, -1, 4)
    found = Moving(shape, [bytes(memory.data)]).stack(Thread(1, THREAD))
    assert shape.stack_counted is (found is None)


def test_a_stack_that_ends_in_python_is_none_where_c_code_calls_it() -> None:
    """Where C code has a frame of its own the last one is of that kind: what ends before that was torn."""
    shape = dataclasses.replace(shapes.found(), thread_base=None)
    memory = Memory(shape)
    memory.call(0x200, 10)
    memory.put(LAST + shape.frame_owner, 0, 1)
    found = Moving(shape, [bytes(memory.data)]).stack(Thread(1, THREAD))
    assert bool(shape.entry_owners) is (found is None)


def test_a_coroutine_waits_only_after_it_began(tmp_path: Path) -> None:
    """A coroutine that was made and not begun waits for nothing."""
    with started(NOT_BEGUN, tmp_path) as (reader, _, _file):
        assert reader._pointer(reader._layout.awaited)
        assert () == reader.awaited()


def test_a_process_that_is_gone_is_noticed(tmp_path: Path) -> None:
    """After the end of the process nothing is read, nothing raises, and the reader knows."""
    with started(STANDS_STILL, tmp_path) as (reader, process, _):
        threads = reader.threads()
        process.kill()
        process.wait()
        assert [] == reader.threads()
        assert reader.gone
        assert reader.stack(threads[0]) is None


def test_whatever_the_memory_holds_nothing_raises(tmp_path: Path) -> None:
    """Garbage in place of a process's memory gives no stack, and no error either."""
    shape = shapes.found()
    chance = random.Random(7)  # noqa: S311 - the same garbage each time
    for _ in range(100):
        size = 1 << 16
        words = [chance.choice((chance.randrange(4096, size), chance.getrandbits(64))) for _ in range(size // 8)]
        path = tmp_path / "memory"
        path.write_bytes(b"".join(word.to_bytes(8, "little") for word in words))
        anything = Layout(
            shape=shape,
            threads=chance.randrange(4096, size),
            code_type=chance.choice(words),
            text_type=chance.choice(words),
            bytes_type=chance.choice(words),
            coroutine_type=chance.choice(words),
            awaited=chance.randrange(4096, size),
        )
        reader = StackReader(os.open(path, os.O_RDONLY), anything)
        try:
            assert isinstance(reader.threads(), list)
            assert isinstance(reader.awaited(), tuple)
            for _ in range(20):
                thread = Thread(1, chance.randrange(4096, size - shape.thread_frame))
                assert reader.stack(thread) in {None, ()}
        finally:
            reader.close()


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def test_the_table_of_lines_is_read_as_python_reads_it() -> None:
    """For every instruction of a few modules the line is the one that Python itself gives; behind the last is none."""
    for module in (subprocess, dataclasses, random):
        source = (module.__file__ or "").strip()
        with open(source, encoding="utf-8") as file:  # noqa: PTH123 - a path as a string
            code = compile(file.read(), source, "exec")
        for inner in _codes(code):
            table, first = inner.co_linetable, inner.co_firstlineno
            for start, end, line in inner.co_lines():
                if line is not None:
                    for offset in range(start, end, 2):
                        assert line == linetable.line_of(table, first, offset)
            assert linetable.line_of(table, first, len(inner.co_code)) is None


def test_code_before_all_lines_is_at_the_first() -> None:
    """What a function does before its first line, as an outer variable is brought in, counts to its definition."""

    def outer() -> Callable[[], int]:
        value = len(sys.argv)

        def inner() -> int:
            return value

        return inner

    code = outer().__code__
    assert next(iter(code.co_lines()))[2] is None
    assert code.co_firstlineno == linetable.line_of(code.co_linetable, code.co_firstlineno, 0)


def test_a_table_of_garbage_raises_nothing() -> None:
    """A table of anything, however it ends, raises nothing."""
    chance = random.Random(3)  # noqa: S311 - the same garbage each time
    for _ in range(2_000):
        table = chance.randbytes(chance.randrange(20))
        assert isinstance(linetable.line_of(table, 1, chance.randrange(-10, 1_000)), (int, types.NoneType))


@pytest.mark.parametrize(
    ("file", "is_user"),
    [
        ("Cell In[3]", True),
        ("<ipython-input-1-abc>", True),
        ("<cell>", True),
        ("/tmp/ipykernel_1/2.py", True),  # noqa: S108 - a name, not a file
        ("<string>", False),
        ("<frozen importlib._bootstrap>", False),
        (os.__file__, False),
        ("/opt/env/lib/python3.11/site-packages/numpy/core.py", False),
        (pystack.__file__, False),
        ("", False),
    ],
)
def test_whose_file_it_is(file: str, is_user: bool) -> None:  # noqa: FBT001 - a column of the table
    """Cells and files of the user's are; what is installed, the standard library, ours and generated code are not."""
    assert is_user is userfiles.is_user_file(file)
