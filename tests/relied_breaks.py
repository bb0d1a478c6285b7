"""How releases that do not exist yet may differ: for each entry of what is relied on, a change of that very thing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import dis
import importlib.util
import inspect
import linecache
import random
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
import flyte
import flyte.errors
import flyte.models
import pytest
from cloudpickle import cloudpickle as of_cloudpickle
from flyte import _initialize, _run
from flyte._internal.controllers import _local_controller
from flyte._internal.runtime import convert, taskrunner
from flyte._persistence._recorder import RunRecorder
from flyte.extend import AsyncFunctionTaskTemplate, TaskTemplate
from flyte.remote import _progress
from flyte.remote._client import controlplane
from flyte.report import _report
from flyte.syncify import _api, syncify
from flyte.types import TypeEngine, _pickle
from flyteidl2.core import literals_pb2  # type: ignore[import-untyped]  # generated, without types

from flyte_notebook.sdk import control_plane, lazy, rehearsal
from flyte_notebook.worker.process import own_pages
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from collections.abc import Callable

    Break = Callable[[pytest.MonkeyPatch], None]


def code_is_reduced_before_the_table(patch: pytest.MonkeyPatch) -> None:
    before = cloudpickle.Pickler.reducer_override

    def reducer_override(self: Any, obj: Any) -> Any:
        if type(obj) is types.CodeType:
            constructor, arguments = of_cloudpickle._code_reduce(obj)
            return constructor, tuple("<made up>" if one == obj.co_filename else one for one in arguments)
        return before(self, obj)

    patch.setattr(cloudpickle.Pickler, "reducer_override", reducer_override)
    patch.setattr(of_cloudpickle, "_code_reduce", cloudpickle.Pickler.dispatch_table[types.CodeType])


def subclasses_are_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pickling.CellPickler, "reducer_override", cloudpickle.Pickler.reducer_override)


def classes_are_filled_by_another_function(patch: pytest.MonkeyPatch) -> None:
    fill = of_cloudpickle._class_setstate
    patch.setattr(of_cloudpickle, "_fill_class", fill, raising=False)
    patch.setattr(fill, "__qualname__", "_fill_class")
    patch.setattr(fill, "__name__", "_fill_class")


def there_is_another_sentinel(patch: pytest.MonkeyPatch) -> None:
    kind: Any = type(dataclasses.MISSING)
    patch.setattr(dataclasses, "MISSING", kind() if sys.version_info < (3, 15) else kind("MISSING"))


def instructions_have_other_names(patch: pytest.MonkeyPatch) -> None:
    before = dis.get_instructions

    def get_instructions(code: types.CodeType) -> Any:
        for step in before(code):
            yield types.SimpleNamespace(argval=step.argval, opname=step.opname.replace("LOAD_", "PUSH_OF_"))

    patch.setattr(dis, "get_instructions", lambda code: [_renamed(step) for step in get_instructions(code)])


def _renamed(step: Any) -> Any:
    step.opname = step.opname.replace("GLOBAL", "MODULE")
    return step


def the_cache_of_lines_is_checked_strictly(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(linecache, "checkcache", linecache.cache.clear)


def the_kernel_is_older(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(own_pages, "MADV_POPULATE_WRITE", 9999)


def _submit() -> Any:
    """Return the function of the local controller that submits a task, whatever is wrapped around it."""
    submit = _local_controller.LocalController.submit
    inner = [cell.cell_contents for cell in submit.__closure__ or () if inspect.isfunction(cell.cell_contents)]
    return inner[0] if inner else submit


def _renames_in_submit(patch: pytest.MonkeyPatch, name: str, *, local: bool = False) -> None:
    submit = _submit()
    field = "co_varnames" if local else "co_names"
    new = tuple(f"{one}_of_another_release" if one == name else one for one in getattr(submit.__code__, field))
    patch.setattr(submit, "__code__", submit.__code__.replace(**{field: new}))
    if not local:
        patch.setattr(_local_controller, f"{name}_of_another_release", getattr(_local_controller, name), raising=False)


def attempts_go_another_way(patch: pytest.MonkeyPatch) -> None:
    _renames_in_submit(patch, "direct_dispatch")


def inputs_are_converted_elsewhere(patch: pytest.MonkeyPatch) -> None:
    _renames_in_submit(patch, "convert")


def the_task_has_another_name(patch: pytest.MonkeyPatch) -> None:
    _renames_in_submit(patch, "_task", local=True)


def errors_are_made_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        convert, "convert_error_to_native", lambda error: flyte.errors.OOMError("OOMKilled", str(error), "worker")
    )


def blocking_tasks_are_submitted_otherwise(patch: pytest.MonkeyPatch) -> None:
    submit = _local_controller.LocalController.submit

    def submit_sync(self: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
        self._runner_map["other"] = runner = _local_controller._TaskRunner()
        return runner.get_run_future(submit(self, task, *args, **kwargs))

    patch.setattr(_local_controller.LocalController, "submit_sync", submit_sync)


def values_are_converted_elsewhere(patch: pytest.MonkeyPatch) -> None:
    async def literal_map_to_kwargs(_engine: Any, literals: Any, types: Any) -> dict[str, Any]:
        return dict.fromkeys(literals.literals, 1)

    patch.setattr(TypeEngine, "literal_map_to_kwargs", classmethod(literal_map_to_kwargs))


def the_loop_is_kept_elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(syncify, "_bg_loop", types.SimpleNamespace())


def bodies_are_called_by_class(patch: pytest.MonkeyPatch) -> None:
    async def run_task(tctx: Any, controller: Any, task: Any, inputs: Any) -> tuple[Any, Any]:
        try:
            return await type(task).execute(task, **inputs), None
        except Exception as error:  # noqa: BLE001 - as the SDK does
            taskrunner.logger.exception(f"Task failed with error: {error}")
            return {}, flyte.errors.CustomError.from_exception(error)

    patch.setattr(taskrunner, "run_task", run_task)


def asyncio_hides_what_a_task_waits_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rehearsal.asyncio, "current_task", object)


def maps_are_sequential_in_every_mode_but_remote(patch: pytest.MonkeyPatch) -> None:
    class Ctx:
        mode = "local"

    patch.setattr(flyte, "ctx", Ctx)


def failures_are_logged_in_other_words(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(taskrunner.logger, "exception", lambda words: taskrunner.logger.error(f"It went wrong: {words}"))


def retries_are_logged_in_other_words(patch: pytest.MonkeyPatch) -> None:
    warn = _local_controller.logger.warning
    patch.setattr(
        _local_controller.logger, "warning", lambda words: warn(words.replace("; retrying in ", ": again in "))
    )


def runs_are_sent_by_another_function(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(_run._Runner, "_submit_remote")


def the_client_has_other_services(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(controlplane.ClientSet, "run_service")


def uploads_are_told_to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_progress, "report_uploads", contextlib.nullcontext)


def every_error_is_of_the_user(patch: pytest.MonkeyPatch) -> None:
    def convert_error(error: Any) -> Exception:
        return flyte.errors.RuntimeUserError(error.code, error.message)

    patch.setattr(convert, "convert_error_to_native", convert_error)


def records_take_other_arguments(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunRecorder, "record_attempt_start", lambda _self, _action, _number=1: None)


class _OtherRunner:
    """Runs what it is given in a thread of its own, whose loop nobody knows by the usual name; ends by itself."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, name="other : loop-runner", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        self.loop.call_later(2, self.loop.stop)
        self.loop.run_forever()
        self.loop.close()

    def _close(self) -> None:
        pass

    def get_run_future(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)


