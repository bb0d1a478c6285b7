"""The contract with the SDK: every private name that is used is there and does what is expected of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import flyte
import flyte.errors
import pytest
from flyte import _context, _initialize, _run
from flyte._internal.controllers import _local_controller, create_controller
from flyte._internal.runtime import convert
from flyte._internal.runtime.entrypoints import direct_dispatch
from flyte.report import _report
from flyte.syncify import _api, syncify

from flyte_notebook.sdk import background_loop, calls, initialization, seam

env = flyte.TaskEnvironment(name="seam")


@env.task
async def add(x: int, y: int = 1) -> int:
    return x + y


def test_the_seam_is_one_module_attribute() -> None:
    """The local controller looks direct_dispatch up in its module, once per attempt, with these keywords."""
    heard: list[dict[str, Any]] = []

    async def dispatch(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        heard.append(seam.call_arguments(args, kwargs))
        return None, seam.for_retry_loop(flyte.errors.NonRecoverableError("heard"), last=True)

    undo = seam.replace_dispatch(dispatch)
    try:
        with pytest.raises(flyte.errors.NonRecoverableError, match="heard"):
            flyte.run(add, 1)
    finally:
        undo()
    assert direct_dispatch is _local_controller.direct_dispatch
    (call,) = heard
    assert {"task", "action", "raw_data_path", "inputs", "version", "output_path", "run_base_dir"} <= set(call)
    assert "controller" not in call
    assert add.name == call["task"].name


def test_the_retry_loop_sleeps_as_long_as_is_said_and_can_be_woken() -> None:
    """The sleep between two attempts is the policy's, or the SDK's own; ended early, the next attempt comes at once."""
    own = add.override(retries=3)
    policy = add.override(retries=flyte.RetryStrategy(count=3, backoff=flyte.Backoff(base=timedelta(seconds=60))))
    assert [0.5, 1.0, 2.0] == [seam.backoff_s(own, attempts) for attempts in (1, 2, 3)]
    assert 60.0 == seam.backoff_s(policy, 2)
    times: list[float] = []

    async def dispatch(*_: Any, **__: Any) -> tuple[Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        times.append(time.monotonic())
        asyncio.get_running_loop().call_later(0.1, seam.cut_sleep_short, task)
        error: Any = flyte.errors.RuntimeUserError("Again", "again")
        error.recoverable = True
        return None, error

    undo = seam.replace_dispatch(dispatch)
    try:
        with pytest.raises(flyte.errors.RuntimeUserError, match="again"):
            flyte.run(policy, 1)
    finally:
        undo()
    assert 4 == len(times)
    assert times[-1] - times[0] < 30


def test_a_missing_seam_is_refused_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the attribute nothing is patched and the error names the SDK's version."""
    monkeypatch.delattr(_local_controller, "direct_dispatch")
    with pytest.raises(RuntimeError, match=rf"flyte {flyte.__version__} has no local direct_dispatch"):
        seam.replace_dispatch(None)  # type: ignore[arg-type]  # never called


def test_an_exception_passes_the_sdks_conversion_as_it_is() -> None:
    """convert_error_to_native gives back the very exception, so class, cause and failure survive."""
    error = flyte.errors.OOMError("OOMKilled", "message", "worker")
    assert error is convert.convert_error_to_native(error)
    assert error is seam.to_native(error)


