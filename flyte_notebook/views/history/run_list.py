"""Runs as text: one run as a tree of its actions, and all runs as a table."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.views.markup import columns
from flyte_notebook.views.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flyte_notebook.history import Action, Attempt, Run

MAX_ACTIONS = 100
MAX_RUNS = 50
OUTPUT_CHARACTERS = 200

_short = reprlib.Repr()
_short.maxstring = _short.maxother = OUTPUT_CHARACTERS


def run_text(run: Run) -> str:
    """Return a run as a tree: each action with its attempts, durations, peak against limit, and outcome."""
    lines = [f"{clean_line(run.task_name)} · run {clean_line(run.name)} · {end_words(run)}{took_words(run)}"]
    if run.url:
        lines.append(f"  {clean_line(run.url)}")
    for shown, (action, depth) in enumerate(_walk(run)):
        if shown == MAX_ACTIONS:
            lines.append(f"  [… {len(run.actions) - shown} more actions …]")
            break
        lines += [f"{'  ' * (depth + 1)}{line}" for line in _action_lines(action)]
    return "\n".join(lines)


def took_words(run: Run) -> str:
    """Return how long a run took, to follow how it ended; empty while it runs, and for a cached one."""
    ended = bool(run.actions) and run.actions[0].outcome is not None
    return f" · {format_duration(run.duration_s)}" if ended and not run.cached else ""


def run_line(run: Run, outputs: Sequence[object]) -> str:
    """Return a run that has ended as one line: task, outcome, duration, peak against limit, outputs."""
    attempts = run.actions[0].attempts
    took = format_duration(run.duration_s)
    parts = [f"{clean_line(run.task_name, 80)} {end_words(run)} in {took}"]
    if attempts and attempts[-1].trace.peak_bytes is not None:
        limit_bytes = attempts[-1].limits.memory_bytes
        limit = "" if limit_bytes is None else f" of {_bytes(limit_bytes)}"
        parts.append(f"peak {_bytes(attempts[-1].trace.peak_bytes)}{limit}")
    if outputs:
        parts.append(f"output {clean_line(', '.join(map(_short.repr, outputs)), OUTPUT_CHARACTERS)}")
    return " · ".join(parts)


def runs_text(runs: Sequence[Run]) -> str:
    """Return runs as a table, the last one at the bottom."""
    if not runs:
        return "nothing has run yet"
    rows = [("run", "task", "actions", "peak", "limit", "outcome")]
    for run in runs[-MAX_RUNS:]:
        root = run.actions[0].attempts[-1] if run.actions and run.actions[0].attempts else None
        rows.append(
            (
                clean_line(run.name, 40),
                clean_line(run.task_name, 40),
                str(len(run.actions)),
                _bytes(root.trace.peak_bytes if root is not None else None),
                _bytes(root.limits.memory_bytes if root is not None else None),
                end_words(run),
            )
        )
    return "\n".join(row.removeprefix("  ") for row in columns(rows))


def _walk(run: Run) -> Iterator[tuple[Action, int]]:
    """Yield the actions, parents before their children, each with its depth."""
    children: dict[str | None, list[Action]] = {}
    for action in run.actions:
        children.setdefault(action.parent, []).append(action)
    waiting = [(action, 0) for action in reversed(children.get(None, []))]
    while waiting:
        action, depth = waiting.pop()
        yield action, depth
        waiting += [(child, depth + 1) for child in reversed(children.get(action.name, []))]


def _action_lines(action: Action) -> Iterator[str]:
    for attempt in action.attempts:
        number = f" (attempt {attempt.number})" if len(action.attempts) > 1 else ""
        limit_bytes = attempt.limits.memory_bytes
        limit = ", no limit" if limit_bytes is None else f" of {_bytes(limit_bytes)}"
        peak = f"{_bytes(attempt.trace.peak_bytes)}{limit}"
        yield (
            f"{_mark(attempt)} {clean_line(action.task_name)}{number} · {format_duration(attempt.duration_s)} · "
            f"{peak}{_why(attempt)}"
        )
    if not action.attempts:
        yield f"… {clean_line(action.task_name)} · running"


def _mark(attempt: Attempt) -> str:
    return "✗" if isinstance(attempt.outcome, Failure) else "✓"


def _why(attempt: Attempt) -> str:
    if not isinstance(attempt.outcome, Failure):
        return ""
    if attempt.outcome.worker != attempt.worker:
        return f" · {type(attempt.outcome.error).__name__} of a task that it called"
    return f" · {type(attempt.outcome.error).__name__}: {clean_line(attempt.outcome.headline, 120)}"


def end_words(run: Run) -> str:
    """Return how a run ended: the class of its error, or a word."""
    if run.failure is not None:
        return type(run.failure.error).__name__
    if run.cached:
        return "from the cache"
    outcome = run.actions[0].outcome if run.actions else None
    if isinstance(outcome, Failure):  # its cell was cancelled and no longer waited for it
        return type(outcome.error).__name__
    return "not finished" if outcome is None else "succeeded"


def _bytes(memory_bytes: int | None) -> str:
    return "-" if memory_bytes is None else format_memory(memory_bytes)
