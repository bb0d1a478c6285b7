"""Every size is that of an allocation which really was refused; where reading cannot tell, none is claimed."""

from __future__ import annotations

import ast
import linecache
import os
import sys
from typing import Any

import pytest

from flyte_notebook.core.outcome import RefusedAllocation
from flyte_notebook.worker.stacks import allocation
from flyte_notebook.worker.stacks.allocation import refused_allocation

HUGE = 10**15
"""More than any address space of today holds, so that every machine refuses it."""


class Mine:
    """A number of the user's."""

    asked = 0

    def __index__(self) -> int:
        Mine.asked += 1
        return HUGE


def refused(source: str, **names: Any) -> RefusedAllocation:
    """Run code that is in `linecache` only, as a cell is, and return what is known of its MemoryError."""
    file = f"<cell {abs(hash(source))}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        exec(compile(source, file, "exec"), {"HUGE": HUGE, "os": os, **names})  # noqa: S102 - code of this test
    except MemoryError as error:
        known = refused_allocation(error)
        assert known is not None
        return known
    finally:
        del linecache.cache[file]
    pytest.fail("nothing was refused")


@pytest.mark.parametrize(
    ("size_bytes", "source"),
    [
        (HUGE, "bytearray(10**15)"),
        (HUGE, "bytes(HUGE)"),
        (HUGE, "b'x' * HUGE"),
        (HUGE, "HUGE * 'x'"),
        (2 * HUGE, "'\\u20ac' * HUGE"),
        (4 * HUGE, "'\\U0001f600' * HUGE"),
        (HUGE, "'\\xff' * HUGE"),
        (8 * HUGE, "[0] * 10**15"),
        (16 * HUGE, "(1, 2) * HUGE"),
        (16 * HUGE, "rows = [1, 2]\nrows * HUGE"),
        (8 * HUGE, "rows = [0]\nrows *= HUGE"),
        (8 * HUGE, "list(range(HUGE))"),
        (8 * HUGE, "sorted(range(0, 2 * HUGE, 2))"),
        (8 * HUGE, "sorted(range(HUGE, 0, -1))"),
        (HUGE + 3, "bytearray(len(text) + HUGE)"),
        (HUGE, "os.urandom(HUGE)"),
        (1 << 50, "bytearray(1 << 50)"),
        (HUGE, "bytearray((HUGE * 7 + 3) // 7 - 0 % 5)"),
        (HUGE, "def f(n):\n    return bytearray(n)\nf(HUGE)"),
        (HUGE, "def f(n):\n    def g():\n        return bytearray(n)\n    return g()\nf(HUGE)"),
        (HUGE, "class Big:\n    held = bytearray(HUGE)"),
        (HUGE, "try:\n    bytearray(HUGE)\nexcept MemoryError:\n    print('no')\n    raise"),
    ],
)
def test_the_size_is_read_from_the_expression(size_bytes: int, source: str) -> None:
    """Arithmetic, sequences, and Python's own functions: the size is what was asked for."""
    assert RefusedAllocation(size_bytes=size_bytes) == refused(source, text="abc", x=10**7)


@pytest.mark.parametrize(
    ("size_bytes", "source"),
    [
        (8 * HUGE, "large = [0] * 100_000_000 * x"),
        (HUGE, "print(bytearray(HUGE))"),
        (HUGE, "small, large = bytearray(10), bytearray(HUGE)"),
        (8 * HUGE, "[0] * HUGE * 5"),
        (HUGE, "héé = '€€', bytearray(7), bytearray(HUGE)"),
    ],
)
def test_of_two_on_one_line_it_is_the_one_that_failed(size_bytes: int, source: str) -> None:
    """The failing expression is known to the column."""
    assert RefusedAllocation(size_bytes=size_bytes) == refused(source, x=10**7)


@pytest.mark.parametrize(
    "source",
    [
        "def size():\n    return HUGE\nbytearray(size())",  # what it returns is not known without a call
        "class Sizes:\n    large = HUGE\nbytearray(Sizes.large)",
        "sizes = {'a': HUGE}\nbytearray(sizes['a'])",
        "bytearray(n := HUGE)",
        "n = HUGE\ntry:\n    bytearray(n)\nexcept MemoryError:\n    n = 1\n    raise",
        "n = HUGE\ntry:\n    bytearray(n)\nfinally:\n    n = 1",
        "for n in (HUGE, 1):\n  try:\n    bytearray(n)\n  except MemoryError as error:\n    kept = error\nraise kept",
        "bytearray(mine)",
        "bytearray(int(mine))",
        "n = [HUGE]\nbytearray(*n)",
        "bytearray(b''.join([b'x'] * 3).ljust(HUGE))",
        "x = '' if HUGE else 1\nx.ljust(HUGE)",
    ],
)
def test_where_reading_cannot_tell_nothing_is_claimed(source: str) -> None:
    """What a call of the user's gives, a name that was set again, a class of the user's: the size is not known."""
    Mine.asked = 0
    assert RefusedAllocation() == refused(source, mine=Mine())
    assert Mine.asked <= 1  # by the code itself


