"""Adds what a cluster tells of a run to the history: all its actions, their attempts, and why it failed."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from flyte_notebook.core.job import Job
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.stand_in import attach
from flyte_notebook.core.units import UnitError, parse_cpu, parse_memory
from flyte_notebook.history import Attempt
from flyte_notebook.sdk.cluster import verdict
from flyte_notebook.sdk.cluster.observed import SUCCEEDED, AttemptFacts, LogFacts, origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyte_notebook.history import History, Run
    from flyte_notebook.sdk.cluster.following import Following
    from flyte_notebook.sdk.cluster.observed import ActionFacts

logger = logging.getLogger("flyte_notebook.sdk")


class Recorder:
    """Records one run. ``limits`` and ``attempts`` are those of its task; without them what the cluster says."""

    def __init__(self, run: Run, history: History, limits: Limits | None = None, attempts: int | None = None) -> None:
        self._run = run
        self._history = history
        self._limits = limits
        self._attempts = attempts

    async def record(self, following: Following) -> Failure | None:
        """Add the actions and their attempts to the history; return the failure to show, ``None`` if it succeeded."""
        root = following.action
        assert root is not None
        actions = [root, *(action for action in await self._others(following) if action.name != root.name)]
        names = {action.name: f"a{number}" for number, action in enumerate(actions)}
        origin = origin_of(actions)
        worker = self._worker(origin, names)
        for action in actions:
            self._record_action(action, names, {} if action is not root else following.logs, worker)
        last = self._run.actions[0].attempts[-1].outcome if self._run.actions[0].attempts else None
        failure = self._run.told(last) if isinstance(last, Failure) else None
        if failure is None and root.phase != SUCCEEDED:
            never = AttemptFacts(number=1, phase=root.phase, error=root.error)
            outcome = verdict.outcome(self._job(root, "a0", never), root, never, LogFacts())
            failure = outcome if isinstance(outcome, Failure) else None
        if failure is not None:
            attach(failure.error, "failure", failure)
        self._history.end(self._run, failure)
        return failure

    async def _others(self, following: Following) -> list[ActionFacts]:
        try:
            return await following.tree()
        except Exception:  # the root is known, and so is the end of the run
            logger.debug("the actions of %s are not known", self._run.name, exc_info=True)
            return []

    def _worker(self, action: ActionFacts, names: Mapping[str, str]) -> str:
        last = action.attempts[-1] if action.attempts else None
        return (last.pod if last is not None else "") or f"{self._run.name}-{names[action.name]}-0"

    def _record_action(
        self, action: ActionFacts, names: Mapping[str, str], logs: Mapping[int, LogFacts], origin: str
    ) -> None:
        """Add one action. ``origin`` is the worker that the failure of the run comes from."""
        root = not action.parent
        name, task_name = names[action.name], self._run.task_name if root else action.task_name
        limits = self._limits_of(action)
        kept = self._run.begin_action(name, task_name, None if root else names.get(action.parent, "a0"), limits)
        for attempt in action.attempts:
            outcome = verdict.outcome(
                self._job(action, name, attempt), action, attempt, logs.get(attempt.number, LogFacts())
            )
            worker = attempt.pod or f"{self._run.name}-{name}-{attempt.number - 1}"
            if root and isinstance(outcome, Failure) and attempt is action.attempts[-1] and outcome.reason == "raised":
                outcome = replace(outcome, worker=origin)  # as of a local run: whose error it is
            report = outcome.report
            self._history.record(
                self._run,
                kept,
                Attempt(
                    number=attempt.number,
                    worker=worker,
                    limits=limits,
                    outcome=outcome,
                    trace=report.trace,
                    duration_s=report.duration_s,
                ),
            )

    def _job(self, action: ActionFacts, name: str, attempt: AttemptFacts) -> Job:
        root = not action.parent
        return Job(
            label=self._run.task_name if root else action.task_name,
            run=self._run.name,
            action=name,
            entry="",
            payload=b"",
            attempt=attempt.number - 1,
            max_attempts=self._attempts if root and self._attempts else len(action.attempts),
            limits=self._limits_of(action),
        )

    def _limits_of(self, action: ActionFacts) -> Limits:
        return self._limits if self._limits is not None and not action.parent else _requested(action)


def _requested(action: ActionFacts) -> Limits:
    """Return what an action asked for, as limits: a cluster may hold it to its requests."""
    memory_bytes = cpu_cores = None
    with contextlib.suppress(UnitError):
        memory_bytes = parse_memory(action.memory) if action.memory else None
    with contextlib.suppress(UnitError):
        cpu_cores = parse_cpu(action.cpu) if action.cpu else None
    return Limits(memory_bytes=memory_bytes, cpu_cores=cpu_cores)
