"""Which attempt of an action comes next: what is counted of each action of a run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flyte_notebook.core.outcome import Failure

if TYPE_CHECKING:
    from flyte_notebook.core.job import Job
    from flyte_notebook.core.outcome import Outcome

KEPT_ACTIONS = 20_000
"""So many are remembered; of one that is forgotten the next attempt is the first."""


@dataclass(slots=True)
class Counted:
    """What is known of one action. ``first_queued_s`` is of the monotonic clock."""

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
        """Whether another attempt follows that costs none of the task's own: the system failed, not the task."""
        if not isinstance(outcome, Failure) or not outcome.retried_as_system_failure:
            self.system_failures_in_a_row = 0
            return False
        self.system_failures += 1
        self.system_failures_in_a_row += 1
        return True


class Actions:
    """The actions of this kernel that were run last."""

    def __init__(self) -> None:
        self._counted: OrderedDict[tuple[str, str], Counted] = OrderedDict()

    def of(self, job: Job, now_s: float) -> Counted:
        """Return what is counted of a job's action."""
        key = (job.run, job.action)
        counted = self._counted.setdefault(key, Counted(now_s))
        self._counted.move_to_end(key)
        if len(self._counted) > KEPT_ACTIONS:
            self._counted.popitem(last=False)
        return counted
