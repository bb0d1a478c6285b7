"""What ran: a run, its actions in start order, their attempts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyte_notebook.outcome import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.limits import Limits
    from flyte_notebook.outcome import Outcome
    from flyte_notebook.trace import MemoryTrace

KEPT_RUNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at an action. ``number`` counts from 1; ``duration_s`` is from start of the worker to its end."""

    number: int
    worker: str
    limits: Limits
    outcome: Outcome
    trace: MemoryTrace
    duration_s: float


@dataclass(slots=True, kw_only=True)
class Action:
    """A task that ran inside a run; ``parent`` is the name of the action that called it, ``None`` for the root."""

    name: str
    task_name: str
    parent: str | None
    limits: Limits
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the last attempt, ``None`` while the first one runs."""
        return self.attempts[-1].outcome if self.attempts else None


@dataclass(slots=True, kw_only=True, repr=False)
class Run:
    """One ``flyte.run`` or one cell: its actions, flat, in start order.

    ``failure`` is why the run failed, ``None`` while it runs and when it succeeded, also if failures inside were
    caught. ``outputs`` are the results of a cell by name; only the run that gave some last still has them, so that the
    history does not keep everything that was ever returned.
    """

    name: str
    task_name: str
    actions: list[Action] = field(default_factory=list)
    failure: Failure | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    cached: bool = False
    _frames_gone: bool = field(default=False, repr=False)
    _by_name: dict[str, Action] = field(default_factory=dict)

    def __repr__(self) -> str:
        count = f"{len(self.actions)} action{'' if len(self.actions) == 1 else 's'}"
        failed = "" if self.failure is None else f", {type(self.failure.error).__name__}"
        return f"<Run {self.name} of {self.task_name}: {count}{failed}>"

    def action(self, name: str) -> Action | None:
        """Return the action of that name, or ``None``."""
        return self._by_name.get(name)

    def begin_action(self, name: str, task_name: str, parent: str | None, limits: Limits) -> Action:
        """Return the action of that name, begun now if it is new (a retry is not)."""
        action = self._by_name.get(name)
        if action is None:
            action = Action(name=name, task_name=task_name, parent=parent, limits=limits)
            self._by_name[name] = action
            self.actions.append(action)
        return action

    def failure_of(self, worker: str) -> Failure | None:
        """Return the failure of the attempt with that worker name, ``None`` if it is not one of this run's."""
        for action in self.actions:
            for attempt in action.attempts:
                if attempt.worker == worker:
                    return attempt.outcome if isinstance(attempt.outcome, Failure) else None
        return None

    def let_frames_go(self) -> None:
        """Drop the Python frames of its errors: they hold every variable that was on the way, inputs of any size.

        What a person reads of a failure is text. The history does this to every run but the last two.
        """
        if self._frames_gone:
            return
        self._frames_gone = True
        for action in self.actions:
            for attempt in action.attempts:
                if isinstance(attempt.outcome, Failure):
                    _let_frames_go(attempt.outcome.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the run for tools: names, limits, outcomes and peaks; no values."""
        return {
            "name": self.name,
            "task_name": self.task_name,
            "cached": self.cached,
            "failure": None if self.failure is None else self.failure.to_dict(),
            "outputs": sorted(self.outputs),
            "actions": [_action_dict(action) for action in self.actions],
        }


class History:
    """The runs of this process, oldest first, the last `KEPT_RUNS` of them."""

    def __init__(self, kept: int = KEPT_RUNS) -> None:
        self._runs: deque[Run] = deque(maxlen=kept)
        self.last_failure: Failure | None = None

    def begin(self, name: str, task_name: str) -> Run:
        """Return the run of that name, begun now if it is new."""
        known = self.find(name)
        if known is not None:
            return known
        for earlier in tuple(self._runs)[:-1]:
            earlier.let_frames_go()
        run = Run(name=name, task_name=task_name)
        self._runs.append(run)
        return run

    def find(self, name: str) -> Run | None:
        """Return the run of that name, or ``None``."""
        return next((run for run in reversed(tuple(self._runs)) if run.name == name), None)

    def forget(self, name: str) -> None:
        """Remove the run of that name: nothing of it ever started."""
        self._runs = deque((run for run in self if run.name != name), maxlen=self._runs.maxlen)

    def keep_outputs(self, name: str, outputs: dict[str, Any]) -> None:
        """Give the run of that name its outputs, and take those of all others away; nothing if it is not known."""
        if self.find(name) is None:
            return
        for run in self:
            run.outputs = outputs if run.name == name else {}

    @property
    def last_run(self) -> Run | None:
        """The run that began last, also when it failed; ``None`` before the first."""
        return self._runs[-1] if self._runs else None

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._runs))

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, index: int) -> Run:
        return self._runs[index]


def _let_frames_go(error: BaseException) -> None:
    chain, known = [error], set()
    while chain:
        one = chain.pop()
        known.add(id(one))
        BaseException.with_traceback(one, None)  # past the class's own __setattr__, which may refuse
        chain += [link for link in (one.__cause__, one.__context__) if link is not None and id(link) not in known]


def _action_dict(action: Action) -> dict[str, Any]:
    return {
        "name": action.name,
        "task_name": action.task_name,
        "parent": action.parent,
        "memory_limit_bytes": action.limits.memory_bytes,
        "attempts": [
            {
                "number": attempt.number,
                "worker": attempt.worker,
                "error": type(attempt.outcome.error).__name__ if isinstance(attempt.outcome, Failure) else None,
                "peak_bytes": attempt.trace.peak_bytes,
                "duration_s": round(attempt.duration_s, 3),
            }
            for attempt in action.attempts
        ],
    }
