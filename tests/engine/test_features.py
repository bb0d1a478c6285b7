"""What the SDK offers works under limits as it does without: retries, cache, map, gather, traces, reports, types."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import flyte.io
import flyte.report
import pydantic
import pytest
from flyte._persistence._task_cache import LocalTaskCache

import flyte_notebook as fn

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="features", resources=flyte.Resources(cpu=1, memory="400Mi"))


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    tags: list[str] = dataclasses.field(default_factory=list)


class Model(pydantic.BaseModel):
    name: str
    size: int = 3


@env.task
async def square(x: int) -> int:
    return x * x


@env.task
def cube(x: int) -> int:
    return x**3


@env.task
async def gather_squares(n: int) -> list[int]:
    with flyte.group("squares"):
        return list(await asyncio.gather(*(square(x) for x in range(n))))


@env.task
def map_cubes(n: int) -> list[int]:
    return list(flyte.map(cube, range(n)))


@env.task
async def overridden() -> list[int]:
    small = square.override(resources=flyte.Resources(cpu=1, memory="300Mi"))
    return [await small(3), await cube.aio(2)]


@env.task(retries=2)
def third_time_lucky(directory: str) -> int:
    number = flyte.ctx().attempt_number
    Path(directory, str(number)).touch()
    if number < 2:
        raise ValueError(f"attempt {number}")
    return number


@env.task(retries=flyte.RetryStrategy(count=2, backoff=flyte.Backoff(base=timedelta(seconds=0.1))))
def always_too_large() -> int:
    return len(bytearray(2**30))


@env.task(retries=3)
def give_up() -> None:
    raise flyte.errors.NonRecoverableError("no use")


@env.task(timeout=flyte.Timeout(deadline=1), retries=3)
def past_the_deadline() -> None:
    time.sleep(30)


@env.task(cache="auto")
async def cached(salt: str) -> float:
    return time.time()


@flyte.trace
async def double(x: int) -> int:
    return 2 * x


@env.task
async def traced(x: int) -> int:
    return await double(x) + await double(x + 1)


@env.task(report=True)
async def reported() -> str:
    await flyte.report.log.aio("<h1>a report</h1>", do_flush=True)
    return flyte.ctx().output_path


@flyte.TaskEnvironment(name="variables", resources=env.resources, env_vars={"FEATURE": "on"}).task
def variables() -> list[str]:
    return [os.environ["FEATURE"], os.environ["OMP_NUM_THREADS"], os.environ["FROM_NOTEBOOK"], os.getcwd()]  # noqa: PTH109 - the string is what is compared


@env.task
async def context() -> dict[str, str]:
    return dict(flyte.ctx().custom_context)


@env.task
async def context_of_child() -> dict[str, str]:
    return await context()


@env.task
def dataclass_there_and_back(point: Point) -> Point:
    assert isinstance(point, Point)
    return dataclasses.replace(point, x=point.x + 1)


@env.task
def model_there_and_back(model: Model) -> Model:
    assert isinstance(model, Model)
    return Model(name=model.name.upper(), size=model.size + 1)


@env.task
async def read_file(file: flyte.io.File) -> flyte.io.File:
    async with file.open("rb") as handle:
        data = bytes(await handle.read())
    out = Path(tempfile.mkdtemp(prefix="feature-")) / "out.txt"
    out.write_bytes(data.upper())
    return await flyte.io.File.from_local(str(out))


@env.task(retries=1)
async def resume() -> str:
    checkpoint = flyte.ctx().checkpoint
    before = await checkpoint.load()
    if before is None:
        await checkpoint.save(b"half way")
        raise RuntimeError("interrupted")
    return before.read_bytes().decode()


@env.task(max_inline_io_bytes=1000)
def long_text(text: str, factor: int) -> str:
    return text * factor


def outputs(task: Any, *args: Any, **kwargs: Any) -> Any:
    return flyte.run(task, *args, **kwargs).outputs()[0]


def test_a_gather_runs_its_children_as_siblings() -> None:
    """Each child of a gather is an action of its own, with the parent's name, and the results are in order."""
    assert [0, 1, 4, 9] == outputs(gather_squares, 4)
    run = fn.last_run
    assert run is not None
    assert ["a0"] * 4 == [action.parent for action in run.actions[1:]]
    assert {"features.square"} == {action.task_name for action in run.actions[1:]}


