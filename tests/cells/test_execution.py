"""The body of a cell runs as module code, and what it gives back is what a plain cell would leave in the notebook."""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import subprocess
import sys
import textwrap
import traceback
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.cells import execution
from flyte_notebook.cells.analysis import analyse
from flyte_notebook.cells.execution import Cell, MissingOutputError, run_cell
from flyte_notebook.cells.returned import CellOutcome, ReturnedValues, bind
from flyte_notebook.cells.variables import select
from flyte_notebook.worker.values import pickling
from flyte_notebook.worker.values.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FILE = "<cell execution>"
LARGE = "[0] * 10_000_000"


@pytest.fixture(autouse=True)
def _forget_cells() -> Iterator[None]:
    before = dict(linecache.cache)
    yield
    linecache.cache.clear()
    linecache.cache.update(before)


class Notebook:
    """A notebook that runs cells as tasks do, in this process, and binds what they give back."""

    def __init__(self, directory: Path) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
        self.notes: tuple[str, ...] = ()
        self.outcome = CellOutcome()
        self.directory = directory

    def plain(self, source: str) -> None:
        """Run a plain cell."""
        exec(compile(textwrap.dedent(source), "<plain>", "exec", dont_inherit=True), self.names)  # noqa: S102

    def cell(
        self, source: str, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
    ) -> tuple[Cell, dict[str, Any]]:
        """Return a cell ready to run, and its inputs."""
        source = textwrap.dedent(source)
        found = analyse(source, FILE)
        selection = select(found, self.names, inputs=inputs)
        code, sources = selection.ship()
        cell = Cell(
            name="cell",
            source=source,
            filename=FILE,
            code=code,
            sources=sources,
            outputs=None if outputs is None else tuple(outputs),
            assigned=found.assigned,
            mutated=found.mutated,
            called_on=found.called_on,
            imports=found.imports,
            may_set=selection.may_set,
        )
        # As over a process border: what comes in is a copy.
        return cell, {name: pickling.loads(pickling.dumps(value)) for name, value in selection.inputs.items()}

    def task(self, source: str, **named: Any) -> Any:
        """Run a cell, bind what it gives back, and return its value."""
        cell, inputs = self.cell(source, **named)
        place = lambda: str(self.directory / uuid.uuid4().hex)  # noqa: E731 - one line of glue
        outcome = asyncio.run(run_cell(cell, inputs, place=place))
        self.outcome = CellOutcome.unpack(outcome.pack())
        values = ReturnedValues(self.outcome, self.names)
        result = values.result
        self.notes = bind(values, self.names)
        return result


@pytest.fixture
def notebook(tmp_path: Path) -> Notebook:
    """Return an empty notebook."""
    return Notebook(tmp_path)


def test_assigned_names_come_back_with_the_value(notebook: Notebook) -> None:
    """What the cell binds is bound in the notebook; the value of the last expression is the result."""
    notebook.names["x"] = 5
    assert 20 == notebook.task("y = x * 2\nfor i in range(3): pass\ny * 2")
    assert (10, 2, 5) == (notebook.names["y"], notebook.names["i"], notebook.names["x"])
    assert () == notebook.notes


def test_a_cell_without_a_last_expression_has_no_value(notebook: Notebook) -> None:
    """The result is None, and the record tells it from a value that is None."""
    assert notebook.task("y = 1") is None
    assert not notebook.outcome.has_value
    assert notebook.task("None") is None
    assert notebook.outcome.has_value


def test_what_a_cell_sets_by_other_means_comes_back(notebook: Notebook) -> None:
    """Names from import *, exec, globals() and functions with global are found when the cell ends."""
    notebook.plain("def bump():\n    global count\n    count += 1\ncount = 1_000_000")
    notebook.task("from os.path import *\nexec('made = 3')\nglobals()['also'] = 4\nbump(); bump()")
    names = notebook.names
    assert ("a/b", 3, 4, 1_000_002) == (names["join"]("a", "b"), names["made"], names["also"], names["count"])


def test_deleted_names_go(notebook: Notebook) -> None:
    """A variable that the cell deletes is gone from the notebook; one that it binds again is not."""
    notebook.names.update(x=1, y=2, z=3)
    notebook.task("del x\ndel y\ny = 5\nw = 1\ndel w\nif z > 5: del z")
    assert ("x" in notebook.names, notebook.names["y"], notebook.names["z"]) == (False, 5, 3)
    assert ("x",) == notebook.outcome.deleted