def test_a_call_outside_of_a_run_is_ours_and_inside_the_sdks() -> None:
    """Only a call without a task context goes through the function that was given."""
    heard: list[tuple[Any, ...]] = []

    def outside(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        heard.append((task, args, kwargs))
        return "outside"

    undo = calls.replace_call(outside)
    try:
        assert "outside" == add(1, y=2)
        assert 5 == flyte.run(add, 2, y=3).outputs()[0]
    finally:
        undo()
    assert [(add, (1,), {"y": 2})] == heard
    assert 3 == asyncio.run(add(2))


def test_the_private_names_are_there() -> None:
    """Names that are only read or set: each exists with the shape that is relied on."""
    assert "local" in inspect.getsource(create_controller)
    assert callable(_initialize._get_init_config)
    assert _run._run_mode_var.get() is None
    assert isinstance(_api._configured_loops, set)
    assert callable(_report.ipython_check)
    data = _context.internal_ctx().data
    assert {"task_context", "raw_data_path", "preserve_original_types"} <= set(type(data).__dataclass_fields__)
    assert hasattr(_local_controller.LocalController(), "_recorder")
    assert add._call_as_synchronous is False


def test_a_blocking_call_waits_in_our_way_on_the_main_thread_only() -> None:
    """flyte.run on the main thread goes through the function that was given, result and error stay the SDK's own."""
    heard: list[concurrent.futures.Future[Any]] = []

    @env.task
    async def fail() -> None:
        raise ValueError("as it should")

    def waiting(future: concurrent.futures.Future[Any]) -> None:
        heard.append(future)
        concurrent.futures.wait([future])

    before = _api._BackgroundLoop.call_in_loop_sync
    undo = background_loop.replace_wait(waiting)
    try:
        assert 3 == flyte.run(add, 1, y=2).outputs()[0]
        assert len(heard) >= 1
        assert all(future.done() for future in heard)
        with pytest.raises(flyte.errors.RuntimeUserError, match="as it should"):
            flyte.run(fail)
        count = len(heard)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert 5 == pool.submit(lambda: flyte.run(add, 2, y=3).outputs()[0]).result()
        assert 7 == asyncio.run(_awaited(3, 4))
        assert count == len(heard)
    finally:
        undo()
    assert before is _api._BackgroundLoop.call_in_loop_sync


async def _awaited(x: int, y: int) -> int:
    run = await flyte.run.aio(add, x, y)
    return int((await run.outputs.aio())[0])


def test_a_wait_that_ends_early_leaves_the_rest_to_the_sdk() -> None:
    """When our function returns at once, the result is still waited for; what it raises ends the call."""
    undo = background_loop.replace_wait(lambda _future: None)
    try:
        assert 3 == flyte.run(add, 1, y=2).outputs()[0]
    finally:
        undo()

    def interrupted(_future: object) -> None:
        raise KeyboardInterrupt

    undo = background_loop.replace_wait(interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            flyte.run(add, 1, y=2)
    finally:
        undo()


def test_a_missing_wait_is_refused_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the method nothing is patched and the error names the SDK's version."""
    monkeypatch.delattr(_api._BackgroundLoop, "call_in_loop_sync")
    with pytest.raises(RuntimeError, match=rf"flyte {flyte.__version__} has no call_in_loop_sync"):
        background_loop.replace_wait(lambda _future: None)


def test_settings_of_init_can_be_given_again() -> None:
    """What settings returns, flyte.init accepts; the client is not among it."""
    flyte.init(project="p", domain="d")
    try:
        settings = initialization.settings()
        assert settings is not None
        assert ("p", "d") == (settings["project"], settings["domain"])
        assert "client" not in settings
        initialization.replay(settings)
    finally:
        flyte.init()


def test_a_claimed_loop_keeps_its_handler() -> None:
    """After claim_loop an .aio() call leaves the loop's exception handler alone; unclaimed, the SDK sets its own."""

    def ours(loop: Any, context: Any) -> None:
        raise AssertionError(context)

    async def main() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(ours)
        _api._configured_loops.discard(id(loop))  # the SDK remembers numbers: one before may have had this one
        unclaim = background_loop.claim_loop(loop)
        await flyte.run.aio(add, 1)
        claimed = loop.get_exception_handler()
        unclaim()
        await flyte.run.aio(add, 1)
        return claimed, loop.get_exception_handler()

    claimed, unclaimed = asyncio.run(main())
    assert claimed is ours
    assert flyte.errors.silence_polling_error is unclaimed


def test_native_outputs_are_what_the_task_returned() -> None:
    """One output is itself, none is None, two are a tuple."""

    @env.task
    async def two() -> tuple[int, str]:
        return 1, "a"

    @env.task
    async def none() -> None:
        pass

    assert 3 == seam.run_local(add, (1, 2), {})
    assert (1, "a") == seam.run_local(two, (), {})
    assert seam.run_local(none, (), {}) is None


def test_arguments_may_have_the_names_of_the_sdks_own() -> None:
    """Given by keyword, an input named ``obj`` reaches the task; a default in between is left to the SDK."""

    @env.task
    async def named(obj: int, task: int = 10, kind: int = 100) -> int:
        return obj + task + kind

    assert 111 == seam.run_local(named, (), {"obj": 1})
    assert 103 == seam.run_local(named, (), {"obj": 1, "task": 2})
    assert 14 == asyncio.run(seam.run_local_async(named, (), {"obj": 1, "kind": 3}))


@env.task
def add_in_sync(x: int, y: int = 1) -> int:
    return x + y


def test_the_threads_of_sync_tasks_end_with_their_controller() -> None:
    """The SDK leaves a thread and a loop behind for each run of a sync task; told to, they end with the controller."""

    def runners() -> set[threading.Thread]:
        gc.collect()
        return {thread for thread in threading.enumerate() if thread.name.endswith(": loop-runner")}

    async def dispatch(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        seam.end_runners_with(seam.controller_of(args, kwargs))
        seam.end_runners_with(seam.controller_of(args, kwargs))
        return await direct_dispatch(*args, **kwargs)

    before = runners()  # those of other tests may end at any time
    undo = seam.replace_dispatch(dispatch)
    try:
        for number in range(4):
            assert number + 1 == flyte.run(add_in_sync, number).outputs()[0]
    finally:
        undo()
    create_controller("local")  # the SDK holds the one that it made last
    until_s = time.monotonic() + 20
    while runners() - before and time.monotonic() < until_s:
        time.sleep(0.01)
    assert set() == runners() - before


BACKGROUND = """
import os, sys, threading, time
import flyte
from flyte_notebook.sdk import background_loop, seam
env = flyte.TaskEnvironment(name="background")
@env.task
async def add(x: int, y: int = 1) -> int:
    return x + y
before, tasks = {thread.name for thread in threading.enumerate()}, len(os.listdir("/proc/self/task"))
background_loop.stop_background_loop()
until = time.monotonic() + 20  # the kernel takes its time
while len(os.listdir("/proc/self/task")) >= tasks and time.monotonic() < until:
    time.sleep(0.001)
print(sorted(before), [thread.name for thread in threading.enumerate()], tasks - len(os.listdir("/proc/self/task")))
sys.stdout.flush()
if os.fork() == 0:
    background_loop.start_background_loop()
    flyte.init()
    print(flyte.run(add, 1).outputs()[0], {thread.name for thread in threading.enumerate()} >= before, flush=True)
    sys.exit()
os.wait()
"""


@pytest.mark.slow
@pytest.mark.linux  # workers are forked there only
def test_the_background_loop_can_be_stopped_before_a_fork_and_started_after_it() -> None:
    """Its thread is gone, for the kernel as well; in the forked process the SDK works as before; the end is silent."""
    done = subprocess.run([sys.executable, "-c", BACKGROUND], capture_output=True, text=True, timeout=60, check=False)
    assert "['MainThread', 'flyte_syncify'] ['MainThread'] 1\n2 True\n" == done.stdout, done.stderr
    assert "Error" not in done.stderr


def test_a_background_loop_that_is_not_known_is_refused_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK whose loop is made otherwise is not forked from; the reason names its version."""
    monkeypatch.setattr(syncify, "_bg_loop", object())
    with pytest.raises(RuntimeError, match="no background loop that is known"):
        background_loop.stop_background_loop()


def test_what_is_installed_is_looked_for_once() -> None:
    """The SDK remembers what it found, so that a worker's ``flyte.init`` need not look; older ones remember nothing."""
    seam.look_for_plugins()
    entry_points = pytest.importorskip("flyte._utils.entry_points", reason="an SDK that remembers none")
    before = entry_points._installed_entry_points.cache_info()
    seam.look_for_plugins()
    after = entry_points._installed_entry_points.cache_info()
    assert (before.hits + 1, before.misses, 1) == (after.hits, after.misses, after.currsize)
