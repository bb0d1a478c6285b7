"""The progress of a run: values for a live line, and the tally that they are computed from.

The tally does constant work for each change, whatever the number of actions: a map over 10,000 items is one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flyte_notebook.core.job import Job

LiveState: TypeAlias = Literal["queued", "starting", "running"]

DEEPEST = 6
"""A task that was called deeper than this is counted with the tasks at this depth."""

MOST_TASKS = 200
"""When there are this many rows, a further task is counted with the other tasks of its depth."""

OTHER_TASKS = "other tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAttempt:
    """An attempt that waits for admission or has a worker.

    ``attempt`` counts from 1. It is ``starting`` until its worker is ready; ``running_s`` counts from then.
    ``usage_bytes`` is the last reported usage of all its processes; ``limit_bytes`` is ``None`` without a limit.
    """

    action: str
    parent: str | None
    task_name: str
    attempt: int
    max_attempts: int
    state: LiveState
    running_s: float = 0.0
    usage_bytes: int = 0
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """How many actions of one task, called from one place in the tree, are in each state.

    ``depth`` is 0 for the root of the run. ``running`` includes actions whose worker is starting; ``retrying`` are
    between two attempts. A ``failed`` action becomes ``caught`` when a caller of it succeeds.
    """

    task_name: str
    depth: int = 0
    queued: int = 0
    running: int = 0
    retrying: int = 0
    succeeded: int = 0
    failed: int = 0
    caught: int = 0

    @property
    def total(self) -> int:
        """The total number of these actions."""
        return self.queued + self.running + self.retrying + self.succeeded + self.failed + self.caught


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of one run.

    ``elapsed_s`` counts from the submission of its first attempt. ``living`` are attempts with a worker, the oldest
    first, and the first few that wait; there may be more. ``tasks`` are the rows of the tree, callers before callees,
    the root first. ``attempt`` (from 1) and ``max_attempts`` are the root's. ``failed_code`` is the code of the last
    failure while an action waits for its next attempt, ``None`` otherwise; ``again_in_s`` is how long the root still
    waits for it, ``None`` if it does not wait or this is not known. ``words`` replaces state, attempts and tasks where
    several runs are watched as one, or where a cluster says how its run stands; empty for a local run. ``url`` is the
    run's page in the cluster's console; empty for a local run, and until the cluster has it.
    """

    run: str
    task_name: str
    elapsed_s: float
    living: tuple[LiveAttempt, ...] = ()
    tasks: tuple[TaskCount, ...] = ()
    attempt: int = 1
    max_attempts: int = 1
    failed_code: str | None = None
    again_in_s: float | None = None
    words: str = ""
    url: str = ""

    @property
    def root(self) -> LiveAttempt | None:
        """The current attempt of the run's first action, ``None`` between two attempts."""
        return next((attempt for attempt in self.living if attempt.parent is None), None)


def live_attempt(
    job: Job, *, admitted: bool = False, ready_s: float | None = None, usage_bytes: int = 0, now_s: float = 0.0
) -> LiveAttempt:
    """Return the state of an attempt; ``ready_s`` is when its worker was ready, on the same clock as ``now_s``."""
    return LiveAttempt(
        action=job.action,
        parent=job.parent,
        task_name=job.label,
        attempt=job.attempt + 1,
        max_attempts=job.max_attempts,
        state="queued" if not admitted else "starting" if ready_s is None else "running",
        running_s=0.0 if ready_s is None else max(0.0, now_s - ready_s),
        usage_bytes=usage_bytes,
        limit_bytes=job.limits.memory_bytes,
    )


_Standing: TypeAlias = Literal["queued", "running", "retrying", "succeeded", "failed", "caught"]


class _Row:
    """One row of the tree: a task, called by the task of another row."""

    __slots__ = ("caller", "children", "counts", "depth", "task_name")

    def __init__(self, task_name: str, caller: _Row | None) -> None:
        self.task_name = task_name
        self.caller = caller
        self.depth: int = 0 if caller is None else caller.depth + 1
        self.counts: dict[_Standing, int] = dict.fromkeys(
            ("queued", "running", "retrying", "succeeded", "failed", "caught"), 0
        )
        self.children: dict[str, _Row] = {}


class Tally:
    """Counts the actions of one run as their attempts start and end.

    It is changed on one thread; `progress` may be called from any thread, and may miss the newest change of a row.
    """

    def __init__(self, job: Job, now_s: float) -> None:
        self._run, self._task_name, self._began_s = job.run, job.label, now_s
        self._attempt, self._max_attempts = 1, 1
        self._root: _Row | None = None
        self._rows: dict[str, _Row] = {}
        self._standing: dict[str, _Standing] = {}
        self._parents: dict[str, str | None] = {}
        self._failed_below: dict[str, list[str]] = {}
        self._retrying = 0
        self._failed_code: str | None = None
        self._tree: tuple[_Row, ...] = ()

    def began(self, job: Job) -> None:
        """Count an attempt that was submitted."""
        if job.parent is None:
            self._attempt, self._max_attempts = job.attempt + 1, job.max_attempts
        if job.action not in self._rows:
            self._rows[job.action] = self._row_of(job)
            self._parents[job.action] = job.parent
        self._move(job.action, "queued")

    def admitted(self, job: Job) -> None:
        """Count an attempt that may start."""
        self._move(job.action, "running")

    def ended(self, job: Job, *, succeeded: bool, again: bool = False, code: str = "") -> None:
        """Count an attempt that ended; ``again`` says that a failed one is followed by another."""
        if succeeded:
            self._move(job.action, "succeeded")
            for action in self._failed_below.pop(job.action, ()):
                if self._standing[action] == "failed":
                    self._move(action, "caught")
            return
        self._failed_code = code
        self._move(job.action, "retrying" if again else "failed")
        if not again and job.parent is not None:
            self._failed_below.setdefault(job.parent, []).extend((job.action, *self._failed_below.pop(job.action, ())))

    def progress(self, living: Iterable[LiveAttempt], now_s: float) -> Progress:
        """Return the progress of the run. Thread-safe."""
        return Progress(
            run=self._run,
            task_name=self._task_name,
            elapsed_s=max(0.0, now_s - self._began_s),
            living=tuple(living),
            tasks=tuple(TaskCount(task_name=row.task_name, depth=row.depth, **row.counts) for row in self._tree),
            attempt=self._attempt,
            max_attempts=self._max_attempts,
            failed_code=self._failed_code if self._retrying else None,
        )

    def _move(self, action: str, to: _Standing) -> None:
        row, before = self._rows[action], self._standing.get(action)
        if before is not None:
            row.counts[before] -= 1
        row.counts[to] += 1
        self._standing[action] = to
        self._retrying += (to == "retrying") - (before == "retrying")

    def _row_of(self, job: Job) -> _Row:
        caller = None if job.parent is None else self._rows.get(job.parent, self._root)
        if caller is None or self._root is None:
            self._root = self._root or _Row(job.label, None)
            self._tree = (self._root,)
            return self._root
        if caller.depth == DEEPEST and caller.caller is not None:
            caller = caller.caller
        full = len(self._tree) >= MOST_TASKS
        name = OTHER_TASKS if full and job.label not in caller.children else job.label
        row = caller.children.get(name)
        if row is None:
            row = caller.children[name] = _Row(name, caller)
            self._tree = tuple(_preorder(self._root))
        return row


def _preorder(root: _Row) -> Iterable[_Row]:
    waiting = [root]
    while waiting:
        row = waiting.pop()
        yield row
        waiting += reversed(row.children.values())
