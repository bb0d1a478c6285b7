"""A task that is killed for memory is called again with more: real tasks, real limits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from sessions import opened_for

import flyte_notebook as fn
from flyte_notebook.errors import failure_in
from flyte_notebook.experiments.fitting import kept_after
from flyte_notebook.limiters import machine
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

MI = 1 << 20
env = flyte.TaskEnvironment(name="grown", resources=flyte.Resources(cpu=1, memory="100Mi"))
pair = flyte.TaskEnvironment(name="pair", resources=flyte.Resources(cpu=1, memory=("60Mi", "100Mi")))
roomy = flyte.TaskEnvironment(name="roomy", resources=flyte.Resources(memory="200Mi"))


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Open the session; the tasks of this module travel by value."""
    with opened_for(sys.modules[__name__]) as opened:
        yield opened


@env.task
async def holds(size_mi: int) -> int:
    """Allocate so much."""
    return len(bytearray(size_mi << 20))


@pair.task
def holds_in_sync(size_mi: int) -> int:
    """Allocate so much, declared with a request below the limit."""
    return len(bytearray(size_mi << 20))


holds_more = fn.retry_on_oom(holds, up_to="400Mi")


@roomy.task
async def parent(size_mi: int) -> int:
    """Call what grows, held by a global name."""
    return int(await holds_more(size_mi))


@roomy.task
async def parent_of_sync(size_mi: int) -> int:
    """Call a synchronous task that grows, made here."""
    return int(await fn.retry_on_oom(holds_in_sync, factor=3, up_to="1Gi").aio(size_mi=size_mi))


@env.task
async def lets_through(size_mi: int) -> int:
    """Be failed by a task that it calls."""
    return int(await holds(size_mi))


@env.task
async def raises_memory_error() -> int:
    """Raise what is no kill."""
    raise MemoryError("not a kill")


@env.task
async def raises_by_hand() -> int:
    """Raise an OOMError that nothing killed for."""
    raise flyte.errors.OOMError("OOMKilled", "by hand")


@env.task
def dies_then_waits(marker: str) -> None:
    """Be killed the first time, and wait for ever the second."""
    if Path(marker).exists():
        Path(marker + ".again").touch()
        time.sleep(60)
    Path(marker).touch()
    bytearray(200 << 20)


