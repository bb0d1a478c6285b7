"""Finding the smallest memory limit that a task passes: starts the runs that `experiments.fitting` asks for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import flyte

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.errors import RunAbortedError, failure_in
from flyte_notebook.experiments import fitting
from flyte_notebook.experiments.fitting import Fit, FitRun, Measure, TaskFit
from flyte_notebook.history import FitTrial
from flyte_notebook.limiters import machine
from flyte_notebook.sdk.experiment import TIME, Experiment, conduct, conduct_aio, short_name, was_stopped
from flyte_notebook.sdk.settings import check_task
from flyte_notebook.sdk.trials import Declared, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyte_notebook.experiments.fitting import TrialEnd, Verdict
    from flyte_notebook.history import Action, Run
    from flyte_notebook.sdk.experiment import Bundle
    from flyte_notebook.sdk.session import Session

ROOM = 0.9
"""The part of the currently available memory that the measured run gets."""

FLAKES = 2
"""How many runs may fail for other reasons after the first one passed."""

last: Fit | None = None
"""The last result, or the partial result if the search was interrupted."""


class FitError(RuntimeError):
    """Nothing can be fitted here; the text says why, and what to do."""


class Fitting(Experiment):
    """One search. ``call(run, task, trial)`` runs the task once, in that run, and raises the task's error."""

    kind: ClassVar[str] = "fit"
    error: ClassVar[type[Exception]] = FitError

    def __init__(
        self, session: Session, task: Any, call: Callable[[Run, Any, Trial], object], *, cell: bool = False
    ) -> None:
        """Take the task to fit, for example of a ``cell``; nothing starts yet.

        Raises `FitError`, TypeError or `UnitError`.
        """
        super().__init__(session, task)
        check_task(task, "fit")
        if session.engine.enforcement.memory == "none":
            raise FitError("nothing limits memory on this machine, so no limit can be fitted; fn.doctor() says why")
        self._call = call
        self._purpose = FitTrial(cell=cell)
        self._room_bytes = int(ROOM * machine.available_bytes()) // fitting.MIB * fitting.MIB
        self._declared = {task.name: Declared.by(task)}
        self._seen: dict[str, list[Measure]] = {task.name: []}
        self._runs: list[FitRun] = []
        self._failed: BaseException | None = None
        self._over = False
        self.running: Run | None = None
        """The newest run."""

    def stop(self) -> None:
        """Stop the search; returns at once. It ends with ActionAbortedError. Thread-safe."""
        self._stopped = True
        if self.running is not None:
            self._session.stop_run(self.running.name)

    def run(self) -> Fit:
        """Search to the end and return the result.

        Raises the task's error in the first run, which may use all available memory. After any exception, `known`
        returns the partial results.
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
                self._failed = error
                raise error
            measures = self._runs[-1].measures.values()
            flakes += error is not None and not any(one.ended in {"memory", "time"} for one in measures)
        self._over = True

    @property
    def measured(self) -> bool:
        """Whether any run has begun."""
        return bool(self._runs)

    def known(self) -> Fit:
        """Return the current results."""
        self._declared[self._task.name] = Declared.by(self._task)
        tasks = tuple(self._task_fit(name) for name in self._seen)
        root = tasks[0]
        verdict: Verdict = root.verdict
        lacking = next((one for one in tasks if one.verdict == "never_fits"), None)
        if self._failed is not None:
            verdict = "failed" if lacking is None else "never_fits"
            root = replace(root, verdict="failed") if lacking is None else lacking
        best = tasks[0].recommended_bytes
        resources: Any = None if best is None else self._declared[self._task.name].with_memory(best)
        return Fit(
            task_name=self._task.name,
            verdict=verdict,
            headline=fitting.headline(root, len(self._runs), room_bytes=self._room_bytes, why=_why(self._failed)),
            tasks=tasks,
            runs=tuple(self._runs),
            resources=None if resources is None else flyte.Resources(**resources),
            enforced=self._session.engine.enforcement.memory_words,
            error=self._failed,
        )

    def _task_fit(self, name: str) -> TaskFit:
        declared = self._declared.get(name, Declared())
        found = fitting.task_fit(
            name,
            self._seen[name],
            room_bytes=self._room_bytes,
            declared_bytes=declared.memory_bytes,
            interrupted=not self._over and self._failed is None,
        )
        best = found.recommended_bytes
        return found if best is None else replace(found, line=declared.line(best))

    def _limit(self, name: str, wanted_bytes: int | None) -> int:
        """Return a limit; a task that never passes keeps its declared limit, since its caller catches the failure."""
        declared = self._declared.get(name, Declared()).memory_bytes
        return wanted_bytes if wanted_bytes is not None else declared or self._room_bytes

    def _one(self, limits: Mapping[str, int], why: str) -> BaseException | None:
        """Run once; return the task's error, ``None`` when it passed. Raises errors that end the search."""
        session, task = self._session, self._task
        if self._stopped:
            raise RunAbortedError("the search for a limit was stopped")
        trial = Trial(limits=limits, room_bytes=self._room_bytes, muted=bool(self._runs))
        run = self.running = session.begin(task.name, self._purpose, said=f"{short_name(task)}-fit")
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
        if error is not None and was_stopped(error):
            raise error
        return error

    def _record(self, run: Run, trial: Trial, why: str, took_s: float) -> None:
        """Record the result of each task in a run."""
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
    """Return a sentence that says which task failed, and how; empty if none did."""
    failure = failure_in(error)
    if isinstance(failure, Failure):
        return f"{failure.task_name} {failure.headline}"
    return "" if error is None else f"{type(error).__name__}: {error}"


def _measure(actions: list[Action], limit_bytes: int, room_bytes: int, *, passed: bool) -> Measure:
    """Return the result of all calls of one task in a run. ``passed``: the run passed, so failures were caught."""
    ways = {_ended(action, at_room=limit_bytes >= room_bytes, passed=passed) for action in actions}
    order: tuple[TrialEnd, ...] = ("memory", "time", "other", "unclear", "passed")
    traces = [attempt.trace for action in actions for attempt in action.attempts]
    return Measure(
        limit_bytes=limit_bytes,
        ended=next(way for way in order if way in ways),
        peak_bytes=max((trace.peak_bytes for trace in traces if trace.peak_bytes is not None), default=None),
        counted_bytes=max((trace.counted_bytes for trace in traces if trace.counted_bytes is not None), default=None),
    )


def _ended(action: Action, *, at_room: bool, passed: bool) -> TrialEnd:
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
    """Whether it was an allocation that the machine refused at once."""
    raised = failure.report.raised
    return raised is not None and raised.refused is not None and not raised.refused.by_hand


def fit(task: Any, args: tuple[Any, ...], inputs: Mapping[str, Any], *, bundle: Bundle) -> Fit:
    """Find the smallest memory limit that a task passes with these inputs; see `flyte_notebook.fit`."""
    check_task(task, "fit")
    found: Fit = conduct(Fitting, partial(_of_call, task, args, inputs), bundle)
    return found


async def fit_aio(task: Any, args: tuple[Any, ...], inputs: Mapping[str, Any], *, bundle: Bundle) -> Fit:
    """As `fit`, awaited. When cancelled, the search is stopped."""
    check_task(task, "fit")
    found: Fit = await conduct_aio(Fitting, partial(_of_call, task, args, inputs), bundle)
    return found


def _of_call(task: Any, args: tuple[Any, ...], inputs: Mapping[str, Any], session: Session) -> Fitting:
    return Fitting(session, task, lambda run, task, trial: session.run(run, task, args, inputs, trial=trial))
