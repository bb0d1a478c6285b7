"""Counts the attempts of each action of a run, and numbers the next one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flyte_notebook.core.outcome import Failure

if TYPE_CHECKING:
    from flyte_notebook.core.job import Job
    from flyte_notebook.core.outcome import Outcome

KEPT_ACTIONS = 20_000
"""How many actions are remembered; after an action was forgotten its next attempt counts as the first."""


@dataclass(slots=True)
class Counted:
    """The counters of one action. ``first_queued_s`` is a time of the monotonic clock."""

    first_queued_s: float
    attempts: int = 0
    system_failures: int = 0
    system_failures_in_a_row: int = 0

    def next_attempt(self, asked: Job) -> Job:
        """Return the job with the numbers of its next attempt."""
        job = replace(
            asked,
            attempt=self.attempts,
            max_attempts=asked.max_attempts + self.system_failures,
            queued_s=self.first_queued_s,
            system_failures=self.system_failures,
            system_failures_in_a_row=self.system_failures_in_a_row,
        )
        self.attempts += 1
        return job

    def goes_on(self, outcome: Outcome) -> bool:
        """Whether another attempt follows that uses up no retry of the task: the system failed, not the task."""
        if not isinstance(outcome, Failure) or not outcome.retried_as_system_failure:
            self.system_failures_in_a_row = 0
            return False
        self.system_failures += 1
        self.system_failures_in_a_row += 1
        return True


class Actions:
    """The most recent actions of this kernel."""

    def __init__(self) -> None:
        self._counted: OrderedDict[tuple[str, str], Counted] = OrderedDict()

    def of(self, job: Job, now_s: float) -> Counted:
        """Return the counters of a job's action."""
        key = (job.run, job.action)
        counted = self._counted.setdefault(key, Counted(now_s))
        self._counted.move_to_end(key)
        if len(self._counted) > KEPT_ACTIONS:
            self._counted.popitem(last=False)
        return counted