@pytest.mark.parametrize(
    "source",
    [
        "n = 5\n[bytearray(n) for n in (1, HUGE)]",
        "def f(sizes):\n    n = 5\n    return [bytearray(n) for n in sizes]\nf((1, HUGE))",
        "n = 5\nlist(bytearray(n) for n in (1, HUGE))",
        "bytearray(5), [bytes(HUGE)][0]",
    ],
)
def test_it_is_never_the_size_of_another(source: str) -> None:
    """Whatever a version of Python tells about the failing expression: the size that is told is its size, or none."""
    assert refused(source).size_bytes in {None, HUGE}


def test_a_name_that_hides_pythons_own_is_not_taken_for_it() -> None:
    """``bytearray`` that is a function of the user's says nothing about the size; the line in it does."""
    source = "def bytearray(n):\n    return bytes(n * 2)\nbytearray(HUGE)"
    assert RefusedAllocation(size_bytes=2 * HUGE) == refused(source)


@pytest.mark.parametrize("source", ["raise MemoryError('mine')", "def f():\n    raise MemoryError\nf()"])
def test_an_error_raised_by_code_is_no_refused_allocation(source: str) -> None:
    """Where Python code raised it, nothing need have been asked for."""
    assert RefusedAllocation(by_hand=True) == refused(source)


def test_code_without_source_has_no_size() -> None:
    """Where the text of the code is not known, or is something else by now, nothing is claimed."""
    with pytest.raises(MemoryError) as caught:
        exec("bytearray(HUGE)", {"HUGE": HUGE})  # noqa: S102 - code of this test
    assert RefusedAllocation() == refused_allocation(caught.value)


def test_lines_for_ipython_do_not_hide_the_rest() -> None:
    """In a cell with magics and shell lines the tree of the other lines is read."""
    text = "%time 1\nif True:\n    !ls\nbytearray(5)\n"
    linecache.cache["<magics>"] = (len(text), None, text.splitlines(keepends=True), "<magics>")
    code = compile(text.replace("%time 1", "pass").replace("!ls", "pass"), "<magics>", "exec")
    frame = type("Frame", (), {"f_code": code, "f_globals": {}})()
    try:
        tree = allocation._tree(frame)
    finally:
        del linecache.cache["<magics>"]
    assert isinstance(tree, ast.Module)
    assert "pass" in ast.unparse(tree)
    assert "bytearray(5)" in ast.unparse(tree)


def test_numpy_says_it_itself() -> None:
    """The size is that of the array, to the byte."""
    np = pytest.importorskip("numpy")
    with pytest.raises(MemoryError) as caught:
        np.zeros((HUGE, 3), dtype="int16")
    assert RefusedAllocation(size_bytes=6 * HUGE, exact=True) == refused_allocation(caught.value)


def test_pandas_says_what_numpy_says() -> None:
    """A frame's memory is numpy's."""
    pd = pytest.importorskip("pandas")
    with pytest.raises(MemoryError) as caught:
        pd.Series(1.5, index=range(HUGE))
    assert RefusedAllocation(size_bytes=8 * HUGE, exact=True) == refused_allocation(caught.value)


def test_pyarrow_says_it_in_its_message() -> None:
    """Its allocator names the bytes."""
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(MemoryError) as caught:
        pa.allocate_buffer(HUGE)
    assert RefusedAllocation(size_bytes=HUGE, exact=True) == refused_allocation(caught.value)


def test_a_rounded_size_in_a_message_is_not_called_exact() -> None:
    """Words like numpy's in an error of another class give the size as far as they say it."""
    error = MemoryError("Unable to allocate 1.50 GiB for an array with shape (1,) and data type x")
    assert RefusedAllocation(size_bytes=3 << 29) == refused_allocation(error)


def test_other_errors_are_none() -> None:
    """Only a MemoryError is about an allocation."""
    assert refused_allocation(ValueError("Unable to allocate 1.50 GiB")) is None


def test_a_class_that_makes_trouble_is_no_crash() -> None:
    """A MemoryError of the user's whose text and attributes raise has no size."""

    class TroubleError(MemoryError):
        def __getattribute__(self, name: str) -> Any:
            raise SystemExit(3)

        def __str__(self) -> str:
            raise SystemExit(4)

    assert RefusedAllocation() == refused_allocation(TroubleError())


def test_a_number_too_large_to_compute_is_not_computed() -> None:
    """``10 ** 10 ** 9`` in an expression takes no time and no memory."""
    tree = ast.parse("bytearray(10 ** 10 ** 9)", mode="eval").body
    assert isinstance(tree, ast.Call)
    frame = sys._getframe()
    with pytest.raises(allocation._UnknownError):
        allocation._Reader(frame)(tree)