def test_modules_are_bound_in_the_notebook(notebook: Notebook) -> None:
    """Modules come back by name, submodules included, and unpickle nothing."""
    notebook.task("import xml.dom.minidom\nimport os.path as p, json")
    names = notebook.names
    assert ("parse", "join", "dumps") == (
        names["xml"].dom.minidom.parse.__name__,
        names["p"].join.__name__,
        names["json"].dumps.__name__,
    )


def test_functions_and_classes_are_rebound_to_the_notebook(notebook: Notebook) -> None:
    """A function that comes back reads and sets the notebook's own globals."""
    notebook.names["rate"] = 2
    notebook.task(
        "def scaled(v):\n    global last\n    last = v\n    return v * rate\nclass Box:\n    size = 1\nbox = Box()"
    )
    names = notebook.names
    names["rate"] = 10
    assert (30, 3, True) == (names["scaled"](3), names["last"], type(names["box"]) is names["Box"])
    assert names["scaled"].__globals__ is names


def test_a_changed_input_is_an_output(notebook: Notebook) -> None:
    """Assigning to an item or attribute of an input gives it back, of the notebook's own class."""
    notebook.plain("class Model:\n    rate = 1\n    w = 0\nmodel = Model()\ntable = {'a': 1}")
    model_class = notebook.names["Model"]
    notebook.task("model.w = 7\ntable['b'] = 2\nModel.rate = 3\ndel table['a']")
    names = notebook.names
    assert (7, {"b": 2}, 3) == (names["model"].w, names["table"], names["Model"].rate)
    assert type(names["model"]) is model_class is names["Model"]
    assert () == notebook.notes


def test_an_input_that_changed_otherwise_is_named_once(notebook: Notebook) -> None:
    """A change that the text does not show is found and told, with the option that brings it back."""
    notebook.plain("class Model:\n    w = 0\n    def fit(self): self.w += 1\nmodel = Model()\nrows = [1]\nsame = [1]")
    notebook.task("model.fit()\nrows.append(2)\nsame.count(1)\nother = same")
    assert (
        "`model` changed in the task only; add `-o model`",
        "`rows` changed in the task only; add `-o rows`",
    ) == tuple(sorted(notebook.notes))
    assert (0, [1]) == (notebook.names["model"].w, notebook.names["rows"])
    notebook.task("model.fit()", outputs=["model"])
    assert (1, ()) == (notebook.names["model"].w, notebook.notes)


def test_what_helpers_change_is_named_too(notebook: Notebook) -> None:
    """A global that only a helper function reads and changes does not change silently in the task only."""
    notebook.plain("rows = []\nlimit = {'n': 3}\ndef record(x):\n    if x < limit['n']: rows.append(x)")
    notebook.task("for i in range(5): record(i)")
    assert ([], ("`rows` changed in the task only; add `-o rows`",)) == (notebook.names["rows"], notebook.notes)
    notebook.task("for i in range(5): record(i)", outputs=["rows"])
    notebook.plain("record(1)")
    assert [0, 1, 2, 1] == notebook.names["rows"]


