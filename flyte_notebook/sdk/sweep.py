"""Running a task across memory limits and values of an input: starts what `flyte_notebook.experiments.sweeping` plans.

All runs go to the SDK's loop, `Sweeping.side_by_side` at a time: each has a core, so that their run times can be
compared. Admission by memory may delay them further.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.outcome import Failure, Success
from flyte_notebook.core.progress import Progress
from flyte_notebook.core.units import format_memory, quantity_memory, too_little
from flyte_notebook.errors import RunAbortedError, failure_in
from flyte_notebook.experiments import sweeping
from flyte_notebook.experiments.sweeping import MemoryRange, Over, Plan, Point, Sweep, SweepError
from flyte_notebook.history import SweepPoint
from flyte_notebook.limiters import machine
from flyte_notebook.sdk import background_loop, tasks
from flyte_notebook.sdk.experiment import (
    STOP_BOUND_S,
    TIME,
    Experiment,
    conduct,
    conduct_aio,
    short_name,
    was_stopped,
)
from flyte_notebook.sdk.settings import check_task
from flyte_notebook.sdk.trials import Trial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from flyte_notebook.experiments.sweeping import Planned, PointEnd
    from flyte_notebook.history import Run
    from flyte_notebook.sdk.experiment import Bundle
    from flyte_notebook.sdk.session import Session

    Call = Callable[[Run, Any, Trial], Awaitable[object]]
    """Runs the task with one value, in a run and a trial."""

MOST_AT_ONCE = 16
last: Sweep | None = None
"""The last result, or the partial result if the sweep was interrupted."""


class Sweeping(Experiment):
    """One sweep. It is a `Group`: one live line, and one Stop for all of its runs."""

    kind: ClassVar[str] = "sweep"
    error: ClassVar[type[Exception]] = SweepError

    def __init__(self, session: Session, task: Any, plan: Plan, call: Call) -> None:
        """Take the task and the plan; nothing starts yet. Raises `SweepError`."""
        super().__init__(session, task)
        self.name = f"sweep of {short_name(task)}"
        self._plan = plan
        self._call = call
        self._points: dict[int, Point] = {}
        self._running: set[str] = set()
        self._refused: BaseException | None = None
        self._began_s = monotonic_s()
        self._over = threading.Event()
        cores = tasks.limits_of(task).cpu_cores or 1.0
        self.side_by_side = max(1, min(int(machine.cpu_count() / cores), MOST_AT_ONCE, plan.count))
        self._check_limits()

    def ask(self, go_on: str) -> None:
        """Refuse a sweep of many runs, since a headless notebook cannot ask the user. Raises `SweepError`.

        ``go_on`` is the option that allows it.
        """
        known_s = _shortest_s(self._session, self._task.name)
        sweeping.check_size(self._plan, side_by_side=self.side_by_side, known_s=known_s, go_on=go_on)

    def _check_limits(self) -> None:
        limits = self._plan.limits
        if not limits:
            return
        if self._session.engine.enforcement.memory == "none":
            raise SweepError("nothing limits memory on this machine, so no limit can be swept; fn.doctor() says why")
        self._session.engine.wait_until_proven()
        capacity, needed = machine.capacity_bytes(), self._session.engine.baseline_bytes or 0
        if limits[-1] > capacity:
            raise SweepError(
                f"{quantity_memory(limits[-1])} is more than this machine has ({format_memory(capacity)}); "
                f"write for example {sweeping.example(up_to_bytes=capacity)}"
            )
        if limits[-1] < needed:
            raise SweepError(too_little(quantity_memory(limits[-1]), needed, sweeping.example()))

    def stop(self) -> None:
        """Stop the sweep; returns at once. It ends with ActionAbortedError. Thread-safe."""
        self._stopped = True
        for name in tuple(self._running):
            self._session.stop_run(name)

    def progress(self) -> Progress | None:
        """Return its progress. Thread-safe."""
        ends = Counter(point.outcome for point in tuple(self._points.values()))
        said = [f"{len(self._points):,} of {self._plan.count:,} done"]
        said += [f"{len(self._running)} running"] * bool(self._running)
        said += [f"{ends[end]:,} {end}" for end in sweeping.ENDS if ends[end]]
        elapsed_s = monotonic_s() - self._began_s
        return Progress(run=self.name, task_name=self.name, elapsed_s=elapsed_s, words=" · ".join(said))

    def run(self) -> Sweep:
        """Run every point and return the result; blocks.

        The result has the failures of points. Raises the SDK's error for refused inputs, and ActionAbortedError when it
        was stopped; after any exception, `known` returns the partial results.
        """
        global last  # noqa: PLW0603 - like the last run: one for the process
        self._began_s = monotonic_s()
        end_line = self._session.begin_group(self)
        try:
            background_loop.run_in_loop(self._all())
        except BaseException:
            self.stop()
            self._over.wait(STOP_BOUND_S)
            raise
        finally:
            end_line()
            last = self.known()
        if self._refused is not None:
            raise self._refused
        if self._stopped:
            raise RunAbortedError(f"the sweep was stopped after {len(self._points)} of {self._plan.count} runs")
        return self.known()

    def known(self) -> Sweep:
        """Return the current results."""
        return Sweep(
            task_name=self._task.name,
            points=tuple(point for _, point in sorted(self._points.items())),
            side_by_side=self.side_by_side,
            enforced=self._session.engine.enforcement.memory_words if self._plan.limits else "",
            **sweeping.plan_facts(self._plan),
        )

    @property
    def measured(self) -> bool:
        """Whether any point is known."""
        return bool(self._points)

    async def _all(self) -> None:
        waiting = iter(self._plan)
        try:
            await asyncio.gather(*(self._work(waiting) for _ in range(self.side_by_side)))
        finally:
            self._over.set()

    async def _work(self, waiting: Iterator[Planned]) -> None:
        for planned in waiting:
            if self._stopped:
                return
            await self._one(planned)

    async def _one(self, planned: Planned) -> None:
        """Run one point, and record its result; its run is removed from the history."""
        limits = {} if planned.limit_bytes is None else {self._task.name: planned.limit_bytes}
        trial = Trial(limits=limits, room_bytes=None, muted=True, reserves=True)
        run = self._session.begin(
            self._task.name, SweepPoint(), said=f"{short_name(self._task)}-sweep-{planned.number}"
        )
        self._running.add(run.name)
        error: BaseException | None = None
        try:
            await self._call(run, planned.value, trial)
        except Exception as raised:  # noqa: BLE001 - the failure of a point is part of the result
            error = raised
        finally:
            self._running.discard(run.name)
            self._session.history.forget(run.name)
        if not run.actions:  # nothing ran: its inputs were refused, or its override
            self._refused = self._refused or error
            self.stop()
        elif was_stopped(error):
            self.stop()
        else:
            self._points[planned.number] = _point(run, planned, error)


def _point(run: Run, planned: Planned, error: BaseException | None) -> Point:
    attempts = run.actions[0].attempts
    ran = attempts[-1] if attempts else None
    declared_bytes = None if ran is None else ran.limits.memory_bytes
    return Point(
        number=planned.number,
        limit_bytes=declared_bytes if planned.limit_bytes is None else planned.limit_bytes,
        value=planned.value,
        outcome=_ended(error, run.task_name),
        duration_s=0.0 if ran is None else ran.duration_s,
        peak_bytes=None if ran is None else ran.trace.peak_bytes,
        counted_bytes=None if ran is None else ran.trace.counted_bytes,
        words=_words(error, run.task_name),
        code=_code(error),
    )


def _ended(error: BaseException | None, task_name: str) -> PointEnd:
    """Return how a point ended; the failure of a nested task counts as the point's own error."""
    failure = failure_in(error)
    if error is None:
        return "passed"
    if isinstance(failure, Failure) and failure.task_name == task_name:
        if failure.reason == "memory":
            return "OOM"
        if failure.reason in TIME:
            return "timeout"
    return "error"