def test_map_runs_in_parallel() -> None:
    """flyte.map over tasks gives results in order, more than one at a time."""
    assert [0, 1, 8, 27] == outputs(map_cubes, 4)


def test_override_and_a_sync_task_from_an_async_one() -> None:
    """An overridden limit is the one that is enforced."""
    assert [9, 8] == outputs(overridden)
    assert fn.last_run is not None
    assert [400 << 20, 300 << 20, 400 << 20] == [action.limits.memory_bytes for action in fn.last_run.actions]


def test_retries_count_their_attempts(tmp_path: Path) -> None:
    """Three attempts number 0, 1, 2 in the task, and 1, 2, 3 in the history."""
    assert 2 == outputs(third_time_lucky, str(tmp_path))
    assert {"0", "1", "2"} == {path.name for path in tmp_path.iterdir()}
    assert fn.last_run is not None
    assert [1, 2, 3] == [attempt.number for attempt in fn.last_run.actions[0].attempts]
    assert fn.last_run.failure is None


def test_an_oom_is_retried_like_the_rest() -> None:
    """retries=2 with a task that is always too large: three attempts, the last error stands, worker ends in -2."""
    with pytest.raises(flyte.errors.OOMError) as caught:
        outputs(always_too_large)
    assert caught.value.worker.endswith("-a0-2")
    assert fn.last_run is not None
    assert 3 == len(fn.last_run.actions[0].attempts)


def test_a_non_recoverable_error_is_one_attempt() -> None:
    """NonRecoverableError skips the retries, and arrives as from a cluster."""
    with pytest.raises(flyte.errors.RuntimeUserError, match="no use") as caught:
        outputs(give_up)
    assert (flyte.errors.RuntimeUserError, "NonRecoverableError") == (caught.type, caught.value.code)
    assert fn.last_run is not None
    assert 1 == len(fn.last_run.actions[0].attempts)


def test_a_deadline_counts_over_all_attempts() -> None:
    """A deadline ends the run whatever retries are left."""
    with pytest.raises(fn.errors.DeadlineExceededError):
        outputs(past_the_deadline)
    assert fn.last_run is not None
    assert 1 == len(fn.last_run.actions[0].attempts)


def test_queued_too_long_is_an_error(session: Any) -> None:
    """A task that waits for memory longer than max_queued_time never starts."""
    capacity = session.engine._scheduler._memory()[0] >> 20
    half = flyte.Resources(cpu=1, memory=f"{int(capacity * 0.6)}Mi")
    holder = past_the_deadline.override(resources=half, timeout=flyte.Timeout(max_runtime=5))
    waiter = square.override(resources=half, timeout=flyte.Timeout(max_queued_time=1))

    async def main() -> None:
        first = asyncio.ensure_future(flyte.run.aio(holder))
        while not session.engine.active:  # noqa: ASYNC110 - what is waited for happens on another thread
            await asyncio.sleep(0.01)
        with pytest.raises(fn.errors.MaxQueuedTimeExceededError, match="longer than its max_queued_time of 1 s"):
            await flyte.run.aio(waiter, 2)
        session.stop_all("test")
        with pytest.raises(flyte.errors.ActionAbortedError):
            await first

    asyncio.run(main())


@pytest.fixture
def _cache_closed_afterwards() -> Iterator[None]:
    yield
    asyncio.run(LocalTaskCache.close())  # the SDK keeps it open for the life of the process


@pytest.mark.usefixtures("_cache_closed_afterwards")
def test_the_cache_hits() -> None:
    """The second run of a cached task with the same input gives the first one's result; no worker starts."""
    salt = str(time.time())
    first = outputs(cached, salt)
    before = len(fn.runs)
    assert first == outputs(cached, salt)
    assert before == len(fn.runs)
    assert first != outputs(cached, salt + "x")


def test_traces_work() -> None:
    """Traced functions run inside the task's own process."""
    assert 14 == outputs(traced, 3)


def test_reports_are_written() -> None:
    """A flushed report is a file below the action's output path."""
    path = outputs(reported)
    assert "<h1>a report</h1>" in Path(path, "report.html").read_text()