def limits_of(runs: list[Any]) -> list[int]:
    """Return the limits of the first actions of runs, in MiB."""
    return [run.actions[0].limits.memory_bytes // MI for run in runs]


async def test_it_grows_until_it_passes_and_says_what_to_keep(capsys: pytest.CaptureFixture[str]) -> None:
    """100Mi and 200Mi die, 400Mi passes; the three are one story, and the limit to keep has the margin of a fit."""
    before = {run.name for run in fn.runs}
    assert 220 * MI == await fn.retry_on_oom(holds)(size_mi=220)
    runs = [run for run in fn.runs if run.name not in before]
    assert [100, 200, 400] == limits_of(runs)
    story = fn.runs.story(runs[0].actions[0].attempts[0].worker)
    assert ["attempt 1", "rerun 1 (200Mi)", "rerun 2 (400Mi)"] == [label for label, _ in story]
    shown = capsys.readouterr().out
    assert "grown.holds passed with 400Mi, after OOM at 100Mi and 200Mi" in shown
    kept_bytes = kept_after(fn.last_run.actions[0].attempts[-1].trace) or 400 * MI
    assert 1 == shown.count(f'keep: resources=flyte.Resources(cpu=1, memory="{kept_bytes // MI}Mi")')
    assert 260 * MI < kept_bytes, "the peak was above 220 MiB, and has the margin of a fit"
    assert 1 == fn.last_run.actions[0].limits.cpu_cores


def test_a_synchronous_task_keeps_its_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the pair that it declares only the limit grows."""
    assert 120 * MI == fn.retry_on_oom(holds_in_sync)(120)
    limits = fn.last_run.actions[0].limits
    assert (60 * MI, 200 * MI) == (limits.memory_request_bytes, limits.memory_bytes)
    kept_bytes = kept_after(fn.last_run.actions[0].attempts[-1].trace) or 200 * MI
    assert f'memory=("60Mi", "{kept_bytes // MI}Mi")' in capsys.readouterr().out


async def test_one_that_passes_at_once_is_called_once_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an OOM it is the task itself."""
    before = {run.name for run in fn.runs}
    assert MI == await fn.retry_on_oom(holds)(1)
    assert [100] == limits_of([run for run in fn.runs if run.name not in before])
    assert "" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "size_mi", "expected", "line"),
    [
        (parent, 120, [200, 100, 200], "grown.holds passed with 200Mi, after OOM at 100Mi; keep resources="),
        (parent_of_sync, 220, [200, 100, 300], 'keep resources=flyte.Resources(cpu=1, memory=("60Mi", "300Mi"))'),
    ],
)
def test_inside_a_task_each_attempt_is_an_action(
    task: Any, size_mi: int, expected: list[int], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run, in which the killed action was caught; what to keep is in the output of the task that called."""
    assert size_mi * MI == flyte.run(task, size_mi).outputs()[0]
    run = fn.last_run
    assert expected == [(action.limits.memory_bytes or 0) // MI for action in run.actions]
    assert run.failure is None
    assert line in capfd.readouterr().err


async def test_at_the_cap_the_last_error_says_all_that_was_tried() -> None:
    """The OOMError of the last attempt, with every limit in its message and on its card."""
    with pytest.raises(flyte.errors.OOMError, match="tried 100Mi, 200Mi and 250Mi, which is as far as it may") as told:
        await fn.retry_on_oom(holds, up_to="250Mi")(900)
    failure = failure_in(told.value)
    assert "tried 100Mi, 200Mi and 250Mi" in failure.headline
    assert 250 * MI == failure.limits.memory_bytes
    assert 3 == len(fn.runs.story(failure.worker))


def test_at_the_cap_inside_a_task_the_callers_error_says_it_too() -> None:
    """What the caller lets through crosses the process with what was tried."""
    with pytest.raises(flyte.errors.OOMError, match="tried 100Mi, 200Mi and 400Mi"):
        flyte.run(parent, 900)


async def test_a_limit_that_the_machine_does_not_have_is_not_tried() -> None:
    """The last OOMError is raised, and says what stands in the way."""
    factor = machine.capacity_bytes() // (100 * MI) + 2
    with pytest.raises(flyte.errors.OOMError, match=r"tried 100Mi; .* is out of reach: needs"):
        await fn.retry_on_oom(holds, factor=factor, up_to="1Ei")(900)


@pytest.mark.parametrize(
    ("task", "inputs", "error"),
    [
        (raises_memory_error, {}, flyte.errors.RuntimeUserError),
        (raises_by_hand, {}, flyte.errors.OOMError),
        (lets_through, {"size_mi": 200}, flyte.errors.OOMError),
    ],
)
async def test_nothing_but_its_own_kill_is_caught(task: Any, inputs: dict[str, Any], error: type[Exception]) -> None:
    """A MemoryError, an OOMError by hand, and the kill of a task that it calls: one attempt, its own error."""
    before = {run.name for run in fn.runs}
    with pytest.raises(error) as told:
        await fn.retry_on_oom(task)(**inputs)
    assert 1 == len({run.name for run in fn.runs} - before)
    assert "tried" not in str(told.value)


async def test_cancelled_in_the_middle_nothing_goes_on(tmp_path: Path, session: Session) -> None:
    """The attempt under way is stopped, and no other one begins."""
    marker = tmp_path / "marker"
    before = {run.name for run in fn.runs}
    call = asyncio.ensure_future(asyncio.to_thread(fn.retry_on_oom(dies_then_waits), str(marker)))
    while not Path(f"{marker}.again").exists():  # noqa: ASYNC240 - another process makes it
        await asyncio.sleep(0.05)
        assert not call.done()
    stopper = threading.Thread(target=session.stop_all)
    stopper.start()
    with pytest.raises(flyte.errors.ActionAbortedError):
        await call
    stopper.join()
    assert [100, 200] == limits_of([run for run in fn.runs if run.name not in before])
    assert session.wait_until_over(fn.last_run.name, 5)


def test_what_cannot_grow_is_refused_before_anything_runs() -> None:
    """No task, no limit, a cap that is no more, a factor that does not grow: each its own sentence."""
    unlimited = holds.override(resources=flyte.Resources(cpu=1))
    with pytest.raises(TypeError, match=r"takes a Flyte task, and this is a function: decorate it with @env\.task"):
        fn.retry_on_oom(len)
    with pytest.raises(ValueError, match="no memory limit that could grow"):
        fn.retry_on_oom(unlimited)
    with pytest.raises(ValueError, match="100Mi is the limit of 100Mi"):
        fn.retry_on_oom(holds, up_to="100Mi")
    with pytest.raises(ValueError, match="does not grow"):
        fn.retry_on_oom(holds, factor=1)


def test_it_is_no_task_and_says_so() -> None:
    """``flyte.run`` and an attribute of a task each say what to do instead."""
    with pytest.raises(TypeError, match="call it like the task"):
        flyte.run(fn.retry_on_oom(holds), 5)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(AttributeError, match="call it like the task"):
        fn.retry_on_oom(holds).override  # noqa: B018 - the look is the test
    assert "<grown.holds from 100Mi, more after each OOM up to 4Gi>" == repr(fn.retry_on_oom(holds))


PLAIN = """
import asyncio, sys
import flyte, flyte.errors
from flyte._internal.controllers import _local_controller
import flyte_notebook as fn

env = flyte.TaskEnvironment(name="plain", resources=flyte.Resources(cpu=2, memory="250Mi"))
seen = []

@env.task
async def oomer(x: int) -> int:
    return x + 1

@env.task
async def parent(x: int) -> int:
    return await fn.retry_on_oom(oomer)(x=x)

sdk = _local_controller.direct_dispatch

async def dispatch(*args, **kwargs):
    "Raise what a cluster does, for any limit below 1000Mi."
    task = kwargs.get("task") or args[0]
    if task.short_name == "oomer":
        seen.append((task.resources.memory, task.resources.cpu))
        if task.resources.memory != "1000Mi":
            error = flyte.errors.OOMError(sys.argv[1], "Pod failed.")
            error.recoverable = True
            return None, error
    return await sdk(*args, **kwargs)

flyte.init()
_local_controller.direct_dispatch = dispatch
try:
    found = flyte.run(parent, 1).outputs()[0]
except flyte.errors.OOMError as error:
    found = error.code
print("said", found, asyncio.run(fn.retry_on_oom(oomer)(x=2)), seen)
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("OOMKilled", ["250Mi", "500Mi", "1000Mi"]),
        ("RetriesExhausted|OOMKilled", ["250Mi", "500Mi", "1000Mi"]),
        ("RoomNotFound", ["250Mi"]),
    ],
)
def test_without_enforcement_it_is_a_plain_program(tmp_path: Path, code: str, expected: list[str]) -> None:
    """The same SDK without us, made to answer as a cluster does: override in a loop, by the code of a kill only."""
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    command = [sys.executable, str(script), code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    value = "2" if len(expected) > 1 else code
    said = f"said {value} 3 {[(memory, 2) for memory in expected]}"
    assert said in done.stdout.splitlines(), done.stdout + done.stderr
    assert (len(expected) > 1) == ('keep resources=flyte.Resources(cpu=2, memory="1000Mi")' in done.stderr)


def test_the_session_is_still_open() -> None:
    """No call closed it."""
    assert enforcement.current() is not None