def test_an_input_too_large_to_compare_is_named_if_a_method_was_called(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the size that is compared nothing is claimed to be known."""
    monkeypatch.setattr(execution, "COMPARED_BYTES", 1000)
    monkeypatch.setattr(execution, "digest", lambda value, **_: None if len(value) > 100 else str(value))
    notebook.names.update(large=[0] * 1000, quiet=[0] * 1000)
    notebook.task("large.append(1)\nlen(quiet)")
    assert ("if the cell changed `large` in place, add `-o large` (it is too large to compare)",) == notebook.notes


def test_large_outputs_stay_unless_they_are_asked_for(notebook: Notebook) -> None:
    """One line names what stays and the option that brings it; the rest comes back; an older value is told."""
    notebook.names["big"] = "old"
    assert 10_000_000 == notebook.task(f"big = {LARGE}\nsmall = 1\nlen(big)")
    assert ("old", 1) == (notebook.names["big"], notebook.names["small"])
    assert (
        "`big` (76.3 MiB) was not copied back because it is over 64 MiB. To get it, add `-o big`",
        "the notebook still has the older `big`",
    ) == notebook.notes
    notebook.task(f"big = {LARGE}", outputs=["big"])
    assert (10_000_000, ()) == (len(notebook.names["big"]), notebook.notes)
    notebook.outcome.discard()
    assert [] == list(notebook.directory.iterdir())


def test_what_turns_out_large_while_it_is_written_stays(notebook: Notebook) -> None:
    """A value that does not look large is stopped at the limit, and nothing of it is left on disk."""
    notebook.task("class Box: pass\nbox = Box()\nbox.held = [bytes(40 << 20), bytes(40 << 20)]\nsmall = 1")
    assert ["small"] == [name for name in ("box", "small") if name in notebook.names]
    assert ("`box` was not copied back because it is over 64 MiB. To get it, add `-o box`",) == notebook.notes
    assert [] == list(notebook.directory.iterdir())


def test_what_cannot_be_pickled_is_listed_and_an_older_value_removed(notebook: Notebook) -> None:
    """The other outputs come back, and one line names what stays and why."""
    notebook.names["gen"] = "old"
    notebook.task("import threading\ngen = (i for i in 'ab')\nheld = {'k': [threading.Lock()]}\nfine = [1]")
    assert (False, False, [1]) == ("gen" in notebook.names, "held" in notebook.names, notebook.names["fine"])
    (note,) = notebook.notes
    assert "`held['k'][0]` (_thread.lock)" in note
    assert "`gen` (generator)" in note
    assert "cannot be pickled and stay in the task" in note


def test_what_pickles_but_does_not_load_stays(notebook: Notebook) -> None:
    """An exception whose class takes other arguments than it stores is found out in the task."""
    notebook.task(
        "class Odd(Exception):\n    def __init__(self, a, b): super().__init__(a)\nodd = Odd(1, 2)\nlater = 1"
    )
    assert (False, 1) == ("odd" in notebook.names, notebook.names["later"])
    assert ("`odd` (Odd) cannot be pickled and stays in the task",) == notebook.notes


def test_an_output_that_was_asked_for_must_work(notebook: Notebook) -> None:
    """With -o an output that cannot be pickled, or was not set, fails the task and is named."""
    with pytest.raises(PicklingProblem, match=r"`held\[0\]` is a _thread.lock"):
        notebook.task("import threading\nheld = [threading.Lock()]", outputs=["held"])
    with pytest.raises(MissingOutputError, match="-o names `nothing`, and the cell has not set it"):
        notebook.task("x = 1", outputs=["nothing"])


def test_named_outputs_are_all_that_comes_back(notebook: Notebook) -> None:
    """With -o other names stay in the task; functions bring what they need."""
    assert 6 == notebook.task("k = 3\nj = 1\ndef f(n): return n * k\nf(2)", outputs=["f"])
    assert (False, 15) == ("j" in notebook.names, notebook.names["f"](5))


def test_outputs_that_share_an_object_still_do(notebook: Notebook) -> None:
    """Identity between outputs, and with the result, is kept."""
    result = notebook.task("a = b = [1]\nc = (a, b)\nc")
    names = notebook.names
    assert names["a"] is names["b"] is names["c"][0] is result[1]


def test_a_value_that_cannot_travel_is_described(notebook: Notebook) -> None:
    """A last value that cannot be pickled is shown by its repr, and the cell succeeds."""
    assert notebook.task("(i for i in 'ab')") is None
    assert notebook.outcome.shown is not None
    assert "<generator object" in notebook.outcome.shown["text/plain"]
    assert ("the last value cannot be pickled; it is shown, and `_` is not set",) == notebook.notes


def test_top_level_await_works(notebook: Notebook) -> None:
    """A cell may await, in statements and in its last expression."""
    assert [1, 2] == notebook.task(
        """
        import asyncio
        async def one(n):
            await asyncio.sleep(0)
            return n
        first = await one(1)
        [first, await one(2)]
        """
    )


def test_a_body_without_await_runs_where_blocking_is_allowed(notebook: Notebook) -> None:
    """asyncio.run works inside: there is no running loop in the thread of the body."""
    assert 3 == notebook.task("import asyncio\nasync def three(): return 3\nasyncio.run(three())")


def test_the_body_is_module_code(notebook: Notebook) -> None:
    """Classes, comprehensions, multi-line strings and __name__ behave as in a plain cell."""
    assert ("__main__", "__main__", "two\nlines", [3, 3]) == notebook.task(
        """
        k = 3
        class Here:
            values = [1, 2]
        text = '''two
        lines'''
        (__name__, Here.__module__, text, [k for _ in Here.values])
        """
    )


def test_a_failure_has_the_cells_lines(notebook: Notebook) -> None:
    """The traceback names the cell's file, line and text, and the exception is the very one."""
    with pytest.raises(ZeroDivisionError) as caught:
        notebook.task("x = 0\ny = 1\ny / x\n")
    text = "".join(traceback.format_exception(caught.value))
    assert f'File "{FILE}", line 3, in <module>\n    y / x' in text


def test_helpers_of_the_notebook_show_their_lines_in_another_process(tmp_path: Path) -> None:
    """A failing helper of another cell is shown with its text where nobody ever saw that cell."""
    notebook = Notebook(tmp_path)
    pickling.install_sources({"<helper>": ["def fail(x):\n", "    return 1 / x\n"]})
    exec(compile("def fail(x):\n    return 1 / x\n", "<helper>", "exec"), notebook.names)  # noqa: S102
    cell, _ = notebook.cell("fail(0)")
    (tmp_path / "cell").write_bytes(pickling.dumps(cell))
    code = (
        "import asyncio, sys, traceback\n"
        "from flyte_notebook.cells.execution import run_cell\n"
        "from flyte_notebook.worker.values import pickling\n"
        "cell = pickling.loads(open(sys.argv[1], 'rb').read())\n"
        "try: asyncio.run(run_cell(cell, {}, place=str))\n"
        "except ZeroDivisionError: print('return 1 / x' in traceback.format_exc())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cell")], capture_output=True, text=True, check=False
    )
    assert ("True\n", 0) == (run.stdout, run.returncode), run.stderr


