"""Digests tell whether values and code are the same, across kernels and whatever their pickles look like."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flyte_notebook.cells import version
from flyte_notebook.cells.version import cell_version, digest

NOTEBOOK = """
import dataclasses, enum, functools, typing
LIMIT = 5
NAMES = {"a", "b", "ccc", "dddd"}
T = typing.TypeVar("T")
class Color(enum.Enum):
    RED = 1
    BLUE = "b"
class Base:
    registry = {"k": [1]}
    def f(self): return LIMIT
@dataclasses.dataclass
class Point(Base):
    x: int
    c: Color = Color.RED
    s: set = dataclasses.field(default_factory=set)
    @property
    def p(self): return helper(self.x)
    @functools.lru_cache
    def m(self): return Point
    def up(self): return super().f()
def helper(x, y=2, *, z=NAMES):
    if x in {"q", "r", "sss"}: return other(x)
    return [i * LIMIT for i in range(x)]
def other(n): return helper(n - 1) if n else Point
@functools.lru_cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def outer(step):
    return lambda n: n + step
add = outer(3)
point = Point(3)
point.s.update(["zzz", "y", "xx"])
"""
CODE = ("helper", "other", "Point", "Color", "fib", "add")


def notebook(source: str = NOTEBOOK, file: str = "<cell 1>") -> dict[str, Any]:
    """Return a namespace as a kernel has it."""
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(source, file, "exec", dont_inherit=True), namespace)  # noqa: S102 - what a kernel does
    return namespace


def version_of(source: str = NOTEBOOK, *, cell: str = "helper(x)", file: str = "<cell 1>", **options: Any) -> str:
    """Return the version of a cell that uses all code of a notebook."""
    namespace = notebook(source, file)
    return cell_version(cell, {name: namespace[name] for name in CODE}, **options)


def test_the_version_is_the_same_in_another_kernel_and_another_cell() -> None:
    """Neither the process, its hash seed, the number of the cell nor comments count."""
    here = Path(__file__).parent
    code = (
        "import test_version as t\n"
        "print(t.version_of('# a comment\\n' + t.NOTEBOOK, cell='helper(x) # why', file='<cell 9>'))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=here,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == run.returncode, run.stderr
    assert version_of() == run.stdout.strip()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 5", "LIMIT = 6"),
        ("y=2", "y=3"),
        ('"ccc"', '"ccd"'),
        ("i * LIMIT", "i + LIMIT"),
        ("helper(n - 1)", "helper(n - 2)"),
        ("BLUE = ", "GREEN = "),
        ('{"k": [1]}', '{"k": [2]}'),
        ("return helper(self.x)", "return helper(self.x + 1)"),
        ("default_factory=set", "default_factory=lambda: set()"),
        ("fib(n - 2)", "fib(n - 3)"),
        ("outer(3)", "outer(4)"),
        ('{"q", "r", "sss"}', '{"q", "r", "sst"}'),
        ("class Point(Base)", "class Point"),
    ],
)
def test_the_version_changes_with_everything_that_is_shipped(old: str, new: str) -> None:
    """Code, constants, defaults, closures, classes and globals of helpers all count, however deep."""
    assert old in NOTEBOOK
    assert version_of() != version_of(NOTEBOOK.replace(old, new))


def test_the_version_changes_with_the_cell() -> None:
    """The statements of the cell count."""
    assert version_of() != version_of(cell="helper(x + 1)")


def test_globals_that_are_inputs_do_not_count() -> None:
    """What comes as an input is in the cache's key already."""
    other = NOTEBOOK.replace("LIMIT = 5", "LIMIT = 6")
    assert version_of(without={"LIMIT"}) == version_of(other, without={"LIMIT"})


def test_a_local_module_counts_with_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editing a module of the user's own changes the version of cells that use it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fnb_local_module.py").write_text("x = 1\n")
    import fnb_local_module  # type: ignore[import-not-found]  # noqa: PLC0415 - made by this test

    before = cell_version("m.x", {"m": fnb_local_module})
    (tmp_path / "fnb_local_module.py").write_text("x = 2\n")
    assert before != cell_version("m.x", {"m": fnb_local_module})
    del sys.modules["fnb_local_module"]


def cyclic() -> list[Any]:
    """Return a list that holds itself."""
    value: list[Any] = [1]
    value.append(value)
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"s": {"a", "b", "c"}, "f": frozenset({"x", "y"})},
        lambda: [1, 1.5, None, "x", b"y", (1, 2), {"a": [1]}],
        lambda: np.arange(10.0),
        lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        cyclic,
        lambda: notebook()["point"],
    ],
)
def test_equal_content_has_equal_digests(make: Any) -> None:
    """Two values that were made the same way have the same digest."""
    assert digest(make()) is not None
    assert digest(make()) == digest(make())


def test_sharing_does_not_count() -> None:
    """Two equal lists and the same list twice are the same content."""
    shared = ["x"]
    assert digest([shared, shared]) == digest([["x"], ["x"]])


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), ("1", 1), ([1], (1,)), ({"a": 1, "b": 2}, {"a": 1}), (0.0, -0.0)]
)
def test_different_content_has_different_digests(one: Any, other: Any) -> None:
    """Types and values count."""
    assert digest(one) != digest(other)


def test_reading_a_frame_does_not_change_its_digest() -> None:
    """How pandas arranges columns inside is not content; a cell of the table is."""
    frame = pd.DataFrame({"a": range(100), "b": np.ones(100), "s": ["x"] * 100})
    frame["c"] = 1
    before = digest(frame)
    frame.describe()
    frame["s"].str.len()
    frame._consolidate_inplace()
    assert before == digest(frame)
    frame.loc[3, "a"] = 9
    assert before != digest(frame)


def test_a_series_has_a_digest_of_its_content() -> None:
    """Values, name and index of a series count."""
    series = pd.Series([1, 2], name="a")
    assert digest(series) == digest(pd.Series([1, 2], name="a"))
    assert digest(series) != digest(series.rename("b"))


def test_what_is_too_large_or_cannot_be_pickled_has_no_digest() -> None:
    """There is none for values above the limit, and none for locks."""
    assert digest(bytes(100), limit_bytes=1000) is not None
    assert digest(bytes(2000), limit_bytes=1000) is None
    assert digest(threading.Lock()) is None
    assert version.COMPARED_BYTES == 64 << 20


def test_a_helper_that_reads_something_unpicklable_has_a_version_all_the_same() -> None:
    """What cannot be hashed counts by its type."""
    namespace = notebook("import threading\nlock = threading.Lock()\ndef f(): return lock")
    assert cell_version("f()", {"f": namespace["f"]}) == cell_version("f()", {"f": namespace["f"]})