def runners_keep_their_loop_elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_local_controller, "_TaskRunner", _OtherRunner)


def tasks_of_functions_have_their_own_call(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AsyncFunctionTaskTemplate, "__call__", TaskTemplate.__call__)


def kinds_of_calls_are_kept_elsewhere(patch: pytest.MonkeyPatch) -> None:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        object.__setattr__(self, "blocks" if name == "_call_as_synchronous" else name, value)

    patch.setattr(AsyncFunctionTaskTemplate, "__setattr__", set_attribute, raising=False)


def waits_are_elsewhere(patch: pytest.MonkeyPatch) -> None:
    loop = syncify._bg_loop
    patch.setitem(vars(loop), "call_in_loop_sync", loop.call_in_loop_sync)  # setattr would leave it there


def the_loop_cannot_be_stopped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_api._BackgroundLoop, "stop", lambda _self: None)


def loops_are_configured_each_time(patch: pytest.MonkeyPatch) -> None:
    def install() -> None:
        asyncio.get_running_loop().set_exception_handler(flyte.errors.silence_polling_error)

    patch.setattr(_api, "_ensure_polling_error_handler_installed", install)


def init_keeps_less(patch: pytest.MonkeyPatch) -> None:
    before = _initialize._get_init_config
    patch.setattr(_initialize, "_get_init_config", lambda: types.SimpleNamespace(org=before().org))


def each_asks_for_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_initialize, "requires_initialization", lambda function: function)


def the_class_of_runs_is_elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(importlib.util, "find_spec", lambda _name: None)


def runs_keep_their_settings_elsewhere(patch: pytest.MonkeyPatch) -> None:
    before = _run._Runner.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        before(self, *args, **kwargs)
        self._settings = {"env_vars": self.__dict__.pop("_env_vars", None)}

    patch.setattr(_run._Runner, "__init__", init)


