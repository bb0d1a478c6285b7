"""The runs of this process, with a limit on their memory."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, overload

from flyte_notebook.core.outcome import Failure
from flyte_notebook.history.budget import Budget
from flyte_notebook.history.purpose import CALL, Cell, Grown, Rerun, SweepPoint
from flyte_notebook.history.runs import Run, Runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.history.purpose import Purpose
    from flyte_notebook.history.runs import Action, Attempt

KEPT_RUNS = 200
KEPT_BYTES = 256 << 20
"""The maximum memory of the attempts of all runs together."""


class History:
    """The runs of this process, oldest first, the last `KEPT_RUNS` of them. Any method from any thread.

    If their attempts take more than ``kept_bytes`` the oldest lose the values of their errors and most of their text,
    and if this is not enough they are removed.

    Only the engine and the session record outcomes here. ``last_failure`` is that of the last failed attempt or run
    which was no experiment.
    """

    def __init__(self, kept: int = KEPT_RUNS, kept_bytes: int = KEPT_BYTES) -> None:
        self._runs: deque[Run] = deque()
        self._kept = kept
        self._budget = Budget(kept_bytes)
        self._points: dict[str, Run] = {}
        self._lock = threading.Lock()
        self.last_failure: Failure | None = None

    def begin(self, name: str, task_name: str, purpose: Purpose = CALL) -> Run:
        """Return the run of that name, begun now if it is new; a point of a sweep does not replace an older run."""
        with self._lock:
            known = self.find(name)
            if known is not None:
                return known
            for earlier in tuple(self._runs)[:-1]:
                earlier.let_frames_go()
            run = Run(name=name, task_name=task_name, purpose=purpose)
            if isinstance(purpose, SweepPoint):
                self._points[name] = run
            else:
                self._runs.append(run)
                while len(self._runs) > self._kept:
                    self._budget.forget(self._runs.popleft())
            return run

    def record(self, run: Run, action: Action, attempt: Attempt) -> None:
        """Add an ended attempt to its action."""
        if isinstance(attempt.outcome, Failure) and not run.of_experiment:
            self.last_failure = attempt.outcome
        with self._lock:
            action.attempts.append(attempt)
            self._budget.add(run, attempt)
            while self._budget.exceeded and len(self._runs) > 1 and self._runs[0] is not run:
                self._budget.forget(self._runs.popleft())

    def end(self, run: Run, failure: Failure | None) -> None:
        """Record how a run ended; it may have another attempt, and end again."""
        run.failure = failure
        if failure is not None and not run.of_experiment:
            self.last_failure = failure

    def retell(self, before: Failure, told: Failure) -> None:
        """Replace a failure by a more detailed one of the same attempt."""
        run = self.run_of(before.worker)
        if run is not None and run.failure is before:
            run.failure = told
        if self.last_failure is before:
            self.last_failure = told

    def find(self, name: str) -> Run | None:
        """Return the run of that name, or ``None``."""
        point = self._points.get(name)
        return point or next((run for run in reversed(tuple(self._runs)) if run.name == name), None)

    def forget(self, name: str) -> None:
        """Remove the run of that name, which never started."""
        with self._lock:
            run = self._points.pop(name, None) or self.find(name)
            if run is not None:
                self._budget.forget(run)
                self._runs = deque(kept for kept in self if kept is not run)

    def origin_of(self, worker: str) -> str:
        """Return the worker of the first failure in a chain of reruns that ends with this one."""
        run = self.run_of(worker)
        return run.rerun_of if run is not None and run.rerun_of is not None else worker

    def run_of(self, worker: str) -> Run | None:
        """Return the run of an attempt, ``None`` when it is not kept any more."""
        return next((run for run in reversed(tuple(self._runs)) if run.attempt(worker) is not None), None)

    def story(self, worker: str) -> tuple[tuple[str, Attempt], ...]:
        """Return all attempts of the failed action of that worker, in order: of the first run, then of its reruns.

        Each comes with a distinguishing label: ``attempt 2``, ``rerun 1 (1Gi)``.
        """
        origin = self.origin_of(worker)
        first = self.run_of(origin)
        found = first.attempt(origin) if first is not None else None
        told = [] if found is None else [("", attempt) for attempt in found[0].attempts]
        reruns = [run for run in self if run.rerun_of == origin and run.actions]
        for number, run in enumerate(reruns, start=1):
            label = f"rerun {number}" + (f" ({run.rerun_with})" if run.rerun_with else "")
            told += [(label, attempt) for attempt in run.actions[0].attempts]
        many = len({label for label, _ in told}) < len(told)
        return tuple(
            (", ".join(filter(None, [label, f"attempt {attempt.number}" if many or not label else ""])), attempt)
            for label, attempt in told
        )

    def killed_bytes(self, run: Run) -> tuple[int, ...]:
        """Return the limits at which the same call, or the same code of a cell, was killed before."""
        if isinstance(run.purpose, Rerun | Grown):
            before = [attempt for _, attempt in self.story(run.purpose.of)]
        elif isinstance(run.purpose, Cell) and run.purpose.code is not None:
            same = [one for one in self if isinstance(one.purpose, Cell) and one.purpose.code == run.purpose.code]
            before = [attempt for one in same if one.actions for attempt in one.actions[0].attempts]
        else:
            return ()
        killed = [one for one in before if isinstance(one.outcome, Failure) and one.outcome.reason == "memory"]
        return tuple(one.limits.memory_bytes for one in killed if one.limits.memory_bytes is not None)

    def keep_outputs(self, name: str, outputs: dict[str, Any]) -> None:
        """Set the outputs of the run of that name, and remove those of all others; does nothing if it is not known."""
        if self.find(name) is None:
            return
        for run in self:
            run.outputs = outputs if run.name == name else {}

    @property
    def last_run(self) -> Run | None:
        """The newest run, also if it failed; ``None`` before the first."""
        return self._runs[-1] if self._runs else None

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._runs))

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, which: int | str) -> Run: ...

    @overload
    def __getitem__(self, which: slice) -> Runs: ...

    def __getitem__(self, which: int | str | slice) -> Run | Runs:
        return Runs(self)[which]

    def __repr__(self) -> str:
        return repr(Runs(self))
