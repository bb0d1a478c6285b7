"""Tries out each behaviour of the Flyte SDK that is relied on; an unexpected behaviour raises an error.

Most is observed in one small run of the SDK's own local controller (`rehearsal`), in a worker when a session starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import flyte
import flyte.errors
import flyte.models
import flyte.report
from flyte.syncify import syncify

from flyte_notebook.core.job import Job
from flyte_notebook.core.outcome import Success, WorkerReport
from flyte_notebook.core.reliance import expect
from flyte_notebook.errors import silence_grpc_polling_error
from flyte_notebook.sdk import (
    background_loop,
    calls,
    control_plane,
    data_paths,
    guards,
    initialization,
    lazy,
    rehearsal,
    seam,
    types,
)
from flyte_notebook.sdk.recording import Recording
from flyte_notebook.sdk.tasks import SIZE_KEY, probe_task
from flyte_notebook.worker.process import context

LOOKED_UP_S: Final = 0.001
"""Longer than a lookup in the cache, shorter than a search through all packages."""

rehearsed = functools.cache(rehearsal.rehearse)
"""The facts of this process's rehearsal of the SDK."""


def dispatch_is_called() -> None:
    calls = rehearsed().calls
    names = [str(getattr(call.get("task"), "short_name", "?")) for call in calls]
    expect(names == ["outer", "_add", "_again", "_again", "_fail", "_item", "_item"], f"attempts were {names}")
    needed = {"task", "action", "raw_data_path", "inputs", "version", "output_path", "run_base_dir"}
    missing = {name for call in calls for name in needed - call.keys()}
    expect(not missing, f"an attempt comes without {', '.join(sorted(missing))}")
    expect(rehearsed().values == [2, 2, [10, 20], 1], f"tasks return {rehearsed().values}")


def dispatch_is_looked_up() -> None:
    expect(seam.dispatch_is_looked_up(), "the local controller does not look direct_dispatch up in its module")


def errors_pass() -> None:
    seen = rehearsed()
    expect(seen.caught is not None and seen.caught is seen.given, f"a caller caught {seen.caught!r}")


def bodies_are_seen() -> None:
    raised = rehearsed().raised
    expect([type(error) for error in raised] == [ValueError], f"the body of a task raised {raised}")


def inputs_are_converted() -> None:
    expect(len(rehearsed().converted) == len(rehearsed().calls) - 1, f"{len(rehearsed().converted)} conversions")


def tasks_are_known() -> None:
    names = [str(getattr(task, "short_name", None)) for task in rehearsed().converted]
    expect(names == ["outer", "_add", "_again", "_fail", "_item", "_item"], f"inputs are those of {names}")


def submissions_are_ours() -> None:
    controller, task = type(rehearsed().controllers[0])(), rehearsed().calls[1]["task"]
    heard: list[Any] = []

    async def around(submitted: Any, submission: Awaitable[Any]) -> Any:
        heard.append(submitted)
        return await submission

    undo = seam.replace_submit(around)
    try:
        with contextlib.suppress(flyte.errors.RuntimeSystemError):  # outside of a run it is refused, inside of ours
            asyncio.run(controller.submit(task, 1))
        with contextlib.suppress(flyte.errors.RuntimeSystemError):
            controller.submit_sync(task, 1).result(rehearsal.BOUND_S)
    finally:
        undo()
        seam.end_runners(controller)
    expect(heard == [task, task], f"a task is submitted past us, who heard of {len(heard)} of 2")