def _code(error: BaseException | None) -> str:
    failure = failure_in(error)
    return failure.code if isinstance(failure, Failure) else "" if error is None else type(error).__name__


def _words(error: BaseException | None, task_name: str) -> str:
    if error is None:
        return ""
    failure = failure_in(error)
    if not isinstance(failure, Failure):
        return f"{type(error).__name__}: {error}"
    return failure.headline if failure.task_name == task_name else f"{failure.task_name} {failure.headline}"


def _shortest_s(session: Session, task_name: str) -> float | None:
    """Return the shortest passed run of a task in the history, ``None`` without one; cells share one name."""
    ran = [
        attempt.duration_s
        for run in session.history
        if run.actions and run.actions[0].task_name == task_name
        for attempt in run.actions[0].attempts
        if isinstance(attempt.outcome, Success)
    ]
    return min(ran, default=None) if task_name != "cell" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """The request of a call in Python: a task with its inputs, and the plan."""

    task: Any
    plan: Plan
    args: tuple[Any, ...]
    inputs: Mapping[str, Any]

    @classmethod
    def by(
        cls,
        task: Any,
        args: tuple[Any, ...],
        inputs: Mapping[str, Any],
        *,
        memory: str | None,
        over: str | Mapping[str, Sequence[Any]] | None,
    ) -> SweepRequest:
        """Read a call. Raises `SweepError`, which names the argument, and TypeError if it is no task."""
        check_task(task, "sweep")
        if memory is None and over is None:
            right = f'memory="{sweeping.RANGE}", or values of an input, over="{sweeping.VALUES}"'
            raise SweepError(f"nothing to sweep: give limits, {right}")
        known = list(task.native_interface.inputs)
        unknown = next((name for name in inputs if name not in known), None)
        if unknown is not None:
            raise SweepError(f"{short_name(task)} has no input {unknown}; it takes {', '.join(known) or 'nothing'}")
        limits = _said("memory", lambda: None if memory is None else sweeping.parse_range(memory))
        values = _said("over", lambda: _over(over))
        if values is not None:
            check_input(values, known, short_name(task), "over")
            if values.name in inputs or values.name in known[: len(args)]:
                raise SweepError(f"over: {values.name} is also given; leave it out of the inputs")
        return cls(task=task, plan=planned(limits, values), args=args, inputs=inputs)


