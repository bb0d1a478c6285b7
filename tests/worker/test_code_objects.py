"""Code travels with everything it carries, whatever cloudpickle makes of it, and it is known what it uses."""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import pickle
import subprocess
import sys
import textwrap
import traceback
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from flyte_notebook.worker.values import pickling
from flyte_notebook.worker.values.code_objects import global_names, global_uses, reduce_code, submodules_used

if TYPE_CHECKING:
    from collections.abc import Iterator

CARRIED = sorted(name for name in dir(types.CodeType) if name.startswith("co_") and name != "co_lnotab")
"""Every attribute of code but the one that CPython has deprecated."""


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_in(constant)


def carried(code: types.CodeType) -> dict[str, Any]:
    """Return everything that code carries, inner code apart, and what its methods say."""
    found = {name: getattr(code, name) for name in CARRIED}
    found["co_consts"] = tuple(None if isinstance(part, types.CodeType) else part for part in code.co_consts)
    for name in ("co_lines", "co_positions", "co_branches"):
        if name in found:
            found[name] = list(found[name]())
    return found


def through_ours(value: Any) -> Any:
    return pickling.loads(pickling.dumps(value))


def through_cloudpickle(value: Any) -> Any:
    undo = pickling.keep_code_whole()
    try:
        return cloudpickle.loads(cloudpickle.dumps(value))
    finally:
        undo()


@pytest.mark.parametrize("travel", [through_ours, through_cloudpickle])
@pytest.mark.parametrize("module", [argparse, traceback, textwrap])
def test_all_that_code_carries_arrives(travel: Any, module: types.ModuleType) -> None:
    """File, lines, columns, handlers and every other attribute are the same on the other side, in inner code too."""
    file = module.__file__ or ""
    with open(file, encoding="utf-8") as text:  # noqa: PTH123 - a path as a string
        code = compile(text.read(), file, "exec")
    back = travel(code)
    assert [carried(one) for one in codes_in(code)] == [carried(one) for one in codes_in(back)]


def test_what_is_written_loads_without_this_package() -> None:
    """A function that the SDK keeps in its cache must load in a process that knows cloudpickle alone."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def f(x):\n    return x + 1\n", "<cell f>", "exec"), namespace)  # noqa: S102 - what a kernel does
    undo = pickling.keep_code_whole()
    try:
        data = cloudpickle.dumps(namespace["f"])
    finally:
        undo()
    program = (
        f"import cloudpickle, sys\nf = cloudpickle.loads({data!r})\n"
        "print(f(1), f.__code__.co_filename, 'flyte_notebook' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "2 <cell f> False" == run.stdout.strip()


def test_cloudpickle_is_as_before_afterwards() -> None:
    """Undone, cloudpickle reduces code as its release does; when somebody else set a reducer since, that one stays."""
    table = cloudpickle.Pickler.dispatch_table
    before = table[types.CodeType]
    pickling.keep_code_whole()()
    assert before is table[types.CodeType]
    undo = pickling.keep_code_whole()
    try:
        table[types.CodeType] = theirs = lambda code: (str, (code.co_name,))
        undo()
        assert theirs is table[types.CodeType]
    finally:
        table[types.CodeType] = before


def test_a_release_that_makes_names_up_changes_nothing() -> None:
    """Whatever reducer of code a release of cloudpickle has, our picklers do not use it."""
    table = cloudpickle.Pickler.dispatch_table
    before = table[types.CodeType]
    code = compile("x = 1", "<cell 7>", "exec")
    try:
        table[types.CodeType] = lambda code: reduce_code(code.replace(co_filename="<made up>", co_firstlineno=99))
        assert "<made up>" == cloudpickle.loads(cloudpickle.dumps(code)).co_filename
        assert ("<cell 7>", 1) == (through_ours(code).co_filename, through_ours(code).co_firstlineno)
    finally:
        table[types.CodeType] = before


def test_the_same_function_is_the_same_pickle() -> None:
    """A pickle does not tell which texts a process happened to share: after a journey it is written as before."""
    namespace: dict[str, Any] = {"__name__": "elsewhere"}
    source = "def f(x):\n    def g(y): return y.x\n    return g(x)\n"
    exec(compile(source, "<cell f>", "exec"), namespace)  # noqa: S102 - what a kernel does
    code = namespace["f"].__code__

    def written(one: types.CodeType) -> bytes:
        file = io.BytesIO()
        pickling.CellPickler(file).dump(one)
        return file.getvalue()

    assert written(code) == written(through_ours(code)) == written(through_ours(through_ours(code)))


USES = """
def f(self, other):
    global written, removed
    written = read + other.attribute
    del removed
    def inner(x=default):
        class Body(Base):
            own = 1
            value = own + of_a_class
        return [nested(item) for item in x], Body
    return inner, lambda: in_a_lambda
"""


def test_the_globals_that_code_uses() -> None:
    """Reads, writes and deletions are found, in functions, classes and lambdas inside; attributes are left out."""
    namespace: dict[str, Any] = {}
    exec(USES, namespace)  # noqa: S102 - a function to look at
    code = namespace["f"].__code__
    expected = {"written", "removed", "read", "default", "Base", "of_a_class", "nested", "in_a_lambda"}
    assert expected == set(global_names(code)) - {"__name__"}  # a class body asks for the name of its module
    assert [("read", "read"), ("written", "assign"), ("removed", "assign"), ("default", "read")] == list(
        global_uses(code)
    )


def test_the_submodules_that_code_reaches() -> None:
    """A package's loaded submodules are found where the code names each part; others of the package are not."""
    code = compile("concurrent.futures.thread.ThreadPoolExecutor", "<cell>", "eval")
    assert concurrent.futures.thread
    found = submodules_used(code, [concurrent, pickle, "concurrent"])
    assert ["concurrent.futures", "concurrent.futures.thread"] == [module.__name__ for module in found]
