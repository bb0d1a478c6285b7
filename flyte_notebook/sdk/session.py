"""The kernel's side of the seam: a session makes the SDK's local mode enforce limits, and undoes this at its end."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from flyte_notebook.core.bound import monotonic_s, sleep_s
from flyte_notebook.core.outcome import Failure, Success
from flyte_notebook.core.reliance import losses
from flyte_notebook.core.stand_in import annotate, attach, attribute
from flyte_notebook.engine import Origin
from flyte_notebook.engine.around import snapshot
from flyte_notebook.engine.output_pump import Nowhere, StandardSink
from flyte_notebook.engine.scheduler import MAX_PROCESSES
from flyte_notebook.errors import InlineIOMaxBytesBreached, RunAbortedError, failure_in
from flyte_notebook.history import History, Run, SweepPoint, unique_name
from flyte_notebook.sdk import ahead, background_loop, calls, guards, places, relies, seam, tasks
from flyte_notebook.sdk.failures_without_attempt import NOT_STARTED, failure_outside, give_all_failures
from flyte_notebook.sdk.inputs import NamingConversion
from flyte_notebook.sdk.recording import Recording
from flyte_notebook.sdk.repeats import INLINE_BYTES, Repeats
from flyte_notebook.sdk.spooled import spooled
from flyte_notebook.sdk.types import last_outputs
from flyte_notebook.sdk.watching import Watching
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flyte_notebook.cells.returned import ReturnedValues
    from flyte_notebook.core.job import Job, Semantics
    from flyte_notebook.core.progress import Progress
    from flyte_notebook.engine import Sink
    from flyte_notebook.history import Purpose
    from flyte_notebook.sdk.trials import Trial
    from flyte_notebook.sdk.watching import Group, Watch

BEFORE = (
    "flyte_notebook.cells.shell_in_worker:install_lazily",
    "flyte_notebook.cells.shell_in_worker:forbid_prompts",
)
AFTER = ("flyte_notebook.cells.shell_in_worker:finish_cell",)
"""Functions that a worker calls around its job, by name: rich output, clear errors for prompts, lazy IPython."""

_call_name: ContextVar[str | None] = ContextVar("_call_name", default=None)
"""The name of the run that a task's call outside of tasks begins; with ``None`` the SDK chooses it."""