@pytest.mark.parametrize("source", ["import sys\nsys.exit(3)", "raise KeyboardInterrupt", "raise GeneratorExit"])
def test_whatever_is_raised_comes_through(notebook: Notebook, source: str) -> None:
    """Nothing that a body raises makes the cell hang."""
    with pytest.raises((SystemExit, KeyboardInterrupt, GeneratorExit)):
        notebook.task(source)


def test_a_stop_iteration_does_not_hang(notebook: Notebook) -> None:
    """A StopIteration, which no future may carry, arrives as the cause of a RuntimeError."""
    with pytest.raises(RuntimeError) as caught:
        notebook.task("next(iter([]))")
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("body", ["pass", "import asyncio\nawait asyncio.sleep(0)"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_end_of_the_body_is_told_before_anything_is_pickled(notebook: Notebook, body: str, *, fails: bool) -> None:
    """Once, also when the body fails: what is done then, as to close a figure, is done before a value is looked at."""
    events: list[str] = []

    class Value:
        def __reduce__(self) -> tuple[type, tuple[()]]:
            events.append("pickled")
            return Value, ()

    notebook.names.update(events=events, value=Value())
    cell, _ = notebook.cell(f"{body}\nevents.append('body')\nvalue = value{' / 0' * fails}")
    inputs = {name: notebook.names[name] for name in ("events", "value")}
    events.clear()
    with pytest.raises(TypeError) if fails else contextlib.nullcontext():
        asyncio.run(run_cell(cell, inputs, place=str, ended=lambda: events.append("ended")))
    assert 1 == events.count("ended")
    assert ["body", "ended", "pickled"][: 2 if fails else 3] == list(dict.fromkeys(events))


def test_outside_of_a_worker_the_process_main_is_left_alone(notebook: Notebook) -> None:
    """Run in the notebook's own process, a cell has a namespace of its own."""
    notebook.task("fnb_only_here = 1")
    assert not hasattr(sys.modules["__main__"], "fnb_only_here")


def test_rebinding_an_input_frees_the_old_one(notebook: Notebook) -> None:
    """Nothing here keeps alive what the body lets go."""
    notebook.plain("import weakref\nclass Big: pass\nbig = Big()")
    cell, inputs = notebook.cell("ref = weakref.ref(big)\nbig = None\nalive = ref() is not None\ndel ref")
    outcome = asyncio.run(run_cell(cell, inputs, place=str))
    assert {"alive": False, "big": None} == ReturnedValues(outcome, {}).outputs
