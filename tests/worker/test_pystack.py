"""Reading the Python stacks of another process: right or not at all, whatever that process does meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import os
import random
import socket
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.worker import handover, layout, linetable, protocol, pystack, userfiles
from flyte_notebook.worker.layout import Layout, UnknownLayoutError
from flyte_notebook.worker.pystack import Place, StackReader, Thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.linux

HAND_OVER = "from flyte_notebook.worker import handover; handover.hand_over_fresh()\n"

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


WAITS = """
import asyncio
from flyte_notebook.worker import layout
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


@contextlib.contextmanager
def started(program: str, directory: Path) -> Iterator[tuple[StackReader, subprocess.Popen[bytes], str]]:
    """Start a program that hands its memory over; yield what reads it, the process, and its file."""
    file = directory / "program.py"
    file.write_text(HAND_OVER + program, encoding="utf-8")
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.ExitStack() as at_end:
        os.set_inheritable(theirs.fileno(), True)
        script = f"exec {protocol.STACK_FD}<&{theirs.fileno()}; exec {sys.executable} {file}"
        process = subprocess.Popen(
            ["bash", "-c", script], pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        theirs.close()
        try:
            messages = protocol.ControlReader(ours).read()
            (message, fds) = messages[0]
            reader, why = handover.received(message, fds)
            assert "" == why
            assert reader is not None
            at_end.callback(reader.close)
            assert process.stdout is not None
            assert b"up\n" == process.stdout.readline()
            yield reader, process, str(file)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def eventually(found: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 10
    while not found():
        assert time.monotonic() < until
        time.sleep(0.01)


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
        callers = {
            "a": {"<listcomp>", "d", "<lambda>"},
            "b": {"a"},
            "c": {"b"},
            "<listcomp>": {"d"},
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


def test_a_generator_that_has_just_yielded_is_no_stack() -> None:
    """Its frame leads to no caller any more: what a thread was in a moment ago is not all of where it is."""

    def counts() -> Iterator[int]:
        yield 1

    shape, generator = layout.SHAPES[sys.version_info.minor], counts()
    next(generator)
    frame = id(generator) + shape.coroutine_frame
    if shape.frame_owner is None:
        frame = ctypes.c_uint64.from_address(frame).value
    innermost = ctypes.c_uint64(frame)
    leads = ctypes.c_uint64(ctypes.addressof(innermost) - (shape.inner or 0))
    first = innermost if shape.inner is None else leads
    thread = Thread(1, ctypes.addressof(first) - shape.current)
    reader = StackReader(os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC), layout.find())
    try:
        assert reader.stack(thread, user=False) is None
        assert ("counts",) == tuple(place.function for place in reader.stack(thread, user=False, most=1) or ())
    finally:
        reader.close()


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
    shape = layout.SHAPES[sys.version_info.minor]
    chance = random.Random(7)  # noqa: S311 - the same garbage each time
    for _ in range(100):
        size = 1 << 16
        words = [chance.choice((chance.randrange(4096, size), chance.getrandbits(64))) for _ in range(size // 8)]
        path = tmp_path / "memory"
        path.write_bytes(b"".join(word.to_bytes(8, "little") for word in words))
        anything = Layout(
            minor=sys.version_info.minor,
            threads=chance.randrange(4096, size),
            code_type=chance.choice(words),
            text_type=chance.choice(words),
            bytes_type=chance.choice(words),
            native_id=8,
        )
        reader = StackReader(os.open(path, os.O_RDONLY), anything)
        try:
            assert isinstance(reader.threads(), list)
            for _ in range(20):
                thread = Thread(1, chance.randrange(4096, size - shape.current))
                assert reader.stack(thread) in {None, ()}
        finally:
            reader.close()


@pytest.mark.parametrize(
    "field", ["frame_code", "frame_previous", "code_name", "code_linetable", "thread_id", "current"]
)
def test_a_layout_that_is_wrong_is_found_out(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter whose structures are not those that are known switches the feature off, with a reason."""
    minor = sys.version_info.minor
    shape = layout.SHAPES[minor]
    wrong = dataclasses.replace(shape, **{field: getattr(shape, field) + 8}, native_id=(shape.native_id or 0) + 8)
    monkeypatch.setitem(layout.SHAPES, minor, wrong)
    with pytest.raises(UnknownLayoutError):
        pystack.known_layout()
    assert {"why"} == set(handover.layout_message())


def test_a_version_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer interpreter than those that are known is not guessed at, and a layout of one is no layout."""
    monkeypatch.delitem(layout.SHAPES, sys.version_info.minor)
    assert {"why": f"the structures of Python 3.{sys.version_info.minor} are not known"} == handover.layout_message()
    with pytest.raises(ValueError, match=r"Python 3\.99"):
        Layout.from_dict({"minor": 99, "threads": 1, "code_type": 1, "text_type": 1, "bytes_type": 1})


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def test_the_table_of_lines_is_read_as_python_reads_it() -> None:
    """For every instruction of a few modules the line is the one that Python itself gives."""
    line_of = linetable.line_310 if sys.version_info < (3, 11) else linetable.line_311
    for module in (subprocess, dataclasses, random):
        source = (module.__file__ or "").strip()
        with open(source, encoding="utf-8") as file:  # noqa: PTH123 - a path as a string
            code = compile(file.read(), source, "exec")
        for inner in _codes(code):
            for start, end, line in inner.co_lines():
                if line is not None:
                    for offset in range(start, end, 2):
                        assert line == line_of(inner.co_linetable, inner.co_firstlineno, offset)


@pytest.mark.parametrize("line_of", [linetable.line_310, linetable.line_311])
def test_a_table_of_garbage_raises_nothing(
    line_of: Callable[[bytes, int, int], int | None],
) -> None:
    """A table of anything, however it ends, raises nothing."""
    chance = random.Random(3)  # noqa: S311 - the same garbage each time
    for _ in range(2_000):
        table = chance.randbytes(chance.randrange(20))
        assert isinstance(line_of(table, 1, chance.randrange(-10, 1_000)), (int, types.NoneType))


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