def planned(limits: MemoryRange | None, over: Over | None) -> Plan:
    """Return the plan of limits and values."""
    if limits is None:
        return Plan(over=over)
    return Plan(limits=limits.limits, spacing=limits.spacing, over=over)


def check_input(over: Over, known: Sequence[str], task_name: str, option: str) -> None:
    """Refuse the values of an input that a task does not have. Raises `SweepError`."""
    if over.name not in known:
        right = f"it takes {', '.join(known)}: write for example {known[0]}=1,2,4,8" if known else "it takes none"
        raise SweepError(f"{option}: {task_name} has no input {over.name}; {right}")


def _over(over: str | Mapping[str, Sequence[Any]] | None) -> Over | None:
    if over is None or isinstance(over, str):
        return None if over is None else sweeping.parse_over(over)
    if len(over) != 1:
        raise SweepError(
            f"one input can be swept, and these are {len(over)}; write for example over={{'x': [1, 2, 4]}}"
        )
    ((name, values),) = over.items()
    return sweeping.over_values(name, tuple(values))


def _said(name: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except SweepError as error:
        raise SweepError(f"{name}: {error}") from None


def sweep(asked: SweepRequest, *, yes: bool, bundle: Bundle) -> Sweep:
    """Run a task across limits and values; see `flyte_notebook.sweep`."""
    found: Sweep = conduct(Sweeping, partial(_of_call, asked, yes), bundle)
    return found


async def sweep_aio(asked: SweepRequest, *, yes: bool, bundle: Bundle) -> Sweep:
    """As `sweep`, awaited. When cancelled, it is stopped."""
    found: Sweep = await conduct_aio(Sweeping, partial(_of_call, asked, yes), bundle)
    return found


def _of_call(asked: SweepRequest, yes: bool, session: Session) -> Sweeping:  # noqa: FBT001 - of a partial
    over = asked.plan.over

    async def call(run: Run, value: Any, trial: Trial) -> None:
        given = dict(asked.inputs) if over is None else {**asked.inputs, over.name: value}
        await session.run_point(run, trial.overridden(asked.task), asked.args, given, trial=trial)

    found: Sweeping = _said("memory", lambda: Sweeping(session, asked.task, asked.plan, call))
    if not yes:
        found.ask("yes=True")
    return found
