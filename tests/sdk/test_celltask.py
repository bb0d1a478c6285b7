"""A cell is a Flyte task: the SDK runs it, overrides it, retries it, caches it and pickles it like any other."""

from __future__ import annotations

import asyncio
import collections
import inspect
import linecache
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import flyte
import flyte.errors
import pytest
from flyte.extend import AsyncFunctionTaskTemplate, TaskTemplate

from flyte_notebook.cells.variables import CannotSendError, UnknownNameError
from flyte_notebook.sdk import celltask
from flyte_notebook.sdk.celltask import CellTask, cell_task, last_outputs, read_cell
from flyte_notebook.worker.values.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "<cell of tasks>"


@pytest.fixture(autouse=True)
def _forget_cells() -> Iterator[None]:
    before = dict(linecache.cache)
    yield
    linecache.cache.clear()
    linecache.cache.update(before)


def task_of(source: str, names: dict[str, Any] | None = None, **options: Any) -> tuple[CellTask, tuple[Any, ...]]:
    """Return the task of a cell and the values of its inputs."""
    named = {key: options.pop(key) for key in ("inputs", "outputs") if key in options}
    parts = read_cell(source, names or {}, filename=FILE, **named)
    return cell_task(options.pop("name", "cell"), parts, **options), tuple(parts.inputs.values())


def run(source: str, names: dict[str, Any] | None = None, **options: Any) -> Any:
    """Return the value of a cell, run by the SDK."""
    task, values = task_of(source, names, **options)
    (result,) = flyte.run(task, *values).outputs()
    return result


def notebook(source: str, file: str = "<tasks>") -> dict[str, Any]:
    """Return a namespace as a kernel has it, with a task environment."""
    names: dict[str, Any] = {
        "__name__": "__main__",
        "__builtins__": __builtins__,
        "env": flyte.TaskEnvironment(name="tasks"),
    }
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec", dont_inherit=True), names)  # noqa: S102 - what a kernel does
    return names


def test_a_cell_is_a_task_of_the_sdk() -> None:
    """It is a template like any other, and shows its inputs."""
    task, _ = task_of("y = x * 2\ny", {"x": 5}, name="double")
    assert isinstance(task, AsyncFunctionTaskTemplate)
    assert isinstance(task, TaskTemplate)
    assert ("double", "double", {"x": (int, inspect.Parameter.empty)}) == (
        task.name,
        task.short_name,
        task.interface.inputs,
    )


def test_flyte_run_gives_the_last_value_without_init() -> None:
    """flyte.run works, by position and by name, and needs no flyte.init."""
    task, _ = task_of("y = x * 2\ny + 1", {"x": 5})
    assert ((11,), (15,)) == (tuple(flyte.run(task, 5).outputs()), tuple(flyte.run(task, x=7).outputs()))


@pytest.mark.parametrize(
    "source", ["()", "(1,)", "(1, 2)", "None", "[None]", "{}", "x = 1", "__import__('collections').Counter('aab')"]
)
def test_a_tuple_is_one_value(source: str) -> None:
    """What the SDK takes for several outputs is one value here."""
    expected = None if "x = " in source else eval(source, {"collections": collections})  # noqa: S307 - our own text
    assert expected == run(source)


async def test_awaiting_an_override_gives_the_last_value() -> None:
    """``await task.override(resources=...)(x=5)`` works outside of a run, on the SDK alone."""
    task, _ = task_of("(x, x + 1)", {"x": 5})
    other = task.override(resources=flyte.Resources(memory="1Gi"), retries=2)
    assert ((8, 9), "1Gi", 2) == (await other(x=8), other.resources.memory, other.retries.count)
    assert task.cell is other.cell


def test_a_cell_task_is_called_by_other_tasks() -> None:
    """Inside a run an awaited cell task is an action like any other, and gives its last value."""
    inner, _ = task_of("x * 10", {"x": 1}, name="inner")
    env = flyte.TaskEnvironment(name="outer")

    @env.task
    async def outer(n: int) -> int:
        one, two = await asyncio.gather(inner(x=n), inner.override(short_name="again")(n + 1))
        return int(one + two)

    assert (30,) == tuple(flyte.run(outer, 1).outputs())