class Session:
    """One stretch of enforcement, from `open` to `close`. At most one is open in a process.

    It owns the runs: `begin` and `run` start one, and the outcome is recorded here, or by the engine for each attempt.

    ``sink`` is called when a run begins, in its context, and returns the target of the run's output. ``watch`` is
    called for each run that begins or ends. ``trials`` are the runs of fits, by name, with their limits.
    ``last_passed`` is the job of the last run that passed, so that a fit can call it again, ``None`` before the first;
    without its payload if that was large. ``semantics`` and ``system_retries`` may be set at any time; they apply to
    attempts that begin afterwards.
    """

    def __init__(
        self,
        *,
        history: History | None = None,
        sink: Callable[[], Sink] = StandardSink,
        watch: Watch | None = None,
        max_processes: int = MAX_PROCESSES,
    ) -> None:
        self.semantics: Semantics = "cluster"
        self.system_retries = 0
        self.history = history if history is not None else History()
        self.repeats = Repeats(lambda: self.engine.directory.path)
        self.trials: dict[str, Trial] = {}
        self.generators: dict[str, Mapping[str, bytes]] = {}
        """The initial states of random generators for the first attempt of a run, by name."""
        self.last_passed: Job | None = None
        self.engine = ahead.engine(self.history, max_processes)
        self.engine.on_failure = self._keep
        self.engine.adjust = self._adjusted
        self._sink = sink
        self._watching = Watching(watch, lost=self.engine.forget_run)
        self._undo: list[Callable[[], None]] = []
        self._said: set[str] = set()
        self._apart: set[str] = set()
        self._groups: dict[str, Group] = {}
        self._remote: set[str] = set()
        self._pid = os.getpid()

    def open(self) -> None:
        """Start the engine and replace the SDK's function. Raises EngineError or RuntimeError; then nothing changed."""
        losses.check(entry for entry in relies.ENTRIES if entry.where == "kernel")
        refused = [loss for loss in losses.found if loss.refuse]
        if refused:
            self.engine.close()
            raise RuntimeError(f"nothing is run, since this is lost: {refused[0]}")
        self.engine.start()
        try:
            self._undo.append(places.use(places.Places.of(self.engine.directory)))
            self._undo.append(seam.replace_dispatch(self._dispatch))
            self._undo.append(pickling.keep_code_whole())
            self._undo.append(calls.replace_call(self._call_outside))
            self._undo.append(seam.replace_conversion(NamingConversion))
            self._undo.append(seam.replace_submit(guards.submitted))
            self._undo.append(guards.guard_conversions())
            self._undo.append(give_all_failures())
            with suppress(RuntimeError):  # another SDK; its entry reports what is lost
                background_loop.outlive_exits()
        except BaseException:
            self.close()
            raise

    def on_close(self, undo: Callable[[], None]) -> None:
        """Register a function to undo a change when the session closes."""
        self._undo.append(undo)

    def close(self) -> None:
        """Undo the changes of the SDK, stop everything, and wait until it has ended. Idempotent.

        In a process that was forked from the one with the session it only undoes the changes, for itself.
        """
        while self._undo:
            self._undo.pop()()
        if os.getpid() != self._pid:
            return  # processes and files belong to the process that this one was forked from
        self.engine.close()
        self.repeats.clear()
        spooled.clear()

    def set_apart(self, name: str) -> Callable[[], None]:
        """Note that no cell waits for a run: `stop_all` skips it. Return a function to undo this. Thread-safe."""
        self._apart.add(name)
        return lambda: self._apart.discard(name)

    def stop_all(self, reason: str = "interrupted") -> BaseException | None:
        """Stop all runs that a cell waits for; returns at once.

        Return the error for the stopped runs, ``None`` if none ran. Takes no lock: it is called from signal handlers.
        """
        remote = self._remote - self._apart
        for name in remote:
            self.stop_run(name)
        if self._apart:
            names = [name for name in self._watching.names if name not in self._apart]
            for name in names:
                self.stop_run(name)
            stopped = len(names)
        else:
            stopped = self.engine.stop_all()
            self._watching.wake()
        if not stopped and not remote:
            return None
        return RunAbortedError(f"the run was aborted: {reason}")

    def stop_run(self, name: str) -> None:
        """Stop one run; returns at once. It ends with ActionAbortedError. Thread-safe, takes no lock."""
        group = self._groups.get(name)
        if group is not None:
            group.stop()
            return
        self.engine.stop_run(name)
        self._watching.wake(name)

    def begin_group(self, group: Group) -> Callable[[], None]:
        """Show one line for many runs instead of their own lines; return a function to end it. In the cell's thread."""
        run = Run(name=group.name, task_name=group.name)
        self._groups[group.name] = group
        self._watching.group_began(run, self._sink())

        def end() -> None:
            if self._groups.pop(group.name, None) is not None:
                self._watching.group_ended(run)

        return end

    def begin_remote(self, run: Run, group: Group, sink: Sink) -> Callable[[], None]:
        """Show the line of a run on a cluster; return a function to end it. In the cell's thread."""
        self._groups[run.name] = group
        self._remote.add(run.name)
        self._watching.group_began(run, sink)

        def end() -> None:
            self._remote.discard(run.name)
            if self._groups.pop(run.name, None) is not None:
                self._watching.group_ended(run)

        return end

    def progress(self, name: str) -> Progress | None:
        """Return the progress of a run, ``None`` if it has not begun or is over. Thread-safe."""
        group = self._groups.get(name)
        if group is not None:
            return group.progress()
        progress = self.engine.progress(name)
        again_in_s = self._watching.again_in_s(name)
        return progress if progress is None or again_in_s is None else replace(progress, again_in_s=again_in_s)

    def wait_until_over(self, name: str, timeout_s: float) -> bool:
        """Wait until a run has ended completely; return whether this happened in time."""
        until_s = monotonic_s() + timeout_s
        while self._goes_on(name) and monotonic_s() < until_s:
            sleep_s(0.005)
        return not self._goes_on(name)

    def _goes_on(self, name: str) -> bool:
        run = self.history.find(name)
        begun = run is not None and any(action.outcome is None for action in run.actions)
        return begun or name in self._groups or self.engine.progress(name) is not None

    def begin(self, task_name: str, purpose: Purpose, *, said: str = "", remote: bool = False) -> Run:
        """Return a run that begins now, with a unique name: ``said``, else the task's name, with a unique part.

        ``remote``: it is to run on the cluster.
        """
        name = unique_name(said or task_name)
        run = self.history.begin(tasks.name_on_cluster(name) if remote else name, task_name, purpose)
        run.remote = remote
        return run

    def run(
        self,
        run: Run,
        task: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        trial: Trial | None = None,
    ) -> Any:
        """Run a task in a begun run, and return its native result; blocks.

        Inputs are passed by position where possible: names such as ``task`` or ``self`` would collide with names of the
        SDK. With a ``trial`` its limits replace those declared by nested tasks, and the cache is not used.
        """
        if run.remote:
            from flyte_notebook.sdk.cluster.running import run_on_cluster  # noqa: PLC0415 - most sessions need none

            return run_on_cluster(self, run, task, args, kwargs or {})
        with self._trying(run, trial):
            value = seam.run_local(task, args, dict(kwargs or {}), name=run.name, uncached=trial is not None)
        run.cached = not run.actions
        return value

    async def run_point(
        self, run: Run, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, trial: Trial
    ) -> None:
        """Run a task once as a point of a sweep: as `run` with a ``trial``, awaited; its result is not kept."""
        with self._trying(run, trial):
            await seam.run_local_async(task, args, dict(kwargs), name=run.name, uncached=True)

    @contextmanager
    def _trying(self, run: Run, trial: Trial | None) -> Iterator[None]:
        if trial is not None:
            self.trials[run.name] = trial
        try:
            yield
        finally:
            self.trials.pop(run.name, None)

    def not_started(self, run: Run, error: BaseException) -> None:
        """Record the failure of a run without an attempt: this package refused its task, or the SDK its inputs."""
        if run.failure is None:
            failure = failure_in(error) or failure_outside(error, run.task_name, NOT_STARTED)
            attach(error, "failure", failure)
            self.history.end(run, failure)

    def stop_and_wait(self, run: Run, timeout_s: float) -> Failure | None:
        """Stop the run of an interrupted cell; return the failure of the stopped attempt, if one had begun."""
        self.stop_run(run.name)
        self.wait_until_over(run.name, timeout_s)
        stopped = next(filter(_was_stopped, (action.outcome for action in run.actions)), None)
        if stopped is not None:
            self.history.end(run, stopped)
        return stopped

    def blame(self, error: BaseException | None) -> None:
        """Record an error as the user's last failure: an experiment ended with it."""
        failure = failure_in(error)
        if isinstance(failure, Failure):
            self.history.last_failure = failure

    def take_outputs(self, name: str, values: ReturnedValues) -> None:
        """Add a cell's results to its run. The value of the last expression has the name ``result`` among the outputs.

        Results of a sweep's points are not kept.
        """
        run = self.history.find(name)
        wanted = run is None or not isinstance(run.purpose, SweepPoint)
        if wanted:
            outputs = values.outputs
            if values.outcome.has_value:
                outputs["result"] = values.result
            self.history.keep_outputs(name, outputs)
        if run is not None and run.of_cell:
            run.returned = values
        if values.outcome.disposable or not wanted:
            values.outcome.discard()
        spooled.end(name, failed=False)  # for a cached result the run's end is not reported
        last_outputs.take(name)  # the run has them now

    @property
    def rich(self) -> bool:
        """Whether output may be rich: it is shown in a notebook."""
        return self._sink is not StandardSink

    def sink(self) -> Sink:
        """Return the target of the output of a run that begins now."""
        return self._sink()

    def _adjusted(self, job: Job) -> Job:
        """Return a nested job with the limits of its run's trial, if there is one."""
        trial = self.trials.get(job.run)
        return job if trial is None else trial.adjusted(job)

    def _keep(self, job: Job) -> None:
        """Keep a failed attempt for reruns; the failure of an experiment does not count as the user's failure."""
        if job.run not in self.trials:
            self.repeats.keep(job)

    @contextmanager
    def call_named(self, name: str) -> Iterator[None]:
        """Name the run that a ``task(...)`` outside of any run begins here."""
        token = _call_name.set(name)
        try:
            yield
        finally:
            _call_name.reset(token)

    def _call_outside(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``task(...)`` outside of any run in its own enforced run."""
        name = _call_name.get() or unique_name(task.name)
        if seam.is_sync(task):
            return seam.run_local(task, args, kwargs, name=name)
        return seam.run_local_async(task, args, kwargs, name=name)

    async def _dispatch(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Replace the SDK's direct dispatch in the kernel: run the attempt in a worker."""
        call = seam.call_arguments(args, kwargs)
        try:
            states = self.generators.pop(call["action"].run_name, None)
            job = tasks.job_for(call, self.engine.directory.path, root=True, generators=states)
            run = None if self.history.last_failure is None else self.history.find(job.run)
            killed_bytes = () if run is None else self.history.killed_bytes(run)
            job = replace(job, semantics=self.semantics, system_retries=self.system_retries, killed_bytes=killed_bytes)
            tasks.check_inline_size(call["task"], call["inputs"].proto_inputs.literals, "input")
        except (ValueError, InlineIOMaxBytesBreached) as error:
            return None, seam.for_retry_loop(
                tasks.refusal(error, call["task"].name), last=tasks.attempts_of(call["task"]) == 1
            )
        controller = seam.controller_of(args, kwargs)
        seam.end_runners_with(controller)
        recorder = seam.recorder_of(controller)
        sink, trial = self._sink(), self.trials.get(job.run)
        run = self.history.begin(job.run, job.label)
        origin = Origin(
            run=run,
            sink=Nowhere() if trial is not None and trial.muted else sink,
            surroundings=snapshot(),
            before=BEFORE,
            after=AFTER,
            observer=None if recorder is None else Recording(recorder, call["action"].name),
        )
        for sentence in tasks.not_enforced_words(call["task"], job.limits):
            if sentence not in self._said:
                self._said.add(sentence)
                sink.write("stderr", f"[flyte_notebook: {sentence}]\n")
        self._watching.attempt(run, sink)
        failed = False
        try:
            outcome = await asyncio.wrap_future(self.engine.submit(job, origin))
            failed = isinstance(outcome, Failure)
        except BaseException:
            self._watching.over(job.run)
            raise
        finally:
            spooled.end(job.run, failed=failed and trial is None)
        if isinstance(outcome, Success):
            self.history.end(run, None)
            if trial is None:
                self.last_passed = job if len(job.payload) <= INLINE_BYTES else replace(job, payload=b"")
            self._watching.over(job.run)
            return pickling.loads(outcome.answer), None
        failure = run.told(outcome)
        self.history.end(run, failure)
        attach(outcome.error, "failure", failure)  # the failure shown to the user
        annotate(outcome.error, failure.words)
        last = outcome.attempt + 1 >= outcome.max_attempts
        if last or not attribute(outcome.error, "recoverable", False):
            self._watching.over(job.run)
        else:
            self._watching.failed(job.run, call["task"])
        return None, seam.for_retry_loop(outcome.error, last=last)


def _was_stopped(outcome: object) -> TypeGuard[Failure]:
    return isinstance(outcome, Failure) and outcome.reason == "stopped"
