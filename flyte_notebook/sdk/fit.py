"""Finding the smallest memory limit that a task passes: starts the runs that `flyte_notebook.fitting` asks for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import flyte

from flyte_notebook import fitting
from flyte_notebook.bound import monotonic_s
from flyte_notebook.errors import RunAbortedError, failure_in
from flyte_notebook.fitting import Fit, FitRun, Measure, TaskFit
from flyte_notebook.history import FitTrial
from flyte_notebook.limiters import machine
from flyte_notebook.outcome import Failure
from flyte_notebook.sdk import enforcement
from flyte_notebook.sdk.settings import is_task
from flyte_notebook.sdk.trials import Declared, Trial
from flyte_notebook.trace import MemoryTrace
from flyte_notebook.worker import context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyte_notebook.fitting import Ended, Verdict
    from flyte_notebook.history import Action, Run
    from flyte_notebook.sdk.session import Session

ROOM = 0.9
"""Of the memory that is available now, so much has the run that is measured."""

FLAKES = 2
"""So many runs may fail for a reason of their own after the first one passed."""

STOP_BOUND_S = 3.0
"""How long a search that was cancelled may take to end what it started."""

TIME = frozenset({"max_runtime", "deadline", "max_queued_time"})


class Bundle(Protocol):
    """Says a fit in every form that is asked for, by MIME type."""

    def __call__(self, fit: Fit, /, *, rich: bool) -> dict[str, Any]:
        """Return the forms; plain text alone unless ``rich``."""


last: Fit | None = None
"""What was found last, or known when it was interrupted."""


class FitError(RuntimeError):
    """Nothing can be fitted here; the text says why, and what to do."""


def check_task(task: Any) -> None:
    """Raise TypeError for what is no Flyte task."""
    if not is_task(task):
        what = "a function: decorate it with @env.task" if callable(task) else f"of type {type(task).__name__}"
        raise TypeError(f"fit takes a Flyte task, and this is {what}")


class Fitting:
    """One search. ``call(run, task, trial)`` runs the task once, in that run, and raises what it raised."""

    def __init__(
        self, session: Session, task: Any, call: Callable[[Run, Any, Trial], object], *, cell: bool = False
    ) -> None:
        """Take what is to be fitted, a ``cell`` for example; nothing starts.

        Raises `FitError`, TypeError or `UnitError`.
        """
        check_task(task)
        if session.engine.enforcement.memory == "none":
            raise FitError("nothing limits memory on this machine, so no limit can be fitted; fn.doctor() says why")
        self._session = session
        self._task = task
        self._call = call
        self._purpose = FitTrial(cell=cell)
        self._room_bytes = int(ROOM * machine.available_bytes()) // fitting.MIB * fitting.MIB
        self._declared = {task.name: Declared.by(task)}
        self._seen: dict[str, list[Measure]] = {task.name: []}
        self._runs: list[FitRun] = []
        self._error: BaseException | None = None
        self._over = False
        self.running: Run | None = None
        """The run that began last."""
        self._stopped = False

    def stop(self) -> None:
        """Have the search stopped; returns at once. It ends with ActionAbortedError. Thread-safe."""
        self._stopped = True
        if self.running is not None:
            self._session.stop_run(self.running.name)

    def run(self) -> Fit:
        """Search to the end and return what was found.

        Raises what the task raised in the first run, which had all the room that there is. Whatever is raised,
        `known` tells afterwards.
        """
        global last  # noqa: PLW0603 - like the last run: one for the process
        try:
            self._search()
            return self.known()
        except BaseException as error:
            self._session.blame(error)
            raise
        finally:
            last = self.known()

    def _search(self) -> None:
        flakes = 0
        while len(self._runs) < fitting.MOST_RUNS and flakes < FLAKES:
            steps = {name: fitting.step(seen, self._room_bytes) for name, seen in self._seen.items()}
            asked = next((step for step in steps.values() if not step.settled), None)
            if asked is None:
                break
            limits = {name: self._limit(name, step.limit_bytes) for name, step in steps.items()}
            error = self._one(limits, asked.why)
            if error is not None and len(self._runs) <= 1:
                self._error = error
                raise error
            measures = self._runs[-1].measures.values()
            flakes += error is not None and not any(one.ended in {"memory", "time"} for one in measures)
        self._over = True

    def show(self, bundle: Bundle) -> None:
        """Show what is known where output goes, when anything ran."""
        known = self.known()
        if known.runs:
            self._session.show({"data": bundle(known, rich=self._session.rich)})

    def known(self) -> Fit:
        """Return what is known now."""
        self._declared[self._task.name] = Declared.by(self._task)
        tasks = tuple(self._task_fit(name) for name in self._seen)
        root = tasks[0]
        verdict: Verdict = root.verdict
        lacking = next((one for one in tasks if one.verdict == "never_fits"), None)
        if self._error is not None:
            verdict = "failed" if lacking is None else "never_fits"
            root = replace(root, verdict="failed") if lacking is None else lacking
        best = tasks[0].recommended_bytes
        resources: Any = None if best is None else self._declared[self._task.name].with_memory(best)
        return Fit(
            task_name=self._task.name,
            verdict=verdict,
            headline=fitting.headline(root, len(self._runs), room_bytes=self._room_bytes, why=_why(self._error)),
            tasks=tasks,
            runs=tuple(self._runs),
            resources=None if resources is None else flyte.Resources(**resources),
            enforced=self._session.engine.enforcement.memory_words,
            error=self._error,
        )

    def _task_fit(self, name: str) -> TaskFit:
        declared = self._declared.get(name, Declared())
        found = fitting.task_fit(
            name,
            self._seen[name],
            room_bytes=self._room_bytes,
            declared_bytes=declared.memory_bytes,
            interrupted=not self._over and self._error is None,
        )
        best = found.recommended_bytes
        return found if best is None else replace(found, line=declared.line(best))

    def _limit(self, name: str, wanted_bytes: int | None) -> int:
        """Return a limit; one that fits in no way keeps what it declares, since somebody catches its failure."""
        declared = self._declared.get(name, Declared()).memory_bytes
        return wanted_bytes if wanted_bytes is not None else declared or self._room_bytes

    def _one(self, limits: Mapping[str, int], why: str) -> BaseException | None:
        """Run once; return what the task raised, ``None`` when it passed. Raises what ends the search."""
        session, task = self._session, self._task
        if self._stopped:
            raise RunAbortedError("the search for a limit was stopped")
        trial = Trial(limits=limits, room_bytes=self._room_bytes, muted=bool(self._runs))
        short = task.name.rpartition(".")[2] or "task"
        run = self.running = session.begin(task.name, self._purpose, said=f"{short}-fit")
        began_s = monotonic_s()
        error: BaseException | None = None
        try:
            self._call(run, trial.overridden(task), trial)
        except Exception as raised:
            error = raised
            if not run.actions:  # nothing ran: its inputs were refused, or its override
                session.history.forget(run.name)
                raise
        finally:
            self._declared = {**trial.declared, **self._declared}
            if run.actions:
                self._record(run, trial, why, monotonic_s() - began_s)
        failure = failure_in(error)
        if isinstance(error, RunAbortedError) or (isinstance(failure, Failure) and failure.reason == "stopped"):
            assert error is not None
            raise error
        return error

    def _record(self, run: Run, trial: Trial, why: str, took_s: float) -> None:
        """Take what a run showed of each task that ran in it."""
        by_name: dict[str, list[Action]] = {}
        for action in run.actions:
            by_name.setdefault(action.task_name, []).append(action)
        root = run.actions[0].outcome
        passed = root is not None and not isinstance(root, Failure)
        measures = {
            name: _measure(actions, trial.limits.get(name, self._room_bytes), self._room_bytes, passed=passed)
            for name, actions in by_name.items()
        }
        for name, measure in measures.items():
            self._seen.setdefault(name, []).append(measure)
        attempts = run.actions[0].attempts
        self._runs.append(
            FitRun(
                number=len(self._runs) + 1,
                name=run.name,
                why=why,
                measures=measures,
                duration_s=took_s,
                trace=attempts[-1].trace if attempts else MemoryTrace(),
            )
        )


def _why(error: BaseException | None) -> str:
    """Return in a sentence which task failed, and how; empty where nothing did."""
    failure = failure_in(error)
    if isinstance(failure, Failure):
        return f"{failure.task_name} {failure.headline}"
    return "" if error is None else f"{type(error).__name__}: {error}"


def _measure(actions: list[Action], limit_bytes: int, room_bytes: int, *, passed: bool) -> Measure:
    """Return what one run showed of all calls of one task. ``passed``: the run did, so its caller took what failed."""
    ways = {_ended(action, at_room=limit_bytes >= room_bytes, passed=passed) for action in actions}
    order: tuple[Ended, ...] = ("memory", "time", "other", "unclear", "passed")
    traces = [attempt.trace for action in actions for attempt in action.attempts]
    return Measure(
        limit_bytes=limit_bytes,
        ended=next(way for way in order if way in ways),
        peak_bytes=max((trace.peak_bytes for trace in traces if trace.peak_bytes is not None), default=None),
        counted_bytes=max((trace.counted_bytes for trace in traces if trace.counted_bytes is not None), default=None),
    )


def _ended(action: Action, *, at_room: bool, passed: bool) -> Ended:
    failures = [
        attempt.outcome
        for attempt in action.attempts
        if isinstance(attempt.outcome, Failure) and attempt.outcome.worker == attempt.worker
    ]
    own = [failure.reason for failure in failures]
    if "memory" in own or (at_room and ({"machine_memory", "never_fits"} & {*own} or any(map(_refused, failures)))):
        return "memory"
    if not at_room and TIME & {*own}:
        return "time"
    if action.outcome is not None and (passed or not isinstance(action.outcome, Failure)):
        return "passed"
    return "other" if {*own} - {"stopped", "machine_memory", "never_fits"} else "unclear"


def _refused(failure: Failure) -> bool:
    """Whether it was an allocation that the machine could not even promise."""
    raised = failure.report.raised
    return raised is not None and raised.refused is not None and not raised.refused.by_hand


def fit(
    task: Any,
    args: tuple[Any, ...],
    inputs: Mapping[str, Any],
    *,
    bundle: Bundle,
    began: Callable[[Fitting], object] = lambda _: None,
) -> Fit:
    """Find the smallest memory limit that a task passes with these inputs; see `flyte_notebook.fit`.

    When it ends before it found one, what is known is shown where output goes, as ``bundle`` says it. ``began`` is
    given the search when it begins.
    """
    check_task(task)
    if context.in_worker():
        raise FitError("fit starts runs of its own, and cannot inside a task; call it in the notebook or script")
    session = enforcement.current()
    if session is None:
        opened = enforcement.open_session()
        try:
            return fit(task, args, inputs, bundle=bundle, began=began)
        finally:
            if enforcement.current() is opened:
                enforcement.close_session()
    search = Fitting(session, task, lambda run, task, trial: session.run(run, task, args, inputs, trial=trial))
    began(search)
    return search_and_show(search, bundle)


async def fit_aio(task: Any, args: tuple[Any, ...], inputs: Mapping[str, Any], *, bundle: Bundle) -> Fit:
    """As `fit`, in a thread of its own. When cancelled, the search is stopped."""
    begun: list[Fitting] = []
    thread = asyncio.ensure_future(asyncio.to_thread(fit, task, args, inputs, bundle=bundle, began=begun.append))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        for search in begun:
            search.stop()
        await asyncio.wait({thread}, timeout=STOP_BOUND_S)
        if thread.done() and not thread.cancelled():
            thread.exception()  # that it was stopped
        raise


def search_and_show(search: Fitting, bundle: Bundle) -> Fit:
    """Run a search; when it ends before its end, show what is known, and raise."""
    try:
        return search.run()
    except BaseException:
        search.show(bundle)
        raise