TASKS = """
rate = 3
@env.task
async def asynchronous(n: int) -> int:
    return n * rate
@env.task
def blocking(n: int) -> int:
    return n * rate
"""


def test_a_value_that_is_an_exception_is_a_value() -> None:
    """The SDK takes exceptions among values for failures; here they come back, at the root and from an inner task."""
    inner, _ = task_of("ValueError('inner', n)", {"n": 1}, name="inner")
    assert ("ValueError('inner', 1)", "KeyError(2)") == run(
        "found = await inner(n=1)\n(repr(found), repr(given))", {"inner": inner, "given": KeyError(2)}
    )
    assert "ValueError('outer')" == repr(run("ValueError('outer')"))


def test_a_cell_uses_tasks_of_other_cells() -> None:
    """Coroutine tasks are awaited; blocking ones are called in cells without await."""
    names = notebook(TASKS)
    assert [3, 6] == run("import asyncio\nawait asyncio.gather(asynchronous(1), asynchronous(2))", names)
    assert 15 == run("blocking(5)", names)


def test_a_blocking_task_in_a_cell_that_awaits_is_the_sdks_error() -> None:
    """The SDK's own error says what to write."""
    with pytest.raises(flyte.errors.RuntimeUserError, match=r"Use `await blocking.aio\(...\)` instead"):
        run("blocking(5)\nawait asynchronous(1)", notebook(TASKS))


def test_a_task_defined_in_the_cell_itself_works() -> None:
    """It runs in the cell, and comes back to the notebook."""
    names = notebook("rate = 2")
    source = "@env.task\nasync def own(n: int) -> int:\n    return n * rate\nawait own(4)"
    run_name = "own-task"
    task, values = task_of(source, names)
    flyte.with_runcontext(mode="local", name=run_name).run(task, *values)
    found = last_outputs.take(run_name)
    assert found is not None
    assert (8, "tasks.own") == (found.result, found.outputs["own"].name)


def test_named_outputs_are_found_by_run_name() -> None:
    """What the cell bound is there under the run's name, with what could not travel."""
    task, values = task_of("a = [1]\nb = (a, x)\ngen = (i for i in a)\nb", {"x": 5})
    flyte.with_runcontext(mode="local", name="by-name").run(task, *values)
    found = last_outputs.of("by-name")
    assert found is not None
    assert ({"a": [1], "b": ([1], 5)}, ["gen"]) == (found.outputs, [kept.name for kept in found.outcome.kept])
    assert found.outputs["b"] is found.result


def test_large_outputs_are_in_a_file_of_the_run(tmp_path: Path) -> None:
    """Outputs above 1 MiB are written to the run's raw data path, and can be removed."""
    task, _ = task_of("big = bytes(3 << 20)\nlen(big)")
    flyte.with_runcontext(mode="local", name="large", raw_data_path=str(tmp_path)).run(task)
    found = last_outputs.take("large")
    assert found is not None
    assert found.outcome.path is not None
    assert tmp_path in Path(found.outcome.path).parents
    assert bytes(3 << 20) == found.outputs["big"]
    found.outcome.discard()
    assert not Path(found.outcome.path).exists()


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("import sys\nsys.exit(4)", "SystemExit", r"sys\.exit\(4\)"),
        ("next(iter([]))", "StopIteration", "^$"),
        ("class Odd(Exception): pass\nraise Odd('words')", "Odd", "words"),
    ],
)
def test_what_a_cell_raises_is_the_runs_error(source: str, code: str, message: str) -> None:
    """The class of the exception is the code of the error, and nothing hangs."""
    with pytest.raises(flyte.errors.RuntimeUserError, match=message) as caught:
        run(source)
    assert code == caught.value.code