def test_a_worker_sees_the_surroundings_of_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment and directory are those of the kernel at the time; env_vars and thread counts come on top."""
    monkeypatch.setenv("FROM_NOTEBOOK", "yes")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert ["on", "1", "yes", str(tmp_path)] == outputs(variables)


def test_a_freshly_edited_module_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local module on the notebook's sys.path is imported as it is on disk, each time."""
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "freshly_edited_module.py"

    @env.task
    def read_module() -> str:
        import freshly_edited_module  # type: ignore[import-not-found]  # noqa: PLC0415 - made by this test

        return str(freshly_edited_module.VALUE)

    for value in ("one", "two"):
        module.write_text(f"VALUE = {value!r}\n")
        assert value == outputs(read_module)
    assert "freshly_edited_module" not in sys.modules


def test_custom_context_reaches_children() -> None:
    """The context given to a run is there in the task and in those it calls."""
    run = flyte.with_runcontext(mode="local", custom_context={"team": "x"}).run(context_of_child)
    assert {"team": "x"} == run.outputs()[0]


def test_dataclasses_and_models_of_the_notebook() -> None:
    """A dataclass and a pydantic model that only this process defines make the way there and back."""
    assert Point(x=2, y=0.25, tags=["a"]) == outputs(dataclass_there_and_back, Point(x=1, y=0.25, tags=["a"]))
    assert Model(name="ABC", size=8) == outputs(model_there_and_back, Model(name="abc", size=7))


def test_files_travel(tmp_path: Path) -> None:
    """A flyte.io.File is read in the worker, and one made there is read here."""
    source = tmp_path / "in.txt"
    source.write_text("content")

    async def main() -> str:
        file = await flyte.io.File.from_local(str(source))
        run = await flyte.run.aio(read_file, file)
        result = (await run.outputs.aio())[0]
        async with result.open("rb") as handle:
            return bytes(await handle.read()).decode()

    assert "CONTENT" == asyncio.run(main())


def test_a_checkpoint_is_there_in_the_next_attempt() -> None:
    """What an attempt saved, the next one loads."""
    assert "half way" == outputs(resume)


def test_inline_inputs_and_outputs_are_bounded() -> None:
    """max_inline_io_bytes refuses inputs and outputs above it, naming the value and both sizes."""
    assert "abab" == outputs(long_text, "ab", 2)
    with pytest.raises(flyte.errors.InlineIOMaxBytesBreached, match=r"input `text` .* max_inline_io_bytes=1000"):
        outputs(long_text, "a" * 2000, 1)
    with pytest.raises(flyte.errors.RuntimeUserError, match=r"output `o0` .* max_inline_io_bytes=1000") as caught:
        outputs(long_text, "a" * 100, 20)
    assert (
        "InlineIOMaxBytesBreached" == caught.value.code
    )  # from the task: refused by whoever calls, the class is itself


def test_a_call_outside_of_any_run_is_enforced() -> None:
    """task(5) and await task(5), as a learner types them, get an enforced run of their own."""
    runs = len(fn.runs)
    assert 27 == cube(3)

    async def main() -> int:
        return await square(5)

    assert 25 == asyncio.run(main())
    assert runs + 2 == len(fn.runs)


def test_more_cpu_than_there_is_is_said_once(capsys: pytest.CaptureFixture[str], session: Any) -> None:
    """CPU above the machine's is clamped, a GPU is not enforced, and each is said once."""
    session._said.clear()
    many = square.override(resources=flyte.Resources(cpu=500, memory="300Mi", gpu=1))
    assert [4, 9] == [outputs(many, 2), outputs(many, 3)]
    said = capsys.readouterr().err
    assert 1 == said.count("cpu=500 is more than this machine has")
    assert 1 == said.count("gpu is declared but not enforced on this machine")


def test_nested_actions_are_in_the_sdks_own_record() -> None:
    """With the SDK's persistence on, its store knows the nested actions, their parent and how they ended."""
    heard: list[tuple[str, str]] = []

    class Tracker:
        def __getattr__(self, name: str) -> Any:
            def record(**facts: Any) -> None:
                heard.append((name, facts.get("task_name") or facts.get("action_id", "")))

            return record

        def get_action(self, action_id: str) -> Any:
            return object() if any(action_id == about for _, about in heard) else None

    flyte.with_runcontext(mode="local", _tracker=Tracker()).run(gather_squares, 2)
    assert 2 == sum(entry == ("record_start", "features.square") for entry in heard)
    assert 3 == sum(name == "record_complete" for name, _ in heard)


