"""The entries for the behaviour of the Flyte SDK and its libraries that is relied on."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import BinaryIO, Final

from flyte_notebook.core.bound import to_json
from flyte_notebook.core.reliance import Reliance, loss_of
from flyte_notebook.sdk import probes, probes_of_runs, seam
from flyte_notebook.worker import relies as of_workers
from flyte_notebook.worker.values import pickling

_of_the_sdk = functools.partial(Reliance, library="flyte")

ENTRIES: Final = (
    _of_the_sdk(
        key="dispatch",
        behaviour="the local controller calls `direct_dispatch` of its module once for each attempt, with these "
        "arguments by name, and takes outputs and error back",
        lost="limits: tasks would run inside the notebook",
        names=("_local_controller", "_internal", "_context", "_run", "_run_mode_var"),
        probe=probes.dispatch_is_called,
        refuse=True,
    ),
    _of_the_sdk(
        key="dispatch by name",
        behaviour="the code of the local controller looks `direct_dispatch` up in its module",
        lost="limits: tasks would run inside the notebook",
        probe=probes.dispatch_is_looked_up,
        where="kernel",
        refuse=True,
    ),
    _of_the_sdk(
        key="errors",
        behaviour="an exception passes `convert_error_to_native` as it is, up to who called the task",
        lost="the exact class, the cause and the card of an error in a task that another task called",
        probe=probes.errors_pass,
    ),
    _of_the_sdk(
        key="bodies",
        behaviour="a task is run by its method `execute`, which a copy of the task may replace",
        lost="the exception that a task raised, with its traceback",
        probe=probes.bodies_are_seen,
    ),
    _of_the_sdk(
        key="conversions",
        behaviour="the local controller looks `convert_from_native_to_inputs` up in its `convert`",
        lost="errors of inputs that do not fit name the variable",
        probe=probes.inputs_are_converted,
    ),
    _of_the_sdk(
        key="submitted task",
        behaviour="the frame that converts inputs has the task as `_task`",
        lost="errors of inputs that do not fit name the task; and large inputs of tasks without a cache are hashed",
        names=("_task",),
        probe=probes.tasks_are_known,
    ),
    _of_the_sdk(
        key="submissions",
        behaviour="`submit` of the local controller runs each task, blocking ones too",
        lost="an exit or an interrupt that code of yours raises while a task is submitted is an error of that call",
        probe=probes.submissions_are_ours,
    ),
    _of_the_sdk(
        key="conversions of values",
        behaviour="values become literals, and literals values, in `TypeEngine.to_literal` and `to_python_value`",
        lost="an exit or an interrupt that code of an input or output raises is an error of that call",
        probe=probes.values_are_converted_in_the_open,
    ),
    _of_the_sdk(
        key="thread of the loop",
        behaviour="the loop of blocking functions can go on in another thread",
        lost="runs after code of yours has raised an exit on the loop of the SDK: they wait for ever",
        probe=probes.loops_outlive_exits,
    ),
    Reliance(
        key="pauses",
        library="CPython",
        behaviour="a task of asyncio keeps what it waits for as `_fut_waiter`, and the SDK's pauses are as it declares",
        lost="Stop ends the pause between two attempts at once, and the live line counts it down",
        names=("_fut_waiter", "_MIN_BACKOFF_ON_ERR_SEC", "_BACKOFF_MULTIPLIER"),
        probe=probes.sleeps_are_cut,
    ),
    _of_the_sdk(
        key="maps",
        behaviour="`flyte.map` runs its items side by side in mode `hybrid`",
        lost="items of `flyte.map` run side by side",
        probe=probes.maps_run_side_by_side,
    ),
    _of_the_sdk(
        key="log of failures",
        behaviour=f"what it logs of a failed task begins with {seam.REPEATED_LOG!r}",
        lost="a failure is told once: its traceback is in the log as well",
        probe=probes.failures_are_logged,
    ),
    _of_the_sdk(
        key="log of retries",
        behaviour=f"what it logs of an attempt that is not the last contains {seam.RETRY_LOG!r}",
        lost="a failed attempt is told once in a notebook: the SDK's message stands there as well",
        probe=probes.retries_are_logged,
    ),
    _of_the_sdk(
        key="records",
        behaviour="a controller has a recorder, which takes the start and the end of actions",
        lost="nested actions in the SDK's own records of runs",
        names=("_recorder",),
        probe=probes.controllers_are_known,
    ),
    _of_the_sdk(
        key="runners",
        behaviour="a controller keeps the threads that it starts for sync tasks, and each has a loop",
        lost="threads of sync tasks end with their run: one stays for each",
        names=("_runner_map", "_TaskRunner__loop", "_close"),
        probe=probes.runners_end,
    ),
    _of_the_sdk(
        key="calls outside of runs",
        behaviour="`task(...)` is `TaskTemplate.__call__`, and its context tells whether it is inside of a run",
        lost="limits of a task that is called outside of any run",
        probe=probes.calls_outside_are_ours,
    ),
    _of_the_sdk(
        key="runs on a cluster",
        behaviour="`_submit_remote` of what `flyte.with_runcontext` makes submits a run, and returns it",
        lost="cards and trees of runs that `flyte.run` submits to a cluster",
        names=("_Runner", "_submit_remote", "_run_remote"),
        probe=probes_of_runs.remote_runs_are_seen,
    ),
    _of_the_sdk(
        key="values of runs",
        behaviour="`flyte.run` returns a `Run` of `flyte.remote._run`; the `url` of a local one ends with its name",
        lost="the value of a local run is shown as one line",
        probe=probes_of_runs.values_of_runs_are_known,
    ),
    _of_the_sdk(
        key="settings of runs",
        behaviour="a runner of `flyte.with_runcontext` keeps environment variables and log levels under these names",
        lost="environment variables and log levels of `flyte.with_runcontext` in local tasks",
        names=("_env_vars", "_log_level", "_user_log_level", "_reset_root_logger"),
        probe=probes_of_runs.settings_of_runs_are_known,
    ),
    _of_the_sdk(
        key="blocking calls",
        behaviour="`TaskTemplate.__call__` refuses a call that blocks where `asyncio.get_running_loop()` finds a loop",
        lost="calls of blocking tasks in the body of a cell",
        names=("_get_running_loop", "_set_running_loop"),
        probe=probes_of_runs.blocking_calls_find_no_loop,
    ),
    _of_the_sdk(
        key="kinds of calls",
        behaviour="`_call_as_synchronous` tells whether a call of a task blocks",
        lost="calls of tasks outside of any run, and the code that a card shows",
        names=("_call_as_synchronous",),
        probe=probes.kinds_of_calls_are_told_apart,
    ),
    _of_the_sdk(
        key="waits",
        behaviour="blocking functions wait in `_BackgroundLoop.call_in_loop_sync`",
        lost="the Stop button while a cell blocks",
        names=("_BackgroundLoop", "_api", "_syncify"),
        probe=probes.waits_are_ours,
    ),
    _of_the_sdk(
        key="background loop",
        behaviour="the thread and the loop of blocking functions can be stopped, and started again after a fork",
        lost="workers that are forked; each action takes some 0.2 s longer",
        names=("_bg_loop",),
        probe=probes.loops_restart,
    ),
    _of_the_sdk(
        key="claimed loops",
        behaviour="`_configured_loops` has the loops that have a handler of polling errors already",
        lost="handlers of the notebook's loop stay: the SDK sets its own, and ours only comes back with the next cell",
        names=("_configured_loops",),
        probe=probes.loops_are_claimed,
    ),
    _of_the_sdk(
        key="settings of init",
        behaviour="`_get_init_config` returns what `flyte.init` was given",
        lost="settings of `flyte.init` in tasks, and the endpoint in errors of a cluster",
        names=("_initialize", "_get_init_config"),
        probe=probes.settings_are_known,
    ),
    _of_the_sdk(
        key="asking for init",
        behaviour="what needs the SDK initialised asks `is_initialized` of its module",
        lost="`File.from_local` in tasks without `flyte.init`",
        names=("is_initialized", "requires_initialization"),
        probe=probes.init_is_asked_for,
    ),
    _of_the_sdk(
        key="reports",
        behaviour="a report asks `ipython_check` of its module whether it is shown in a notebook",
        lost="reports of tasks that load IPython",
        names=("_report",),
        probe=probes.reports_are_plain,
    ),
    _of_the_sdk(
        key="checkpoints",
        behaviour="`_stage_prev_checkpoint_for_local_retry` hands on what the attempt before saved",
        lost="checkpoints from one attempt to the next",
        names=("_stage_prev_checkpoint_for_local_retry",),
        probe=probes.checkpoints_are_staged,
    ),
    _of_the_sdk(
        key="entry points",
        behaviour="what is installed is looked for once in a process",
        lost="5 ms of each action: the SDK looks through all packages",
        names=("_utils", "_installed_entry_points"),
        probe=probes.packages_are_looked_through_once,
    ),
    _of_the_sdk(
        key="paths of runs",
        behaviour="a local run writes to `_raw_data_path` and `_metadata_path` of its runner, in `_run_local`",
        lost="what the SDK writes for a run is this user's alone: it is in /tmp/flyte",
        names=("_Runner", "_run_local", "_raw_data_path", "_metadata_path"),
        probe=probes.runs_write_where_they_are_told,
    ),
    _of_the_sdk(
        key="names of files",
        behaviour="runs are named by `generate_random_name`, files by `RawDataPath.get_random_remote_path`",
        lost="files and runs keep their names apart when user code seeds generators of random numbers",
        probe=probes.names_are_ours,
    ),
    _of_the_sdk(
        key="pickled values",
        behaviour="values of types that it does not know are written by `FlytePickle.to_pickle`, and read by "
        "`from_pickle`",
        lost="values that the SDK pickles go with the session: they stay where it puts them",
        names=("_pickle",),
        probe=probes.pickles_go_where_they_are_told,
    ),
    Reliance(
        key="literals",
        library="flyteidl2",
        behaviour="a literal has metadata, and a scalar that is a tagged binary or a blob",
        lost="cells as tasks: inputs and outputs of `%%flyte_task`",
        probe=probes.literals_are_kept,
    ),
    Reliance(
        key="errors of the RPC library",
        library="connectrpc",
        behaviour="calls of a control plane raise `connectrpc.errors.ConnectError`",
        lost="cards of errors of a cluster's control plane",
        probe=probes.plane_errors_are_known,
        where="kernel",
    ),
    Reliance(
        key="stand-ins of libraries",
        library="CPython",
        behaviour="what `importlib.util.LazyLoader` puts off has a class that can be replaced",
        lost="the first error of a notebook is shown at once: it loads pandas and pyarrow, a second's work",
        probe=probes.stand_ins_can_be_asked,
        where="kernel",
    ),
)


def try_out(_file: BinaryIO) -> bytes:
    """Try out, in a worker, the behaviour relied on there; return the losses by key, ``None`` for no loss."""
    pickling.by_name_everywhere()
    found = {entry.key: loss_of(entry) for entry in (*of_workers.ENTRIES, *ENTRIES) if entry.where == "worker"}
    return to_json({key: None if loss is None else asdict(loss) for key, loss in found.items()}).encode()
