"""The connection to the Flyte SDK, with each private SDK name that is used (those of its loop: `background_loop`).

The seam is one module attribute, ``flyte._internal.controllers._local_controller.direct_dispatch``. The SDK's local
controller does action ids, cache, retries, traces, groups and conversion, and calls it once per attempt. In the kernel
it is replaced by a function that sends the attempt to a worker; in the worker by one that sends a request to the
kernel. The SDK's own function runs in the worker. A contract test checks each private name below.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
import sys
import weakref
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import flyte.models
import flyte.report
from flyte import _context, _run
from flyte._internal.controllers import _local_controller, create_controller
from flyte._internal.runtime import convert
from flyte._internal.runtime.entrypoints import direct_dispatch as _sdk_direct_dispatch
from flyte.extend import AsyncFunctionTaskTemplate, TaskTemplate
from flyte.report import _report

from flyte_notebook.core.stand_in import attach
from flyte_notebook.worker.values.code_objects import global_names

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping

    Dispatch = Callable[..., Awaitable[tuple[Any, Any]]]

__all__ = ["AsyncFunctionTaskTemplate", "TaskTemplate"]

_ended_with: weakref.WeakSet[Any] = weakref.WeakSet()
"""Controllers whose threads end with them."""

run_variables: ContextVar[Mapping[str, str]] = ContextVar("run_variables", default=MappingProxyType({}))
"""The environment variables of the current run: each of its actions gets them."""


def variables_of(runner: Any) -> dict[str, str]:
    """Return the variables that ``flyte.with_runcontext`` sets on a cluster for each action of its run."""
    given = {
        "LOG_LEVEL": getattr(runner, "_log_level", None),
        "USER_LOG_LEVEL": getattr(runner, "_user_log_level", None),
        "FLYTE_RESET_ROOT_LOGGER": "1" if getattr(runner, "_reset_root_logger", False) else None,
        **(getattr(runner, "_env_vars", None) or {}),
    }
    return {str(name): str(value) for name, value in given.items() if value is not None}


def replaced(owner: Any, **values: Any) -> Callable[[], None]:
    """Set attributes of a class or module; return a function that sets them as they were before."""
    before = {name: vars(owner)[name] for name in values}

    def put(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(owner, name, value)

    put(values)
    return functools.partial(put, before)


def replace_dispatch(dispatch: Dispatch) -> Callable[[], None]:
    """Replace the SDK's function; return a function to undo this. Raises RuntimeError when the seam does not exist."""
    if not hasattr(_local_controller, "direct_dispatch"):
        msg = f"flyte {flyte.__version__} has no local direct_dispatch; flyte_notebook cannot isolate its tasks"
        raise RuntimeError(msg)
    return replaced(_local_controller, direct_dispatch=dispatch)


def dispatch_is_looked_up() -> bool:
    """Whether the local controller calls its module's ``direct_dispatch``, judged from its code."""
    methods = [method for method in vars(_local_controller.LocalController).values() if inspect.isfunction(method)]
    # The SDK wraps methods for its log, at some levels.
    wrapped = [cell.cell_contents for method in methods for cell in method.__closure__ or ()]
    codes = [method.__code__ for method in (*methods, *filter(inspect.isfunction, wrapped))]
    return any("direct_dispatch" in global_names(code) for code in codes)


def replace_conversion(naming: Callable[[Any, Callable[..., Awaitable[Any]]], Any]) -> Callable[[], None]:
    """Set ``naming(convert, convert_inputs)`` as the local controller's conversion; return a function to undo this."""
    before: Any = vars(_local_controller)["convert"]
    return replaced(_local_controller, convert=naming(before, before.convert_from_native_to_inputs))


def replace_submit(around: Callable[[Any, Awaitable[Any]], Awaitable[Any]]) -> Callable[[], None]:
    """Have ``around(task, submission)`` awaited for each task of a local controller; return a function to undo this."""
    controller: Any = _local_controller.LocalController
    before = controller.submit

    async def submit(self: Any, _task: Any, *args: Any, **kwargs: Any) -> Any:
        return await around(_task, before(self, _task, *args, **kwargs))

    return replaced(controller, submit=submit)


def submitted_task(depth: int) -> Any:
    """Return the task that ``LocalController.submit`` is submitting, ``depth`` frames up; ``None`` elsewhere.

    The controller passes only the task's interface to its conversions.
    """
    return sys._getframe(depth + 1).f_locals.get("_task")


def is_sync(task: Any) -> bool:
    """Whether a call of the task blocks; otherwise it is awaited."""
    return bool(task._call_as_synchronous)


def is_cached(task: Any) -> bool:
    """Whether the SDK may look for the result of a task in its cache; also true if the task is not known."""
    cache = getattr(task, "cache", "auto")
    return getattr(cache, "behavior", cache) not in {None, "disable"}


