"""Limits the memory of the attempts in a history, by dropping data of the oldest failures.

An error may contain large values of the user; so the sum has a limit. Above it, the oldest failures lose data first:
the values of the error and its causes, and the middle of its texts. Class, code, line and measurements are kept. This
is done in place, because a card, the history and the error itself share the same failure.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from flyte_notebook.core.outcome import Failure

if TYPE_CHECKING:
    from flyte_notebook.history.runs import Attempt, Run

ATTEMPT_BYTES: Final = 2_000
"""Roughly the size of an attempt beside its trace and its texts."""

SAMPLE_BYTES: Final = 16
LIGHT_BYTES: Final = 32 << 10
"""A failure up to this size has no data to drop."""

KEPT_CHARS: Final = 2_000
"""The length of each text of a failure that lost its values."""

_KEPT_FIELDS: Final = frozenset({"code", "kind", "worker", "failure", "recoverable"})


class Budget:
    """The estimated sizes of attempts in bytes. Not thread-safe: the history has a lock."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._total_bytes = 0
        self._weights: dict[int, int] = {}
        self._heavy: dict[int, tuple[Run, Failure]] = {}

    @property
    def exceeded(self) -> bool:
        """Whether they are still too large after all possible data was dropped."""
        return self._total_bytes > self._most_bytes

    def add(self, run: Run, attempt: Attempt) -> None:
        """Add an ended attempt; drop data of the oldest failures above the limit, never of the newest."""
        outcome = attempt.outcome
        weight = _weight(attempt)
        self._weights[id(attempt)] = weight
        self._total_bytes += weight
        if isinstance(outcome, Failure) and outcome.weight_bytes > LIGHT_BYTES:
            self._heavy[id(attempt)] = (run, outcome)
        while self.exceeded and len(self._heavy) > 1:
            self._lighten(next(iter(self._heavy)))

    def forget(self, run: Run) -> None:
        """Remove the attempts of a run that is not kept any more."""
        for action in run.actions:
            for attempt in action.attempts:
                self._total_bytes -= self._weights.pop(id(attempt), 0)
                self._heavy.pop(id(attempt), None)

    def _lighten(self, which: int) -> None:
        run, failure = self._heavy.pop(which)
        before = failure.weight_bytes
        let_values_go(failure)
        if run.failure is not None and run.failure.error is failure.error:
            let_values_go(run.failure)  # it may be another object, with the lines of its callers
        freed = before - failure.weight_bytes
        self._weights[which] -= freed
        self._total_bytes -= freed


def let_values_go(failure: Failure) -> None:
    """Drop the values of a failure's error, the error's causes, and most of the failure's texts."""
    from flyte_notebook.core.stand_in import WorkerTraceback, attach  # noqa: PLC0415 - it loads the SDK, as the error did

    failure.cut(KEPT_CHARS)
    error = failure.error
    held = getattr(error, "__dict__", {})
    for name in [name for name in held if name not in _KEPT_FIELDS]:
        del held[name]
    attach(error, "args", (failure.message,))
    attach(error, "__context__", None)
    attach(error, "__cause__", WorkerTraceback(failure.traceback) if failure.traceback else None)


def _weight(attempt: Attempt) -> int:
    outcome = attempt.outcome
    texts = outcome.weight_bytes if isinstance(outcome, Failure) else sys.getsizeof(outcome.report.output_tail)
    return ATTEMPT_BYTES + SAMPLE_BYTES * len(attempt.trace.times_s) + texts
