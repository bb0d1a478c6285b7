"""A task that is called again with more memory when it was killed for memory: ``override`` in a loop.

It is a plain Flyte program: inside a task, on a cluster and here, each attempt is an action. Outside of a task with an
open session, each attempt is a run, and the history records them as reruns of the first.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import flyte

from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.overrides import resources_line
from flyte_notebook.core.units import quantity_memory
from flyte_notebook.errors import OOMError, UnschedulableError, failure_in
from flyte_notebook.experiments.escalation import Growth, exhausted, listed
from flyte_notebook.experiments.fitting import kept_after
from flyte_notebook.history import CALL, Grown
from flyte_notebook.limiters import machine
from flyte_notebook.sdk import seam, tasks
from flyte_notebook.sdk.settings import check_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.history import Attempt, History, Purpose, Run
    from flyte_notebook.sdk.session import Session

KILLED = "OOMKilled"
"""The code of a kill for memory; the SDK creates an OOMError for other codes too, by a part of their name."""


class StoryBundle(Protocol):
    """Describes the growth of a limit in all requested forms, by MIME type."""

    def __call__(
        self, task_name: str, story: tuple[tuple[str, Attempt], ...], line: str, /, *, rich: bool
    ) -> dict[str, Any]:
        """Return the forms; plain text alone unless ``rich``."""


class OomEscalation:
    """One call of a task whose limit grows: the next limit, and the outcome.

    ``tried`` are the limits so far; the attempt with the last one may still run. Raises TypeError if it is no task, and
    `GrowthError` for a limit that cannot grow.
    """

    def __init__(self, task: Any, growth: Growth) -> None:
        check_task(task, "retry_on_oom")
        self._task = task
        self._limits = growth.limits(tasks.limits_of(task).memory_bytes)
        self._first: str | None = None
        self._last_kill: OOMError | None = None
        self._history: History | None = None
        self._run: Run | None = None
        self.tried = [self._limits[0]]

    @property
    def grown(self) -> bool:
        """Whether the limit has grown."""
        return len(self.tried) > 1

    @property
    def task(self) -> Any:
        """The task under the limit to try now; only the limit differs from the declared settings."""
        return self._task if not self.grown else overridden(self._task, self.tried[-1])

    @property
    def kept_bytes(self) -> int:
        """The limit to keep: with the margin of a fit if the peak is known exactly, else the limit that passed."""
        attempts = self._run.actions[0].attempts if self._run is not None and self._run.actions else []
        wanted = kept_after(attempts[-1].trace) if attempts else None
        return self.tried[-1] if wanted is None or wanted > machine.capacity_bytes() else wanted

    @property
    def kept(self) -> Any:
        """The task under the limit to keep."""
        return overridden(self._task, self.kept_bytes) if self.grown else self._task

    @property
    def line(self) -> str:
        """The resources to keep, as code."""
        return resources_line(tasks.declared_resources(self.kept))

    def failed(self, error: OOMError | UnschedulableError) -> None:
        """Grow after a kill for memory, if there is a next limit; else raise the error that says why not."""
        failure = failure_in(error)
        if self._run is not None and self._history is not None and not self._run.actions:
            self._history.forget(self._run.name)  # the run did not begin
        if isinstance(error, UnschedulableError):
            self._beyond(error, failure)
            return
        if not self._is_own_kill(error, failure):
            raise error
        self._last_kill = error
        if isinstance(failure, Failure) and self._first is None:
            self._first = failure.worker
        if len(self.tried) == len(self._limits):
            if self.grown:
                self._say(error, exhausted(self.tried, next_bytes=None))
            raise error
        self.tried.append(self._limits[len(self.tried)])

    def _beyond(self, error: UnschedulableError, failure: object) -> None:
        """Raise the error of the last kill if the next limit is more than the machine has."""
        kill = self._last_kill
        if kill is None or not isinstance(failure, Failure) or failure.reason != "never_fits":
            raise error
        next_bytes = self.tried.pop()
        self._say(kill, exhausted(self.tried, next_bytes=next_bytes, why=failure.headline))
        raise kill

    def _say(self, error: OOMError, sentence: str) -> None:
        """Add the tried limits to an error, its card and the history."""
        error.args = (f"{error}\n{sentence}", *error.args[1:])
        failure = failure_in(error)
        if not isinstance(failure, Failure):
            return
        told = replace(failure, headline=f"{failure.headline}; {sentence}")
        error.failure = told  # type: ignore[attr-defined]  # as on every error that reaches the user
        if self._history is not None:
            self._history.retell(failure, told)

    def _is_own_kill(self, error: OOMError, failure: object) -> bool:
        """Whether this task was killed at its own limit: not a nested task, and not for lack of machine memory."""
        if isinstance(failure, Failure):
            return failure.reason == "memory" and failure.task_name == self._task.name
        return str(error.code).rpartition("|")[2] == KILLED

    def begin(self, session: Session) -> Run:
        """Return the run of the next attempt; the history records it as a rerun of the first one."""
        self._history = session.history
        first = None if self._first is None else session.history.run_of(self._first)
        purpose: Purpose = CALL
        if self._first is not None and first is not None:
            purpose = Grown(of=self._first, limit=quantity_memory(self.tried[-1]), cell=first.of_cell)
        self._run = session.begin(self._task.name, purpose, remote=first is not None and first.remote)
        return self._run

    def passed(self) -> None:
        """Note that the last attempt passed."""
        if self._run is not None:
            self._run.cached = not self._run.actions

    def bundle(self, session: Session, bundle: StoryBundle) -> dict[str, Any]:
        """Return a description of how the limit grew, in every form."""
        story = () if self._first is None else session.history.story(self._first)
        return bundle(self._task.name, story, self.line, rich=session.rich)

    @property
    def words(self) -> str:
        """One sentence about how the limit grew, with the line of code to keep."""
        after = listed(self.tried[:-1])
        return (
            f"{self._task.name} passed with {quantity_memory(self.tried[-1])}, after OOM at {after}; keep {self.line}"
        )


def overridden(task: Any, memory_bytes: int) -> Any:
    """Return a task under another limit; all other settings stay, also a request below the limit."""
    declared, memory = task.resources.memory, quantity_memory(memory_bytes)
    both = (declared[0], memory) if isinstance(declared, tuple) else memory
    changes: dict[str, Any] = {"resources": replace(task.resources, memory=both)}
    if task.reusable is not None:  # the SDK cannot override resources of a reused container
        changes["reusable"] = "off"
    return task.override(**changes)


class _Named(type):
    """Gives the class an explanatory text: ``flyte.run`` only names the class of an object that is not a task."""

    def __repr__(cls) -> str:
        return "<RetryOnOom: call it like the task, fn.retry_on_oom(task)(x=5), in a task of your own or in a cell>"


class RetryOnOom(metaclass=_Named):
    """The result of `flyte_notebook.retry_on_oom`: called and awaited like its task."""

    def __init__(self, task: Any, growth: Growth, bundle: StoryBundle | None = None) -> None:
        """Take a task and how its limit grows; ``bundle`` describes it. Raises as `OomEscalation` does."""
        OomEscalation(task, growth)
        self._task = task
        self._growth = growth
        self._bundle = bundle

    def __repr__(self) -> str:
        limits = listed(OomEscalation(self._task, self._growth).tried)
        return f"<{self._task.name} from {limits}, more after each OOM up to {quantity_memory(self._growth.cap_bytes)}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        words = f"retry_on_oom(...) is no task and has no {name}: call it like the task, or use the task itself"
        raise AttributeError(words)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the task, again with more memory after each OOM; returns a coroutine if the task's own call does."""
        if not seam.is_sync(self._task):
            return self._awaited(args, kwargs, aio=False)
        escalation = OomEscalation(self._task, self._growth)
        while True:
            try:
                with _named(escalation) as task:
                    value = task(*args, **kwargs)
            except (OOMError, UnschedulableError) as error:
                escalation.failed(error)
            else:
                self._tell(escalation)
                return value

    async def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """As ``task.aio``, for a synchronous task that is called by an asynchronous one."""
        return await self._awaited(args, kwargs, aio=True)

    async def _awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, aio: bool) -> Any:
        escalation = OomEscalation(self._task, self._growth)
        while True:
            try:
                with _named(escalation) as task:
                    called = task.aio(*args, **kwargs) if aio else task(*args, **kwargs)
                value = await called
            except (OOMError, UnschedulableError) as error:
                escalation.failed(error)
            else:
                self._tell(escalation)
                return value

    def _tell(self, escalation: OomEscalation) -> None:
        """Report the limit to keep, if it has grown."""
        if not escalation.grown:
            return
        escalation.passed()
        session = _outermost()
        if session is not None and self._bundle is not None:
            session.sink().display({"data": escalation.bundle(session, self._bundle)})
        else:
            sys.stderr.write(f"[flyte_notebook: {escalation.words}]\n")


@contextmanager
def _named(escalation: OomEscalation) -> Iterator[Any]:
    """Yield the task to call; if its call is a separate run, that run is recorded as a rerun of the first."""
    session = _outermost() if escalation.grown else None
    if session is None:
        yield escalation.task
        return
    run = escalation.begin(session)
    with session.call_named(run.name):
        yield escalation.task


def _outermost() -> Session | None:
    """Return the open session if a call is a separate run: outside of any task."""
    called_by: Any = flyte.ctx()  # falsy, not None, outside of a task, whatever its annotation says
    if called_by:
        return None
    from flyte_notebook.sdk import enforcement  # noqa: PLC0415 - a worker has no session, and must not load one

    return enforcement.current()
