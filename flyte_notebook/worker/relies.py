"""The behaviour of cloudpickle, CPython and Linux that processes and pickling rely on."""

from __future__ import annotations

import dataclasses
import functools
import io
import linecache
import types
from typing import Any, Final

import cloudpickle

from flyte_notebook.core.reliance import Reliance, expect
from flyte_notebook.worker.process import own_pages
from flyte_notebook.worker.values import pickling
from flyte_notebook.worker.values.code_objects import global_names

LINES: Final = "stacks"
EXIT_HANDLERS: Final = "exit handlers"
"""Keys of the checks that a worker runs by itself: whether its stack can be read, whether handlers run at its end."""

_CELL = "<cell relied on>"
_SOURCE = "import dataclasses\n@dataclasses.dataclass\nclass Made:\n    x: int = 1\n    y: list = dataclasses.field(default_factory=list)\ndef use(): return rate\nrate = 1\n"  # noqa: E501 - a small cell


def _cell() -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(_SOURCE, _CELL, "exec", dont_inherit=True), namespace)  # noqa: S102 - as a kernel runs a cell
    return namespace


def _code_is_whole() -> None:
    code = _cell()["use"].__code__
    undo = pickling.keep_code_whole()
    try:
        theirs = cloudpickle.loads(cloudpickle.dumps(code))
    finally:
        undo()
    for back in (pickling.loads(pickling.dumps(code)), theirs):
        expect(back == code and back.co_filename == _CELL, f"code comes back as that of {back.co_filename!r}")


def _functions_are_shared() -> None:
    cell = _cell()
    other: dict[str, Any] = {"__name__": "__main__"}
    use = pickling.loads(pickling.dumps(cell["use"], cell), other)
    expect(use.__globals__ is other, "a function comes back with globals of its own")
    other["rate"] = 2
    expect(use() == 2, "a function does not see a global that was changed")  # noqa: PLR2004 - set above


def _classes_are_known() -> None:
    made = _cell()["Made"]
    data = pickling.dumps(made(2))
    made.x = 9
    back = pickling.loads(data)
    expect(type(back) is made, "a class comes back as another one")
    expect(made.x == 9, "a class that was known is written over")  # noqa: PLR2004 - set above
    unpickler = pickling.CellUnpickler(io.BytesIO(pickling.dumps(made)))
    made.x = 1
    unpickler.renew_classes(True)
    unpickler.load()
    expect(made.x == 9, "a class cannot be renewed")  # noqa: PLR2004 - as it was pickled


def _dataclasses_are_whole() -> None:
    found = pickling.loads(pickling.dumps(dataclasses.fields(_cell()["Made"])))
    expect([field.default for field in found] == [1, dataclasses.MISSING], "a sentinel of dataclasses is another one")


def _names_are_read() -> None:
    code = compile("def f():\n    global a\n    a = b.c\n    class K:\n        d = e\n", "<cell>", "exec").co_consts[0]
    assert isinstance(code, types.CodeType)
    found = set(global_names(code)) - {"__name__"}
    expect(found == {"a", "b", "e"}, f"a function that uses a, b and e seems to use {sorted(found)}")


def _sources_stay() -> None:
    pickling.install_sources({_CELL: ["one\n", "two\n"]})
    try:
        linecache.checkcache()
        expect(linecache.getline(_CELL, 2) == "two\n", "the text of a cell is dropped")
        expect(pickling.sources_of([_CELL]) == {_CELL: ["one\n", "two\n"]}, "the text of a cell is not found")
    finally:
        linecache.cache.pop(_CELL, None)


def _pages_can_be_owned() -> None:
    reason = own_pages.reason_against()
    expect(not reason, reason)


_of_python = functools.partial(Reliance, library="CPython")

ENTRIES: Final = (
    Reliance(
        key="code",
        library="cloudpickle",
        behaviour="its picklers ask `dispatch_table` how code is reduced, and ship `CodeType` itself",
        lost="lines, growth tables and cached calls of tasks in code of the notebook",
        probe=_code_is_whole,
    ),
    Reliance(
        key="shared functions",
        library="cloudpickle",
        behaviour="its pickler asks `reducer_override` of a subclass first",
        lost="functions of the notebook in tasks",
        probe=_functions_are_shared,
        refuse=True,
    ),
    Reliance(
        key="classes",
        library="cloudpickle",
        behaviour="classes are made by two functions and filled by a third, and those that are known are tracked",
        lost="classes of the notebook keep their identity, and their attributes, when values come back",
        names=("_DYNAMIC_CLASS_TRACKER_BY_ID", "_make_skeleton_class", "_make_skeleton_enum", "_class_setstate"),
        probe=_classes_are_known,
    ),
    _of_python(
        key="dataclasses",
        behaviour="the sentinels of `dataclasses` are single objects, under these names",
        lost="dataclasses of the notebook in tasks",
        names=("_HAS_DEFAULT_FACTORY",),
        probe=_dataclasses_are_whole,
    ),
    _of_python(
        key="instructions",
        behaviour="`dis` names the instructions that use globals `..._GLOBAL` and `LOAD_NAME`",
        lost="variables that functions of the notebook use reach a task",
        probe=_names_are_read,
        refuse=True,
    ),
    _of_python(
        key="sources",
        behaviour="an entry of `linecache.cache` without a time stamp stays",
        lost="the text of lines of cells, in tracebacks and for `inspect.getsource`",
        probe=_sources_stay,
    ),
    _of_python(
        key=EXIT_HANDLERS,
        behaviour="`atexit._run_exitfuncs()` runs what was registered; `threading._threading_atexits` are called first",
        lost="`atexit` handlers of a task, and the clean end of its pools of processes",
        names=("_run_exitfuncs", "_threading_atexits"),
        where="first use",
    ),
    _of_python(
        key=LINES,
        behaviour="the structures of its frames and code lie in memory as they are known, or as it publishes them",
        lost="the line where a killed task stood, and the table of lines that memory grew on",
        where="first use",
    ),
    Reliance(
        key="own pages",
        library="Linux",
        behaviour="a forked process can make the pages that it inherited its own",
        lost="workers that are forked; each action takes some 0.2 s longer",
        probe=_pages_can_be_owned,
    ),
)


BY_KEY: Final = {entry.key: entry for entry in ENTRIES}
