"""What the exercises ask about a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyte_notebook.core.outcome import Failure, Success

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.history import Action, Attempt, Run


def name_of(task_name: str) -> str:
    """Return the name of a task without its environment."""
    return task_name.rpartition(".")[2]


def passed(run: Run) -> bool:
    """Whether a run succeeded, also after failures inside."""
    return run.failure is None and bool(run.actions) and isinstance(run.actions[0].outcome, Success)


def last_attempt(run: Run) -> Attempt:
    """Return the last attempt of the task that was run."""
    return run.actions[0].attempts[-1]


def calls(run: Run, task: str | None = None) -> list[Action]:
    """Return what the run's task called, in start order; only one task's calls when its name is given."""
    return [action for action in run.actions[1:] if task is None or name_of(action.task_name) == task]


def own_failure(attempt: Attempt) -> Failure | None:
    """Return the failure of an attempt, ``None`` if it succeeded or failed because something that it called did."""
    outcome = attempt.outcome
    return outcome if isinstance(outcome, Failure) and outcome.worker == attempt.worker else None


def failures_inside(run: Run) -> Iterator[tuple[Action, Failure]]:
    """Yield the failures of what the run's task called, in start order; each by itself, not because of another."""
    for action in calls(run):
        for attempt in action.attempts:
            failure = own_failure(attempt)
            if failure is not None:
                yield action, failure


def how_it_failed(run: Run) -> str:
    """Return class, code and headline of the failure of a run, for a sentence."""
    failure = run.failure
    if failure is None:
        return "it was stopped"
    name = type(failure.error).__name__
    code = "" if failure.code == name else f" with the code {failure.code}"
    return f"{name}{code}: {failure.headline}"