def test_retries_try_again(tmp_path: Path) -> None:
    """A cell that fails once and has one retry succeeds."""
    source = "import pathlib\np = pathlib.Path(where)\nseen = p.exists()\np.touch()\nassert seen\n'done'"
    retry = flyte.RetryStrategy(count=1)
    assert "done" == run(source, {"where": str(tmp_path / "seen")}, retries=retry)


def test_the_settings_of_an_environment_are_the_defaults() -> None:
    """What is not given comes from the environment, under whose name the task is known."""
    env = flyte.TaskEnvironment(
        name="lab", resources=flyte.Resources(memory="300Mi", cpu=1), env_vars={"A": "b"}, cache="auto"
    )
    task, _ = task_of("1", env=env, name="step")
    assert ("lab.step", "step", "300Mi", {"A": "b"}, "auto", "lab") == (
        task.name,
        task.short_name,
        task.resources.memory,
        task.env_vars,
        task.cache.behavior,
        task.parent_env_name,
    )
    other, _ = task_of("1", env=env, name="step", resources=flyte.Resources(memory="1Gi"), cache="disable")
    assert ("1Gi", "disable") == (other.resources.memory, other.cache.behavior)


def test_an_input_that_cannot_be_pickled_is_refused_before_the_run(tmp_path: Path) -> None:
    """The error names variable and attribute, and the body never starts."""
    names = notebook("import threading\nclass Model: pass\nmodel = Model()\nmodel.lock = threading.Lock()")
    with pytest.raises(PicklingProblem, match=r"`model\.lock` is a _thread\.lock"):
        run(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nmodel", names)
    assert [] == list(tmp_path.iterdir())


def test_code_that_cannot_be_pickled_is_refused_before_the_run() -> None:
    """The error names the function and what it uses."""
    names = notebook("import threading\nlock = threading.Lock()\ndef locked(): return lock")
    with pytest.raises(CannotSendError, match=r"`locked` cannot be sent to the task: `locked -> lock` is a"):
        task_of("locked()", names)


def test_bad_cells_are_refused_with_the_errors_of_a_plain_cell() -> None:
    """A syntax error and a name that exists nowhere are told before anything runs."""
    with pytest.raises(SyntaxError) as caught:
        read_cell("x = 1\ny = (", {}, filename=FILE)
    assert (FILE, 2) == (caught.value.filename, caught.value.lineno)
    with pytest.raises(UnknownNameError, match="name 'nowhere' is not defined"):
        read_cell("nowhere", {})


def test_an_output_above_a_limit_that_was_set_is_refused(tmp_path: Path) -> None:
    """The error names the output and both sizes; without a limit of its own a cell returns more."""
    task, _ = task_of("x = 'x' * 3_000_000\ny = 1", max_inline_io_bytes=1 << 20)
    with pytest.raises(flyte.errors.RuntimeUserError) as caught:
        flyte.with_runcontext(mode="local", raw_data_path=str(tmp_path)).run(task)
    assert "the output `x` of cell has 2.9 MiB (2.9 MiB in all), above max_inline_io_bytes=1048576 (1 MiB)" in str(
        caught.value
    )
    assert "InlineIOMaxBytesBreached" == caught.value.code
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 12_000_000 == len(run("'x' * 12_000_000"))


def test_names_that_the_sdk_uses_itself_are_fine_as_inputs() -> None:
    """Variables may be called self, task, interface or custom_context; their values go by position."""
    names = {"self": 1, "task": 2, "interface": 3, "custom_context": 4, "_": 5, "args": 6, "kwargs": 7, "cell": 8}
    assert 36 == run("self + task + interface + custom_context + _ + args + kwargs + cell", names)


def test_a_missing_input_is_named() -> None:
    """Calling a cell task without one of its inputs says which."""
    task, _ = task_of("x + y", {"x": 1, "y": 2})
    with pytest.raises(ValueError, match="Missing required inputs: y"):
        flyte.run(task, x=1)


def test_a_task_works_in_a_process_that_knows_nothing(tmp_path: Path) -> None:
    """Pickled by cloudpickle alone, the task runs in a fresh interpreter with an empty __main__."""
    names = notebook(
        "class Model:\n    w = 0\n    def fit(self): self.w += step(); return self\n"
        "def step(): return size\nsize = 3\nmodel = Model()"
    )
    task, values = task_of("model.fit().w + x", {**names, "x": 5})
    (tmp_path / "task").write_bytes(cloudpickle.dumps((task, 100)))
    code = (
        "import pickle, sys, flyte\n"
        "task, x = pickle.load(open(sys.argv[1], 'rb'))\n"
        "class Model:\n    w = 0\n    def fit(self): self.w += 50; return self\n"
        "print(flyte.run(task, x=x, model=Model()).outputs()[0])"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "task")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("150\n", 0) == (ran.stdout, ran.returncode), ran.stderr
    assert 8 == flyte.run(task, *values).outputs()[0]


CACHED = """
import linecache, sys, time, flyte
from flyte_notebook.sdk.celltask import cell_task, last_outputs, read_cell
number, rate, cell = sys.argv[1:]
names = {"__name__": "__main__", "x": {"b": 1, "s": {"p", "q", "r"}}}
source = f"import time\\nrate = {rate}\\ndef helper(v): return (len(v) * rate, time.time_ns())"
exec(compile(source, f"<cell {number}>", "exec"), names)
parts = read_cell(cell, names, filename=f"<cell {int(number) + 1}>")
task = cell_task("cached", parts, cache="auto")
flyte.with_runcontext(mode="local", name="run").run(task, *parts.inputs.values())
values = last_outputs.of("run")
print(values.result, values.outputs["also"])
"""


@pytest.mark.slow
def test_the_cache_holds_across_kernels_and_sees_edited_helpers(tmp_path: Path) -> None:
    """Another kernel and another cell number hit the cache, outputs included; an edited helper or cell does not."""

    def result(number: int, rate: int, cell: str = "also = x\nhelper(x)") -> str:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CACHED, str(number), str(rate), cell],
            env={**os.environ, "HOME": str(tmp_path), "PYTHONHASHSEED": str(number)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == ran.returncode, ran.stderr
        return ran.stdout.split("{")[0]

    first = result(1, 2)
    assert first == result(7, 2) == result(8, 2, "also = x  # a comment\nhelper(x)")
    assert first != result(9, 3)
    assert first != result(9, 2, "also = x\nhelper(x), 1")


def test_an_override_of_the_cache_is_still_the_cells_own() -> None:
    """``override(cache="auto")`` does not fall back to the SDK's version, which is the same for every cell."""
    versions = set()
    for source in ("1", "2"):
        task, _ = task_of(source)
        assert "disable" == task.cache.behavior
        versions.add(task.override(cache="auto").cache.version_override)
    assert 2 == len(versions - {None})
    task, _ = task_of("1", cache=flyte.Cache(behavior="auto", salt="v2"))
    assert task.cache.version_override not in versions
    task, _ = task_of("1", cache=flyte.Cache(behavior="override", version_override="mine"))
    assert "mine" == task.cache.version_override


def test_the_outputs_that_are_asked_for_belong_to_the_version() -> None:
    """The same text with other outputs is another version: its cached outputs would be others."""
    one, _ = task_of("x = 1\ny = 2")
    other, _ = task_of("x = 1\ny = 2", outputs=["y"])
    assert one.cell.version != other.cell.version


def test_a_cached_result_whose_file_is_gone_says_so(tmp_path: Path) -> None:
    """Large outputs of a cached run live in a file; without it the error says what to do."""
    task, _ = task_of("bytes(3 << 20)")
    flyte.with_runcontext(mode="local", name="gone", raw_data_path=str(tmp_path)).run(task)
    found = last_outputs.take("gone")
    assert found is not None
    found.outcome.discard()

    async def again() -> Any:
        kind = celltask.CellOutputs
        engine = flyte.types.TypeEngine
        literal = await engine.to_literal(found.outcome, kind, engine.to_literal_type(kind))
        return await engine.to_python_value(literal, kind)

    with pytest.raises(FileNotFoundError, match="run it again with --cache disable"):
        asyncio.run(again())
