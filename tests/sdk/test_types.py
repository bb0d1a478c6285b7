"""Every Python value comes back from a task exactly as it went in."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import inspect
import logging
import math
import pathlib
import random
import re
import sys
import threading
import types
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import flyte
import flyte.errors
import numpy as np
import pandas as pd
import pytest
from flyte.models import NativeInterface
from flyte.types import TypeEngine

from flyte_notebook.sdk.celltask import cell_task, read_cell
from flyte_notebook.sdk.inputs import task_of_inputs
from flyte_notebook.sdk.types import (
    LONGEST_TEXT,
    SIZE_KEY,
    TYPE_KEY,
    CellInput,
    CellOutputs,
    LastOutputs,
    type_of,
)
from flyte_notebook.worker.values.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

NAIVE = dt.datetime(2024, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001 - that it is naive is the point
NAN = float("nan")


class Color(enum.Enum):
    """An enumeration."""

    RED = 1


@dataclasses.dataclass(order=True)
class Point:
    """A dataclass with a default that is made."""

    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024 - as people write it in notebooks


def factory() -> dict[str, list[int]]:
    """Return a defaultdict."""
    made: collections.defaultdict[str, list[int]] = collections.defaultdict(list)
    made["a"].append(1)
    return made


VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -5,
    2**63 - 1,
    -(2**63),
    2**63,
    2**70,
    0.0,
    -0.0,
    1.5,
    1e308,
    5e-324,
    math.inf,
    -math.inf,
    NAN,
    1 + 2j,
    "",
    "text",
    "ünï¢ode 🎉\0",
    "lone \ud800 surrogate",
    "long " * LONGEST_TEXT,
    b"",
    b"\x00\xff",
    bytearray(b"ab"),
    (),
    (1,),
    (1, "a", None),
    [],
    [1, [2, (3,)]],
    [True, 1, 1.0],
    {},
    {1: "a", "b": 2, (3, 4): None},
    {"nested": {"tuple": (1, 2), "set": {1, 2}}},
    {1, 2, 3},
    frozenset({"a"}),
    range(2, 10, 3),
    slice(1, None, 2),
    collections.OrderedDict(b=1, a=2),
    collections.Counter("aab"),
    collections.deque([1, 2], maxlen=5),
    factory(),
    Pair(1, "x"),
    Point(1, ["t"]),
    Color.RED,
    types.SimpleNamespace(a=1),
    NAIVE,
    NAIVE.replace(tzinfo=dt.UTC),
    NAIVE.replace(tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)), fold=1),
    NAIVE.date(),
    NAIVE.time(),
    dt.timedelta(days=-1, microseconds=1),
    dt.UTC,
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    pathlib.PurePosixPath("a/b"),
    re.compile("a+", re.IGNORECASE),
    ...,
    NotImplemented,
    np.float64(1.5),
    np.float32(1.5),
    np.int64(7),
    np.bool_(True),
    np.arange(6).reshape(2, 3),
    np.array(["a", None], dtype=object),
    np.datetime64("2024-01-02"),
    pd.Timestamp("2024-01-02", tz="Europe/Paris"),
    pd.NaT,
    pd.Series([1, 2], name="s"),
    pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["i", "j"]),
    ValueError("bad", 3),
    random.Random(3),  # noqa: S311 - a value
)


def same(one: Any, other: Any) -> bool:  # noqa: PLR0911 - one line for each kind
    """Whether two values are the same in type and content, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (pd.DataFrame, pd.Series)):
        return bool(one.equals(other)) and list(one.index) == list(other.index)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tolist() == other.tolist()
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or one != one)  # noqa: PLR0124 - nan
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, BaseException):
        return same(one.args, other.args)
    if isinstance(one, random.Random):
        return one.getstate() == other.getstate()
    if one is pd.NaT or one is NotImplemented:
        return other is one
    details = ("tzinfo", "fold", "maxlen", "default_factory")
    return bool(one == other) and all(getattr(one, name, None) == getattr(other, name, None) for name in details)


def round_trip(value: Any) -> Any:
    """Return what a cell gives for its input, run by the SDK."""
    parts = read_cell("value", {"value": value})
    run = flyte.run(cell_task("round_trip", parts), *parts.inputs.values())
    (result,) = run.outputs()
    return result


