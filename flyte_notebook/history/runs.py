"""A run: its actions in start order, their attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from flyte_notebook.core.bound import to_json, unique
from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.trace import data_frame
from flyte_notebook.history.purpose import CALL, Cell, FitTrial, Grown, Rerun, SweepPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flyte_notebook.core.limits import Limits
    from flyte_notebook.core.outcome import Outcome
    from flyte_notebook.core.trace import MemoryTrace
    from flyte_notebook.history.purpose import Purpose

FACTS_VERSION = 1
"""The version of the result of `Run.to_dict`; it is increased when the meaning of a field changes."""

_draw: Callable[[Run], Any] | None = None


def draw_runs_with(draw: Callable[[Run], Any]) -> None:
    """Let `Run.figure` draw with this function, which belongs to a higher layer."""
    global _draw  # noqa: PLW0603 - one for the process, set when the package is imported
    _draw = draw


def unique_name(text: str) -> str:
    """Return a name for a run of a task, or of another thing that is called so."""
    return f"{text.rpartition('.')[2] or 'task'}-{unique()[:12]}"


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

    ``purpose`` says what it is for. ``failure`` is why the run failed, ``None`` while it runs and when it succeeded,
    also if failures inside were caught. ``returned`` are the results of a cell, a
    `flyte_notebook.cells.returned.ReturnedValues`, until they are in the notebook. ``outputs`` are the results of a
    cell by name; only the last run with outputs still has them, so that the history does not keep all results.
    ``cached``: the result came from the cache, and nothing ran. ``advice`` is a hint for a run that passed, in a few
    words. ``took_s`` is from the begin of its first attempt to its end, in seconds, with the pauses between attempts;
    ``None`` while it runs and for a loaded run. ``remote``: it is a cluster's, and ``url`` is its address there,
    once it was submitted. ``saved_s`` is the time of saving of a loaded run, in seconds since
    1970; such a run has no outputs and cannot be run again; ``None`` for a run of this kernel.
    """

    name: str
    task_name: str
    purpose: Purpose = CALL
    actions: list[Action] = field(default_factory=list)
    failure: Failure | None = None
    returned: Any = None
    outputs: dict[str, Any] = field(default_factory=dict)
    cached: bool = False
    advice: str = ""
    took_s: float | None = None
    remote: bool = False
    url: str = ""
    saved_s: float | None = None
    _frames_gone: bool = field(default=False, repr=False)
    _by_name: dict[str, Action] = field(default_factory=dict)

    def __repr__(self) -> str:
        count = f"{len(self.actions)} action{'' if len(self.actions) == 1 else 's'}"
        failed = "" if self.failure is None else f", {type(self.failure.error).__name__}"
        saved = "" if self.saved_s is None else f", saved {self.saved_words}"
        return f"<Run {self.name} of {self.task_name}: {count}{failed}{saved}>"

    @property
    def duration_s(self) -> float:
        """How long it took, in seconds; without the pauses between attempts where only those are known."""
        attempts = self.actions[0].attempts if self.actions else []
        known_s = sum(attempt.duration_s + attempt.outcome.report.queued_for_s for attempt in attempts)
        return known_s if self.took_s is None else self.took_s

    @property
    def of_cell(self) -> bool:
        """Whether it runs the task of a cell, whose outputs belong in the notebook."""
        return isinstance(self.purpose, Cell) or getattr(self.purpose, "cell", False)

    @property
    def background(self) -> bool:
        """Whether no cell waits for it."""
        return getattr(self.purpose, "background", False)

    @property
    def of_experiment(self) -> bool:
        """Whether it is part of an experiment about limits: then its failure is a result."""
        return isinstance(self.purpose, FitTrial | SweepPoint)

    @property
    def rerun_of(self) -> str | None:
        """The worker whose failure was run again, ``None`` if it is no rerun."""
        return self.purpose.of if isinstance(self.purpose, Rerun | Grown) else None

    @property
    def rerun_with(self) -> str:
        """The changes for a rerun, in a few words."""
        if isinstance(self.purpose, Grown):
            return self.purpose.limit
        return self.purpose.changed if isinstance(self.purpose, Rerun) else ""

    @property
    def saved_words(self) -> str:
        """When it was saved, in local time, to the minute; empty for a run of this kernel."""
        if self.saved_s is None:
            return ""
        return datetime.fromtimestamp(self.saved_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")

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

    def attempt(self, worker: str) -> tuple[Action, Attempt] | None:
        """Return the attempt with that worker name and its action, ``None`` if it is not one of this run's."""
        for action in self.actions:
            for attempt in action.attempts:
                if attempt.worker == worker:
                    return action, attempt
        return None

    @property
    def failed_workers(self) -> set[str]:
        """The names of the attempts that failed by themselves, and not because a nested task failed."""
        return {
            attempt.worker
            for action in self.actions
            for attempt in action.attempts
            if isinstance(attempt.outcome, Failure) and attempt.outcome.worker == attempt.worker
        }

    @property
    def has_tree(self) -> bool:
        """Whether its cell shows it as a tree: an attempt failed, and no experiment or later run shows that."""
        return bool(self.failed_workers) and not self.background and not isinstance(self.purpose, FitTrial | Grown)

    def failure_of(self, worker: str) -> Failure | None:
        """Return the failure of the attempt with that worker name, ``None`` if it is not one of this run's."""
        found = self.attempt(worker)
        return found[1].outcome if found is not None and isinstance(found[1].outcome, Failure) else None

    def told(self, failure: Failure) -> Failure:
        """Return the failure to show for one of its attempts: that of the attempt which raised the error.

        The lines of callers that did not catch the error are added before its own.
        """
        origin = self.failure_of(failure.worker) if failure.reason == "raised" and failure.worker else None
        if origin is None or origin is failure:
            return failure
        return replace(origin, lines=(*failure.lines, *origin.lines), traceback=origin.traceback or failure.traceback)

    def let_frames_go(self) -> None:
        """Drop the Python frames of its errors: they hold all local variables, including inputs of any size.

        Only text is shown of a failure. The history does this to every run but the last two.
        """
        if self._frames_gone:
            return
        self._frames_gone = True
        for action in self.actions:
            for attempt in action.attempts:
                if isinstance(attempt.outcome, Failure):
                    _let_frames_go(attempt.outcome.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the run for tools: names, limits, outcomes and traces, versioned; no values of inputs or outputs.

        ``failures`` are those of all attempts, and ``failure`` of an attempt is an index into them. Saved runs have
        this form, too.
        """
        failures: list[Failure] = []
        actions = [_action_dict(action, failures) for action in self.actions]
        return {
            "version": FACTS_VERSION,
            "name": self.name,
            "task_name": self.task_name,
            "cached": self.cached,
            "rerun_of": self.rerun_of,
            "rerun_with": self.rerun_with,
            "lands": self.of_cell,
            "apart": self.background,
            "of_fit": isinstance(self.purpose, FitTrial),
            "advice": self.advice,
            **({"remote": True, "url": self.url} if self.remote else {}),
            "failure": None if self.failure is None else self.failure.to_dict(),
            "outputs": sorted(self.outputs),
            "actions": actions,
            "failures": [failure.to_dict() for failure in failures],
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return to_json(self.to_dict())

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas is the user's, not a dependency
        """Return a ``pandas.DataFrame`` with a row for each attempt; ``attempt.trace.to_pandas()`` has its samples.

        Raises ModuleNotFoundError where there is no pandas.
        """
        rows = [_row(self, action, attempt) for action in self.actions for attempt in action.attempts]
        columns = {name: [row[place] for row in rows] for place, name in enumerate(_COLUMNS)}
        return data_frame(columns, whole=[name for name in _COLUMNS if name.endswith("_bytes")])

    def figure(self) -> Any:  # noqa: ANN401 - a matplotlib Figure; its library is loaded on the floor above
        """Return a ``matplotlib.figure.Figure``: memory over time of one action's attempts, or the peaks of many.

        Raises RuntimeError before `draw_runs_with` was called.
        """
        if _draw is None:
            raise RuntimeError("nothing here can draw a run; `import flyte_notebook` first")
        return _draw(self)


class Runs(Sequence[Run]):
    """Some runs, in order. ``runs[0]`` is the first; ``runs["oomer"]`` the last of that name, of run or of task."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs = tuple(runs)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the runs."""
        return tuple(run.name for run in self._runs)

    @overload
    def __getitem__(self, which: int | str) -> Run: ...

    @overload
    def __getitem__(self, which: slice) -> Runs: ...

    def __getitem__(self, which: int | str | slice) -> Run | Runs:
        if isinstance(which, slice):
            return type(self)(self._runs[which])
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(f"there is no run {which} here; there are {len(self)}")
            return self._runs[which]
        for run in reversed(self._runs):
            if which in {run.name, run.task_name}:
                return run
        known = ", ".join(dict.fromkeys(run.task_name for run in reversed(self._runs))) or "no runs at all"
        raise LookupError(f"no run or task is called {which!r} here; there are {known[:300]}")

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"<{len(self)} run{'' if len(self) == 1 else 's'}: {', '.join(self.names[-10:])}>"


def _let_frames_go(error: BaseException) -> None:
    chain, known = [error], set()
    while chain:
        one = chain.pop()
        known.add(id(one))
        BaseException.with_traceback(one, None)  # bypasses the class's own __setattr__, which may refuse
        chain += [link for link in (one.__cause__, one.__context__) if link is not None and id(link) not in known]


_COLUMNS = (
    *("run", "action", "task_name", "parent", "attempt", "worker", "error", "code"),
    *("memory_limit_bytes", "peak_bytes", "peak_source", "baseline_bytes", "duration_s"),
)


def _row(run: Run, action: Action, attempt: Attempt) -> tuple[Any, ...]:
    failure, trace = attempt.outcome, attempt.trace
    return (
        *(run.name, action.name, action.task_name, action.parent, attempt.number, attempt.worker),
        *((type(failure.error).__name__, failure.code) if isinstance(failure, Failure) else (None, None)),
        *(attempt.limits.memory_bytes, trace.peak_bytes, trace.peak_source, trace.baseline_bytes, attempt.duration_s),
    )


def _action_dict(action: Action, failures: list[Failure]) -> dict[str, Any]:
    return {
        "name": action.name,
        "task_name": action.task_name,
        "parent": action.parent,
        "memory_limit_bytes": action.limits.memory_bytes,
        "limits": action.limits.to_dict(),
        "attempts": [_attempt_dict(attempt, failures) for attempt in action.attempts],
    }


def _attempt_dict(attempt: Attempt, failures: list[Failure]) -> dict[str, Any]:
    outcome, place = attempt.outcome, None
    if isinstance(outcome, Failure):
        place = next((at for at, known in enumerate(failures) if known is outcome), len(failures))
        failures += [outcome] if place == len(failures) else []
    return {
        "number": attempt.number,
        "worker": attempt.worker,
        "error": type(outcome.error).__name__ if isinstance(outcome, Failure) else None,
        "failure": place,
        "peak_bytes": attempt.trace.peak_bytes,
        "duration_s": round(attempt.duration_s, 3),
        "queued_for_s": round(outcome.report.queued_for_s, 3),
        "limits": attempt.limits.to_dict(),
        "memory": attempt.trace.to_dict(),
        "enforcement": outcome.report.enforcement.to_dict(),
    }
