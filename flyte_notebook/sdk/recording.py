"""Adds nested actions to the SDK's own recorder (persisted runs, its terminal view), which does not see them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.stand_in import attribute

if TYPE_CHECKING:
    from flyte_notebook.core.job import Job
    from flyte_notebook.core.outcome import Outcome


class Recording:
    """Records the nested actions of one run with the recorder of the run's controller.

    ``root_action`` is the SDK's own name of the run's first action, which our history calls ``a0``.
    """

    def __init__(self, recorder: Any, root_action: str) -> None:
        self._recorder = recorder
        self._root_action = root_action

    def started(self, job: Job) -> None:
        """Record the start of an attempt; a first attempt is the start of its action."""
        if job.parent is None:
            return
        if job.attempt == 0:
            parent = job.parent if self._recorder.get_action(job.parent) else self._root_action
            self._recorder.record_start(action_id=job.action, task_name=job.label, parent_id=parent)
        self._recorder.record_attempt_start(action_id=job.action, attempt_num=job.attempt + 1)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Record the end of an attempt; the last one, or one that succeeded, is the end of its action."""
        if job.parent is None:
            return
        number = job.attempt + 1
        if not isinstance(outcome, Failure):
            self._recorder.record_attempt_complete(action_id=job.action, attempt_num=number)
            self._recorder.record_complete(action_id=job.action)
            return
        text = f"{type(outcome.error).__name__}: {outcome.headline}"
        self._recorder.record_attempt_failure(action_id=job.action, attempt_num=number, error=text)
        if outcome.retried_as_system_failure:
            return
        if number >= job.max_attempts or not attribute(outcome.error, "recoverable", False):
            self._recorder.record_failure(action_id=job.action, error=text)