def reports_are_always_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_report.Report, "get_final_report", lambda _self: "<html></html>")


def nothing_is_staged(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(_local_controller, "_stage_prev_checkpoint_for_local_retry")


def packages_are_looked_through_each_time(patch: pytest.MonkeyPatch) -> None:
    entry_points = pytest.importorskip("flyte._utils.entry_points", reason="an SDK that remembers none")
    patch.setattr(entry_points, "_installed_entry_points", entry_points._installed_entry_points.__wrapped__)


def literals_are_other_messages(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "flyteidl2.core", None)
    patch.setitem(sys.modules, "flyteidl2.core.literals_pb2", None)


def there_is_another_rpc_library(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "connectrpc.errors", None)
    control_plane._rpc_library.cache_clear()


def stand_ins_load_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(importlib.util.LazyLoader, "exec_module", lambda self, module: self.loader.exec_module(module))
    lazy._classes.cache_clear()


def runs_are_begun_by_another_function(patch: pytest.MonkeyPatch) -> None:
    runner = _run._Runner
    begin = runner._run_local
    patch.setattr(runner, "_begin_local", begin, raising=False)
    run: Any = runner.__dict__["run"]
    wrapped = run.fn if hasattr(run, "fn") else run
    patch.setattr(wrapped, "__code__", _renamed_code(wrapped.__code__, "_run_local", "_begin_local"))


def _renamed_code(code: types.CodeType, before: str, after: str) -> types.CodeType:
    return code.replace(co_names=tuple(after if name == before else name for name in code.co_names))


def files_are_named_elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flyte.models.ActionID, "create_random", classmethod(lambda cls: cls(name=hex(random.getrandbits(9)))))


def values_are_pickled_by_the_transformer(patch: pytest.MonkeyPatch) -> None:
    async def to_literal(_self: Any, value: Any, *_types: Any) -> Any:
        literal = literals_pb2.Literal()
        literal.scalar.binary.value = cloudpickle.dumps(value)
        return literal

    patch.setattr(_pickle.FlytePickleTransformer, "to_literal", to_literal)


BREAKS: dict[str, Break] = {
    "code": code_is_reduced_before_the_table,
    "shared functions": subclasses_are_not_asked,
    "classes": classes_are_filled_by_another_function,
    "dataclasses": there_is_another_sentinel,
    "instructions": instructions_have_other_names,
    "sources": the_cache_of_lines_is_checked_strictly,
    "own pages": the_kernel_is_older,
    "dispatch": attempts_go_another_way,
    "dispatch by name": attempts_go_another_way,
    "errors": errors_are_made_anew,
    "bodies": bodies_are_called_by_class,
    "conversions": inputs_are_converted_elsewhere,
    "submitted task": the_task_has_another_name,
    "submissions": blocking_tasks_are_submitted_otherwise,
    "conversions of values": values_are_converted_elsewhere,
    "thread of the loop": the_loop_is_kept_elsewhere,
    "pauses": asyncio_hides_what_a_task_waits_for,
    "maps": maps_are_sequential_in_every_mode_but_remote,
    "log of failures": failures_are_logged_in_other_words,
    "log of retries": retries_are_logged_in_other_words,
    "client of a cluster": the_client_has_other_services,
    "uploads": uploads_are_told_to_nobody,
    "errors of a cluster": every_error_is_of_the_user,
    "records": records_take_other_arguments,
    "runners": runners_keep_their_loop_elsewhere,
    "calls outside of runs": tasks_of_functions_have_their_own_call,
    "runs on a cluster": runs_are_sent_by_another_function,
    "values of runs": the_class_of_runs_is_elsewhere,
    "settings of runs": runs_keep_their_settings_elsewhere,
    "blocking calls": tasks_of_functions_have_their_own_call,
    "kinds of calls": kinds_of_calls_are_kept_elsewhere,
    "waits": waits_are_elsewhere,
    "background loop": the_loop_cannot_be_stopped,
    "claimed loops": loops_are_configured_each_time,
    "settings of init": init_keeps_less,
    "asking for init": each_asks_for_itself,
    "reports": reports_are_always_shown,
    "checkpoints": nothing_is_staged,
    "entry points": packages_are_looked_through_each_time,
    "paths of runs": runs_are_begun_by_another_function,
    "names of files": files_are_named_elsewhere,
    "pickled values": values_are_pickled_by_the_transformer,
    "literals": literals_are_other_messages,
    "errors of the RPC library": there_is_another_rpc_library,
    "stand-ins of libraries": stand_ins_load_at_once,
}
"""By the key of the entry, for those that are tried out in this process or in a worker."""
