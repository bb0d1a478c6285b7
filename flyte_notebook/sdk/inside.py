"""The code of a worker: runs one attempt with the SDK; nested calls are sent to the kernel and become siblings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO

from flyte_notebook.cells import generators
from flyte_notebook.core import private
from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.stand_in import attach
from flyte_notebook.errors import ON_CLUSTER, InlineIOMaxBytesBreached
from flyte_notebook.sdk import calls, celltask, conversion, guards, initialization, places, seam, tasks
from flyte_notebook.sdk.again import load_again
from flyte_notebook.sdk.inputs import NamingConversion
from flyte_notebook.sdk.spooled import spooled
from flyte_notebook.sdk.user_code import watched
from flyte_notebook.worker.process import body, child, context, protocol
from flyte_notebook.worker.values import named_pickles, pickling


def canary(_file: BinaryIO) -> bytes:
    """Answer with this process's pid: proof that a job runs outside of the kernel."""
    return str(os.getpid()).encode()


def execute(file: BinaryIO) -> bytes:
    """Run one attempt and return its outputs, pickled. Raises the exceptions of user code.

    An error of the SDK has as an attribute the error that a caller on a cluster would get, if it is another one.
    """
    try:
        return _execute(file)
    except BaseException as error:
        elsewhere = conversion.as_from_cluster(error)
        if elsewhere is not None:
            attach(error, ON_CLUSTER, elsewhere)
        raise


def _execute(file: BinaryIO) -> bytes:
    pickling.by_name_everywhere()
    pickling.keep_code_whole()
    seam.settle_in_worker()
    seam.replace_conversion(NamingConversion)
    seam.replace_submit(guards.submitted)
    guards.guard_conversions()
    calls.replace_sync_calls(body.as_in_thread)
    told = tasks.unpack(file)
    named_pickles.make_known(told["names"])
    initialization.replay(told["init"])
    generators.given = told["generators"]
    call = told["call"]
    undo = places.use(replace(told["places"], cached=_is_cached(call["task"], told["settings"])))
    if os.environ.get("FLYTE_ATTEMPT_NUMBER", "0") != "0":
        seam.stage_checkpoint(call)
    call["task"], raised = watched(call["task"])
    run: Callable[..., Any] = body.beside if isinstance(call["task"], celltask.CellTask) else asyncio.run
    outputs = error = None
    try:
        outputs, error = run(seam.dispatch_here(call, told["settings"], _dispatch))
    except BaseException as wrong:  # noqa: BLE001 - user code may raise any exception, which is raised again below
        # The SDK writes an exception's text as UTF-8; some have no text, or a text that cannot be written.
        if not raised:
            raise private.fault_in(wrong, call["raw_data_path"].path) or wrong from None
    finally:
        spooled.clear()
        undo()
    if raised:
        raise raised[0]
    if error is not None:
        raise seam.to_native(error)
    _check_inline_size(call["task"], outputs)
    if outputs is not None:
        load_again(outputs, call["task"].native_interface)
    return pickling.dumps(outputs)


async def _dispatch(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Replace the SDK's direct dispatch: request a sibling from the kernel."""
    call = seam.call_arguments(args, kwargs)
    where = places.current()
    assert where is not None
    call = where.of_attempt(call)
    try:
        job = tasks.job_for(call, context.directory, root=False)
        tasks.check_inline_size(call["task"], call["inputs"].proto_inputs.literals, "input")
    except (ValueError, InlineIOMaxBytesBreached) as error:
        return None, seam.for_retry_loop(
            tasks.refusal(error, call["task"].name), last=tasks.attempts_of(call["task"]) == 1
        )
    channel = child.channel
    if channel is None:
        raise RuntimeError("a process that a task forked cannot call tasks; call them in the task itself")
    number, future = channel.call({"job": job})
    try:
        reply = await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        channel.cancel(number)
        raise
    if reply["facts"] is None:
        return pickling.loads(protocol.unpacked(reply)), None
    from flyte_notebook.core.diagnosis import diagnose  # noqa: PLC0415 - 200 KiB, for tasks that call one that fails

    job, report = reply["facts"]
    outcome = diagnose(job, report, unpickle=pickling.loads)
    assert isinstance(outcome, Failure)
    return None, seam.for_retry_loop(outcome.error, last=job.attempt + 1 >= job.max_attempts)


def _is_cached(task: Any, settings: dict[str, Any]) -> bool:
    return seam.is_cached(task) and not settings["disable_run_cache"]


def _check_inline_size(task: Any, outputs: Any) -> None:
    """Refuse outputs above ``max_inline_io_bytes``, as a cluster does."""
    if outputs is not None:
        tasks.check_inline_size(task, outputs.proto_outputs.literals, "output")