def test_there_are_more_than_forty_values() -> None:
    """The promise is held for many kinds of values."""
    assert len(VALUES) > 40


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__} {value!r:.20}")
def test_a_value_comes_back_exactly(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Type and value are the same after a run through the SDK, and nothing is logged on the way."""
    with caplog.at_level(logging.WARNING):
        result = round_trip(value)
    assert same(value, result), f"{value!r} came back as {result!r}"
    assert [] == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, bool), (5, int), (1.5, float), ("x", str), (2**63 - 1, int), (math.nan, float)],
)
def test_flytes_types_are_used_where_they_are_exact(value: Any, expected: type) -> None:
    """A learner sees ``x: int`` in the task's interface."""
    assert expected is type_of("x", value)


@pytest.mark.parametrize("value", [None, 2**63, "\ud800", np.float64(1), (1,), [1], b"x", "x" * (LONGEST_TEXT + 1)])
def test_everything_else_is_pickled_under_its_name(value: Any) -> None:
    """The type of other inputs knows the variable."""
    kind = type_of("x", value)
    assert (Annotated, (CellInput, "x")) == (get_origin(kind), get_args(kind))


class Str(str):
    """A str of the user's own."""

    __slots__ = ("mark",)


def test_a_subclass_of_a_plain_type_keeps_its_class() -> None:
    """A subclass of str, int or float is no Flyte str, int or float."""
    value = Str("x")
    value.mark = 3
    result = round_trip(value)
    assert (Str, "x", 3) == (type(result), result, result.mark)


async def literal_of(value: Any, name: str = "x") -> Any:
    """Return the literal of an input."""
    kind = Annotated[CellInput, name]
    return await TypeEngine.to_literal(value, kind, TypeEngine.to_literal_type(kind))


async def test_equal_inputs_have_equal_hashes_however_they_pickle() -> None:
    """The content decides: not sharing, and not the variable's name."""
    shared = ["x"]
    one = await literal_of({"a": shared, "b": shared, "s": {"p", "q"}})
    other = await literal_of({"a": ["x"], "b": ["x"], "s": {"q", "p"}}, "y")
    assert one.hash == other.hash != (await literal_of({"a": ["x"], "b": ["z"], "s": {"q", "p"}})).hash


@pytest.mark.parametrize(
    ("cache", "hashed"),
    [("auto", True), ("override", True), ("disable", False), (flyte.Cache("auto"), True), (None, False)],
)
async def test_only_what_may_be_looked_up_is_hashed(cache: Any, *, hashed: bool) -> None:
    """The content of inputs is hashed for a task that the SDK may look for in its cache, and for one nobody knows."""
    converting = task_of_inputs.set(types.SimpleNamespace(cache=cache))
    try:
        assert hashed == bool((await literal_of(np.zeros(10))).hash)
    finally:
        task_of_inputs.reset(converting)
    assert (await literal_of(np.zeros(10))).hash


async def test_a_literal_tells_type_and_size() -> None:
    """Views can say what an input is without loading it."""
    literal = await literal_of(np.zeros(10))
    assert "numpy.ndarray" == literal.metadata[TYPE_KEY]
    assert 80 < int(literal.metadata[SIZE_KEY]) < 400


def test_up_to_a_mebibyte_is_inline_and_more_is_in_a_file() -> None:
    """Large inputs are written to a file once; both kinds come back."""
    small, large = b"x" * (1 << 19), b"x" * (1 << 21)
    inline, filed = asyncio.run(literal_of(small)), asyncio.run(literal_of(large))
    assert (True, False) == (inline.scalar.HasField("binary"), filed.scalar.HasField("binary"))
    file = Path(filed.scalar.blob.uri)
    assert len(large) <= file.stat().st_size < len(large) + 100
    assert small == asyncio.run(TypeEngine.to_python_value(inline, CellInput))
    assert large == asyncio.run(TypeEngine.to_python_value(filed, Annotated[CellInput, "x"]))
    file.unlink()


async def test_an_input_that_cannot_be_pickled_is_named_with_its_culprit() -> None:
    """The path begins with the variable; no file is left."""
    with pytest.raises(PicklingProblem) as caught:
        await literal_of({"data": b"x" * (1 << 21), "held": [threading.Lock()]}, "model")
    assert "model['held'][0]" == caught.value.path


@pytest.mark.skipif(
    not hasattr(flyte.errors, "MaxRuntimeExceededError"),
    reason="an older SDK takes every binary for a pickle of its own",
)
def test_our_types_are_found_again_from_their_literal_types() -> None:
    """What a cluster stores about a task leads back to our types, and to no other."""
    for kind in (CellInput, CellOutputs):
        literal_type = TypeEngine.to_literal_type(kind)
        assert kind is TypeEngine.guess_python_type(literal_type)
    assert CellInput is not TypeEngine.guess_python_type(TypeEngine.to_literal_type(int))


def test_the_sdk_names_that_are_used_are_there() -> None:
    """NativeInterface takes inputs as (type, default) and outputs as types."""
    interface = NativeInterface(inputs={"x": (int, inspect.Parameter.empty)}, outputs={"result": CellOutputs})
    assert ["x"] == interface.required_inputs()


def test_last_outputs_keeps_a_bounded_number_of_runs() -> None:
    """Old runs are forgotten, the last outcome of a run stands, and listeners hear each one until they leave."""
    last = LastOutputs()
    heard: list[str] = []
    undo = last.listen(lambda name, _values: heard.append(name))
    values: Any = object()
    for number in range(25):
        last.record(f"run{number}", values)
    undo()
    undo()
    last.record("run24", None)  # type: ignore[arg-type]  # told apart from the one before
    assert (None, None, values) == (last.of("run4"), last.of("run24"), last.take("run23"))
    assert (25, None) == (len(heard), last.of("run23"))


@pytest.fixture(autouse=True)
def _main_is_left_alone() -> Iterator[None]:
    before = set(vars(sys.modules["__main__"]))
    yield
    assert before == set(vars(sys.modules["__main__"]))