def run_local(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str | None = None, uncached: bool = False
) -> Any:
    """Run a task in the SDK's local mode and return its result; blocks.

    ``uncached``: no result is from the cache.
    """
    args, kwargs = _by_position(task, args, kwargs)
    run = flyte.with_runcontext(mode="local", name=name, disable_run_cache=uncached).run(task, *args, **kwargs)
    return native_outputs(task, run.outputs())


async def run_local_async(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str | None = None, uncached: bool = False
) -> Any:
    """As `run_local`, awaited."""
    args, kwargs = _by_position(task, args, kwargs)
    runner = flyte.with_runcontext(mode="local", name=name, disable_run_cache=uncached)
    run = await runner.run.aio(task, *args, **kwargs)
    return native_outputs(task, await run.outputs.aio())


def _by_position(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the same arguments, by position where possible: some names are parameters of the SDK's own functions."""
    ordered, named = list(args), dict(kwargs)
    for name in list(task.native_interface.inputs)[len(args) :]:
        if name not in named:
            break
        ordered.append(named.pop(name))
    return tuple(ordered), named


def native_outputs(task: Any, outputs: tuple[Any, ...]) -> Any:
    """Return the task's result, from the outputs of its run."""
    if len(task.native_interface.outputs) <= 1 and len(outputs) == 1:
        return outputs[0]
    return tuple(outputs)


def look_for_plugins() -> None:
    """Have the SDK search installed packages only once; each ``flyte.init`` would search them again, in 5 ms."""
    try:
        from flyte._utils.entry_points import _installed_entry_points  # noqa: PLC0415 - older SDKs have no cache
    except ImportError:
        return
    _installed_entry_points()


def context_settings() -> dict[str, Any]:
    """Return the parts of the caller's context that a worker needs to run an attempt in the same way."""
    data = _context.internal_ctx().data
    task_context = data.task_context
    return {
        "variables": dict(run_variables.get()),
        "disable_run_cache": bool(task_context and task_context.disable_run_cache),
        "raw_data_path": data.raw_data_path,
        "preserve_original_types": data.preserve_original_types,
    }


async def dispatch_here(call: dict[str, Any], settings: dict[str, Any], dispatch: Dispatch) -> tuple[Any, Any]:
    """Run an attempt in this process, as the SDK does; nested calls use ``dispatch``.

    The context has mode ``hybrid``: under ``local`` the SDK runs the items of ``flyte.map`` one after the other.
    """
    replace_dispatch(dispatch)
    _run._run_mode_var.set("local")
    run_variables.set(settings["variables"])
    with _attempt_context(call, settings):
        return await _sdk_direct_dispatch(**call, controller=create_controller("local"))


async def dispatch_as_sdk(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Run an attempt with the arguments of one dispatch, as the SDK without this package does."""
    result: tuple[Any, Any] = await _sdk_direct_dispatch(*args, **kwargs)
    return result


async def submit_here(task: Any, args: tuple[Any, ...], call: dict[str, Any]) -> Any:
    """Submit a task to the SDK's local controller in this process, as the SDK does inside a run; return its value."""
    settings = {"disable_run_cache": True, "raw_data_path": call["raw_data_path"], "preserve_original_types": False}
    with _attempt_context(call, settings):
        return await create_controller("local").submit(task, *args)


def _attempt_context(call: dict[str, Any], settings: dict[str, Any]) -> Any:
    parent = flyte.models.TaskContext(
        action=call["action"],
        version=call["version"],
        raw_data_path=call["raw_data_path"],
        output_path=call["output_path"],
        run_base_dir=call["run_base_dir"],
        report=flyte.report.Report(name=call["action"].name),
        mode="hybrid",
        disable_run_cache=settings["disable_run_cache"],
    )
    data = _context.ContextData(
        task_context=parent,
        raw_data_path=settings["raw_data_path"],
        preserve_original_types=settings["preserve_original_types"],
    )
    return _context.Context(data)


def stage_checkpoint(call: dict[str, Any]) -> None:
    """Let an attempt load the checkpoint of the previous one. Idempotent; the SDK does so only for its own retries."""
    stage = getattr(_local_controller, "_stage_prev_checkpoint_for_local_retry", None)
    if stage is not None:  # older SDKs have no checkpoints
        stage(call.get("checkpoint_paths"))


def controller_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the dispatching controller from the arguments of one dispatch; ``None`` if it is missing."""
    return kwargs.get("controller") or next((item for item in args if hasattr(item, "_recorder")), None)


def accepts_records(controller: Any) -> bool:
    """Whether a controller has a recorder that tells whether it records."""
    return hasattr(getattr(controller, "_recorder", None), "is_active")


def end_runners_with(controller: Any) -> None:
    """End a local controller's threads for sync tasks when there is no reference to the controller any more.

    The SDK makes a controller for each run, and does not end the thread and loop of each run of a sync task.
    """
    runners = getattr(controller, "_runner_map", None)
    if runners is not None and controller not in _ended_with:
        _ended_with.add(controller)
        weakref.finalize(controller, _end_all, runners).atexit = False


def end_runners(controller: Any) -> None:
    """End a controller's threads for sync tasks."""
    _end_all(controller._runner_map)


def _end_all(runners: dict[str, Any]) -> None:
    for runner in runners.values():
        loop = getattr(runner, "_TaskRunner__loop", None)
        atexit.unregister(runner._close)
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(loop.stop)


def recorder_of(controller: Any, *, idle: bool = False) -> Any:
    """Return the recorder of a controller, ``None`` when it records nothing; with ``idle`` return it even then."""
    recorder = getattr(controller, "_recorder", None)
    return recorder if idle or (recorder is not None and recorder.is_active) else None


async def native_inputs(inputs: Any, interface: Any) -> dict[str, Any]:
    """Return the Python values of an attempt's inputs, by name."""
    values: dict[str, Any] = await convert.convert_inputs_to_native(inputs, interface)
    return values


def to_native(error: Any) -> Exception:
    """Return the exception for an error in the SDK's wire form."""
    native = convert.convert_error_to_native(error)
    if native is None:
        return flyte.errors.RuntimeSystemError("BadError", f"the SDK gave an error without content: {error!r}")
    return native


def replace_remote_submit(sent: Callable[[Any], object]) -> Callable[[], None]:
    """Call ``sent(run)`` for each run that is sent to a cluster, on the SDK's loop; return a function to undo this.

    Without a known place for it nothing is done: its entry says what is lost.
    """
    runner: Any = _run._Runner
    before = getattr(runner, "_submit_remote", None)
    if before is None:
        return lambda: None

    async def submit(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = await before(self, *args, **kwargs)
        sent(run)
        return run

    return replaced(runner, _submit_remote=submit)


def remote_submit_is_looked_up() -> bool:
    """Whether the SDK's code for runs on a cluster submits them by the method that `replace_remote_submit` replaces."""
    submit = getattr(_run._Runner, "_submit_remote", None)
    code: Any = inspect.unwrap(_run._Runner._run_remote).__code__
    return inspect.iscoroutinefunction(submit) and "_submit_remote" in code.co_names


def native_error(kind: str, code: str, message: str) -> Exception:
    """Return the exception for an error of a cluster, of the class that the SDK gives it."""
    from flyteidl2.core import execution_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - generated, not in a worker

    kinds = execution_pb2.ExecutionError
    wire = kinds.SYSTEM if kind == "system" else kinds.USER
    return to_native(execution_pb2.ExecutionError(kind=wire, code=code, message=message))


def for_retry_loop(error: BaseException, *, last: bool) -> BaseException:
    """Return the error in the form for the SDK's retry loop.

    The loop reads ``recoverable`` only to skip attempts; after the last one there is none to skip, and False would only
    cause a useless warning in its log.
    """
    if last:
        attach(error, "recoverable", True)  # the loop reads it from any exception
    return error


def backoff_s(task: Any, attempts: int) -> float | None:
    """Return how long the retry loop sleeps after that many attempts, ``None`` if this version does not tell it."""
    policy = getattr(task.retries, "backoff", None)
    if policy is not None:
        return float(policy.compute_delay(attempts - 1).total_seconds())
    first = getattr(_local_controller, "_MIN_BACKOFF_ON_ERR_SEC", None)
    factor = getattr(_local_controller, "_BACKOFF_MULTIPLIER", None)
    return None if first is None or factor is None else float(first * factor ** (attempts - 1))


def cut_sleep_short(task: asyncio.Task[Any]) -> None:
    """End the sleep of the retry loop, which the task of a run waits for; called in the task's own thread.

    There is no public way: asyncio keeps the awaited future of a task in ``_fut_waiter``.
    """
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


REPEATED_LOG = "Task failed with error"
"""The beginning of the SDK's log message for a failed task, with a traceback that its error contains anyway."""

RETRY_LOG = "; retrying in "
"""A part of the SDK's log message for a failed attempt that is not the last."""


def leave_retries_to_us() -> Callable[[], None]:
    """Drop the SDK's message for each failed attempt, where we show the attempts; return a function to undo this."""
    logger = logging.getLogger("flyte")

    def wanted(record: logging.LogRecord) -> bool:
        return RETRY_LOG not in str(record.msg)

    logger.addFilter(wanted)
    return lambda: logger.removeFilter(wanted)


def settle_in_worker() -> None:
    """Correct the SDK's behaviour in a worker.

    It logs a traceback that the error contains anyway; and where IPython is loaded, flushing a report returns an object
    for display, which cannot be written.
    """
    replace_report_check(lambda: False)

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(REPEATED_LOG)

    logging.getLogger("flyte").addFilter(wanted)


def replace_report_check(check: Callable[[], bool]) -> Callable[[], None]:
    """Let a report use ``check()`` to find out whether it is shown in a notebook; return a function to undo this."""
    return replaced(_report, ipython_check=check)


def call_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of one dispatch by name, without the controller, as each side has its own one."""
    call = dict(kwargs)
    if args:
        call["task"] = args[0]
    call.pop("controller", None)
    return call