def values_are_converted_in_the_open() -> None:
    call, heard = rehearsed().calls[1], []

    def noting(convert: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def noted(*args: Any, **kwargs: Any) -> Any:
            heard.append(convert)
            return await convert(*args, **kwargs)

        return noted

    undo = guards.guard_conversions(noting)
    try:
        values = asyncio.run(seam.native_inputs(call["inputs"], call["task"].native_interface))
    finally:
        undo()
    expect(len(heard) == len(values) > 0, f"{len(values)} values were converted, and {len(heard)} seen")


def sleeps_are_cut() -> None:
    slept_s, task = rehearsed().slept_s, rehearsed().calls[2]["task"]
    backoff_s = seam.backoff_s(task, 1)
    expect(backoff_s is not None and backoff_s > 0, "the pause between two attempts is not known")
    expect(backoff_s is None or slept_s < backoff_s, f"a pause that was cut short took {slept_s:.2f} s")


def maps_run_side_by_side() -> None:
    expect(rehearsed().met, f"items of a map wait for each other (mode {rehearsed().mode})")


def failures_are_logged() -> None:
    repeated = [line for line in rehearsed().logged if line.startswith(seam.REPEATED_LOG)]
    expect(repeated, "a failure is logged in other words")


def retries_are_logged() -> None:
    repeated = [line for line in rehearsed().logged if seam.RETRY_LOG in line]
    expect(repeated, "a failed attempt is logged in other words")


def controllers_are_known() -> None:
    controllers = rehearsed().controllers
    expect(None not in controllers, "an attempt comes without its controller")
    expect(seam.accepts_records(controllers[0]), "it has no recorder that says whether it records")
    job = Job(label="add", run="run", action="a1", entry="", payload=b"", parent="a0")
    recording = Recording(seam.recorder_of(controllers[0], idle=True), "a0")
    recording.started(job)
    recording.ended(job, Success(answer=b"", report=WorkerReport()))


def runners_end() -> None:
    controller, task = rehearsed().controllers[0], rehearsed().calls[1]["task"]
    before = set(threading.enumerate())
    with contextlib.suppress(flyte.errors.RuntimeSystemError):  # outside of a run it is refused, in its own thread
        controller.submit_sync(task, 1).result(rehearsal.BOUND_S)
    threads = set(threading.enumerate()) - before
    expect(threads, "sync tasks have no threads of their own")
    seam.end_runners(controller)
    for thread in threads:
        thread.join(1)
    expect(not any(thread.is_alive() for thread in threads), "the threads of sync tasks go on")


def calls_outside_are_ours() -> None:
    task = rehearsed().calls[1]["task"]
    undo = calls.replace_call(lambda _task, args, _kwargs: ("ours", args))
    try:
        called = task(1)
        if asyncio.iscoroutine(called):
            called.close()
        expect(called == ("ours", (1,)), "a call outside of a run goes past us")
    finally:
        undo()


def kinds_of_calls_are_told_apart() -> None:
    def blocking() -> None:
        pass

    async def awaited() -> None:
        pass

    kinds = [seam.is_sync(probe_task(function)) for function in (blocking, awaited)]
    expect(kinds == [True, False], f"tasks of functions and coroutines seem to be {kinds}")


def waits_are_ours() -> None:
    heard: list[Any] = []
    undo = background_loop.replace_wait(heard.append)
    try:
        expect(_one() == 1, "a blocking call gives another result")
    finally:
        undo()
    expect(len(heard) == 1, "a blocking call waits elsewhere")


@syncify
async def _one() -> int:
    return 1


def settings_are_known() -> None:
    given = {"org": "o", "project": "p", "domain": "d"}
    try:
        flyte.init(**given)
        found = initialization.settings() or {}
        expect({name: found.get(name) for name in given} == given, f"settings of flyte.init are {found}")
        missing = [name for name in initialization.FIELDS if name not in found]
        expect(not missing, f"flyte.init keeps no {', '.join(missing)}")
        initialization.replay(found)
    finally:
        flyte.init()


def init_is_asked_for() -> None:
    expect(initialization.asks_whether_initialized(), "the SDK asks otherwise whether it is initialised")


def loops_are_claimed() -> None:
    async def handler(*, claimed: bool) -> Any:
        loop = asyncio.get_running_loop()
        undo = background_loop.claim_loop(loop) if claimed else background_loop.forget_loop(loop)
        try:
            await _one.aio()
        finally:
            undo()
        return loop.get_exception_handler()

    expect(asyncio.run(handler(claimed=True)) is None, "the SDK sets its handler on a loop that is claimed")
    usual = asyncio.run(handler(claimed=False))
    expect(usual is silence_grpc_polling_error, f"the SDK sets {usual!r} on a loop")


def loops_restart() -> None:
    background_loop.stop_background_loop()
    background_loop.start_background_loop()
    expect(_one() == 1, "the loop of blocking calls does not start again")


def loops_outlive_exits() -> None:
    background_loop.outlive_exits()
    with contextlib.suppress(SystemExit):
        _ends()
    expect(_one() == 1, "the loop of blocking calls does not go on after an exit")


@syncify
async def _ends() -> None:
    raise SystemExit


def reports_are_plain() -> None:
    asked: list[bool] = []

    def check() -> bool:
        asked.append(True)
        return False

    undo = seam.replace_report_check(check)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its template open
            flyte.report.Report(name="report").get_final_report()
    finally:
        undo()
    expect(asked, "a report asks elsewhere whether it is shown in a notebook")


def checkpoints_are_staged() -> None:
    if not hasattr(flyte, "Checkpoint"):
        return  # an SDK that has none loses none
    with tempfile.TemporaryDirectory(dir=context.directory or None) as place:
        saved, staged = Path(place, "saved"), Path(place, "staged")
        saved.write_text("saved")
        paths = flyte.models.CheckpointPaths(checkpoint_path=str(saved), prev_checkpoint_path=str(staged))
        seam.stage_checkpoint({"checkpoint_paths": paths})
        expect(staged.exists(), "what an attempt saved is not handed to the next one")


def packages_are_looked_through_once() -> None:
    took_s = []
    for _ in range(4):
        began_s = time.perf_counter()
        seam.look_for_plugins()
        took_s.append(time.perf_counter() - began_s)
    expect(min(took_s) < LOOKED_UP_S, "the SDK looks through all packages each time")


def literals_are_kept() -> None:
    reason = types.lost()
    expect(not reason, reason)
    value = (1, [None, {"a": b"bytes"}])
    transformer, kind = types.CellInputTransformer(), types.type_of("value", value)

    async def travel() -> Any:
        literal = await transformer.to_literal(value, kind, transformer.get_literal_type())
        again = type(literal).FromString(literal.SerializeToString())
        expect(again.metadata[SIZE_KEY].isdigit(), "the size of a value is lost")
        return await transformer.to_python_value(again, kind)

    back = asyncio.run(travel())
    expect(back == value, f"a value comes back as {back!r}")


def plane_errors_are_known() -> None:
    reason = control_plane.lost()
    expect(not reason, reason)


def stand_ins_can_be_asked() -> None:
    reason = lazy.lost()
    expect(not reason, reason)


def runs_write_where_they_are_told() -> None:
    told: list[tuple[str, str]] = []

    async def dispatch(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        call = seam.call_arguments(args, kwargs)
        told.append((call["raw_data_path"].path, call["run_base_dir"]))
        return await seam.dispatch_as_sdk(*args, **kwargs)

    with tempfile.TemporaryDirectory(dir=context.directory or None) as place:
        raw_data, metadata = f"{place}/raw_data", f"{place}/metadata"
        undo = [
            data_paths.replace_paths(lambda _task: contextlib.nullcontext((raw_data, metadata))),
            seam.replace_dispatch(dispatch),
        ]
        try:
            value = flyte.with_runcontext(mode="local").run(probe_task(_same), 1).outputs()[0]
        finally:
            for back in reversed(undo):
                back()
    expect(value == 1, f"a run returns {value!r}")
    expect([found for found, _ in told] == [raw_data], f"raw data of runs go to {told}")
    expect(all(found.startswith(metadata) for _, found in told), f"metadata of runs go to {told}")


async def _same(x: int) -> int:
    return x


def names_are_ours() -> None:
    undo = data_paths.replace_names()
    before = random.getstate()
    try:
        drawn = []
        for _ in range(2):
            random.seed(1)
            path = flyte.models.RawDataPath(path="memory://raw").get_random_remote_path("name")
            name: Any = flyte.models.ActionID.create_random()  # type: ignore[no-untyped-call]  # the SDK's is not typed
            drawn += [path, name.name]
    finally:
        random.setstate(before)
        undo()
    expect(len(set(drawn)) == len(drawn), f"the same names are drawn again: {drawn}")
    expect(drawn[0].startswith("memory://raw/") and drawn[0].endswith("/name"), f"a file is named {drawn[0]}")


def pickles_go_where_they_are_told() -> None:
    noted: list[str] = []
    transformer = data_paths.pickle_transformer()
    value = bytearray(50_000)

    async def travel(path: str) -> Any:
        literal = await transformer.to_literal(value, object, transformer.get_literal_type(object))
        expect(literal.scalar.blob.uri == path, f"a value is pickled to {literal.scalar.blob.uri or 'no file'}")
        return await transformer.to_python_value(literal, object)

    with tempfile.TemporaryDirectory(dir=context.directory or None) as place:
        path = f"{place}/value"
        undo = data_paths.replace_pickles(lambda: path, lambda path, _size: noted.append(path))
        try:
            back = asyncio.run(travel(path))
        finally:
            undo()
    expect(noted == [path], "a value is pickled elsewhere")
    expect(back == value, f"a value comes back as {back!r:.100}")
