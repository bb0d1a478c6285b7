"""Which frames of a traceback are shown as the user's."""

from __future__ import annotations

import collections
import linecache
import sys

import pytest

from flyte_notebook.core.outcome import RefusedAllocation
from flyte_notebook.worker.process.raised import describe, user_lines

CELL = """
def outer(function):
    function()
"""


def lines_of(code: str, filename: str, module: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the functions that are shown when ``code`` is called by a cell and raises."""
    monkeypatch.setitem(linecache.cache, "<ipython-input-1>", (len(CELL), None, CELL.splitlines(True), "<cell>"))
    cell: dict[str, object] = {"__name__": "__main__"}
    exec(compile(CELL, "<ipython-input-1>", "exec"), cell)  # noqa: S102 - as IPython runs a cell
    made: dict[str, object] = {"__name__": module}
    exec(compile(code, filename, "exec"), made)  # noqa: S102 - as a library makes a function
    outer, inner = cell["outer"], made["inner"]
    assert callable(outer)
    with pytest.raises(ZeroDivisionError) as caught:
        outer(inner)
    return [line.function for line in user_lines(caught.tb)]


@pytest.mark.parametrize(
    ("filename", "module", "shown"),
    [("<string>", "namedtuple_Done", False), ("<string>", "__main__", True), ("<__array_function__>", "numpy", False)],
)
def test_code_that_a_library_made_is_not_the_users(
    filename: str, module: str, *, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named tuples, dataclasses and the like have no line to show; a program given with ``python -c`` is the user's."""
    functions = lines_of("def inner():\n    1 / 0\n", filename, module, monkeypatch)
    assert ["outer", *(["inner"] if shown else [])] == functions[-2 if shown else -1 :]
    assert shown == ("inner" in functions)


def test_a_named_tuple_is_made_by_such_code() -> None:
    """What waits for a future makes one: an interrupt that came just then showed an empty line."""
    made = collections.namedtuple("Done", "done not_done").__new__  # noqa: PYI024 - what concurrent.futures has
    assert "<string>" == made.__code__.co_filename.partition(" ")[0]
    assert "__main__" != made.__globals__["__name__"]


def test_a_memory_error_is_described_where_its_reader_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded for the first such error only: without it the size is not known, and the error is told."""
    monkeypatch.setitem(sys.modules, "flyte_notebook.worker.stacks.allocation", None)
    assert RefusedAllocation() == describe(MemoryError()).refused
    assert describe(ValueError("no")).refused is None