@pytest.mark.parametrize(
    ("args", "kwargs", "variable"),
    [
        (("a",), {}, "variable x, failed"),
        ((), {}, "variable x, failed"),
        ((1, 2), {}, "variable number 2, failed"),
        ((1,), {"y": 3}, "variable y, failed"),
    ],
)
def test_inputs_that_do_not_fit_name_their_variable(args: Any, kwargs: Any, variable: str) -> None:
    """A wrong, a missing and a superfluous input are RuntimeDataValidationError, as on a cluster, in a parent too."""
    with pytest.raises(flyte.errors.RuntimeDataValidationError, match=f"In task features.square {variable}") as caught:
        flyte.run(square, *args, **kwargs)
    assert ("user", "DataValidationError") == (caught.value.kind, caught.value.code)
    assert "features.square" == caught.value.failure.task_name
    assert caught.value.failure.headline.endswith("(it did not start)")

    @env.task
    async def parent() -> str:
        try:
            await square(*args, **kwargs)
        except flyte.errors.RuntimeDataValidationError as error:
            return str(error)
        return "nothing"

    assert variable in outputs(parent)


def test_a_wrong_output_names_itself() -> None:
    """An output of another type than declared is an error that says so, with the output's name."""

    @env.task
    async def wrong() -> int:
        return "a"  # type: ignore[return-value]  # on purpose

    with pytest.raises(flyte.errors.RuntimeUserError, match="variable o0") as caught:
        outputs(wrong)
    assert "DataValidationError" == caught.value.code


@env.task(timeout=1, retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=timedelta(seconds=0.05))))
def always_too_slow() -> None:
    time.sleep(30)


def test_max_runtime_counts_for_each_attempt() -> None:
    """A timeout is retried like the rest, and each attempt has the whole of its max_runtime."""
    with pytest.raises(fn.errors.MaxRuntimeExceededError) as caught:
        outputs(always_too_slow)
    assert caught.value.failure.worker.endswith("-a0-1")
    assert fn.last_run is not None
    ran_s = [attempt.outcome.report.ran_s for attempt in fn.last_run.actions[0].attempts]
    assert 2 == len(ran_s)
    assert all(1.0 <= seconds < 3.0 for seconds in ran_s)


@env.task
async def call_blocking() -> int:
    return cube(3)


@env.task
async def catch_from_below() -> list[str]:
    try:
        await call_blocking()
    except flyte.errors.RuntimeUserError as error:
        return [type(error).__name__, error.code]
    return []


def test_a_caller_catches_what_it_would_catch_on_a_cluster() -> None:
    """A class that the SDK's conversion does not know is a user error for the task above, too."""
    assert ["RuntimeUserError", "SyncTaskCallInAsyncContextError"] == outputs(catch_from_below)


speaking = flyte.TaskEnvironment(
    name="speaking",
    resources=flyte.Resources(cpu=1, memory="250Mi"),
    env_vars={"FNB_OF_TASK": "task", "FNB_BOTH": "task"},
)
VARIABLES = ("FNB_OF_TASK", "FNB_OF_RUN", "FNB_BOTH", "USER_LOG_LEVEL")


@speaking.task
async def told() -> list[str | None]:
    return [os.environ.get(name) for name in VARIABLES]


@speaking.task
async def told_to_both() -> list[list[str | None]]:
    return [[os.environ.get(name) for name in VARIABLES], await told()]


@speaking.task
def told_to_a_sync_task() -> list[str | None]:
    return [os.environ.get(name) for name in VARIABLES]


def test_variables_of_a_run_reach_each_of_its_tasks() -> None:
    """What ``flyte.with_runcontext`` sets is in the environment of all tasks of that run, before what they declare."""
    given = {"FNB_OF_RUN": "run", "FNB_BOTH": "run"}
    seen = ["task", "run", "run", "15"]
    runner = flyte.with_runcontext(env_vars=given, user_log_level=15)
    assert [seen, seen] == runner.run(told_to_both).outputs()[0]
    assert seen == runner.run(told_to_a_sync_task).outputs()[0]
    assert ["task", None, "task", None] == flyte.run(told).outputs()[0]
    assert not os.environ.keys() & {"FNB_OF_TASK", "FNB_OF_RUN", "FNB_BOTH"}
