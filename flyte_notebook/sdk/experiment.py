"""What the experiments have in common: they run one task several times, can be stopped, and show what they found.

An experiment is a class here (`sdk.fit`, `sdk.sweep`) and a view. It plans with a pure module, starts its runs in the
session, and gives what is known at any time.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from flyte_notebook.core.outcome import Failure
from flyte_notebook.errors import RunAbortedError, failure_in
from flyte_notebook.sdk import enforcement
from flyte_notebook.worker.process import context

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.sdk.session import Session

STOP_BOUND_S = 3.0
"""How long an experiment that was stopped may take to end what it started."""

TIME = frozenset({"max_runtime", "deadline", "max_queued_time"})
"""The reasons of a failure that was too slow."""


class Bundle(Protocol):
    """Says what was found in every form that is asked for, by MIME type."""

    def __call__(self, found: Any, /, *, rich: bool) -> dict[str, Any]:
        """Return the forms; plain text alone unless ``rich``."""


class Experiment(ABC):
    """Several runs of one task."""

    kind: ClassVar[str]
    """What it is called: ``fit``."""
    error: ClassVar[type[Exception]]
    """What is raised where it cannot be done."""

    def __init__(self, session: Session, task: Any) -> None:
        """Take what is to be run; nothing starts."""
        self._session = session
        self._task = task
        self._stopped = False

    @abstractmethod
    def run(self) -> Any:
        """Run to the end and return what was found; blocks. Whatever is raised, `known` tells afterwards."""

    @abstractmethod
    def known(self) -> Any:
        """Return what is known now."""

    @abstractmethod
    def stop(self) -> None:
        """Have it stopped; returns at once. It ends with ActionAbortedError. Thread-safe."""

    @property
    @abstractmethod
    def measured(self) -> bool:
        """Whether anything is known."""

    def run_and_show(self, bundle: Bundle) -> Any:
        """Run it; when it ends before its end, show what is known where output goes, and raise."""
        try:
            return self.run()
        except BaseException:
            if self.measured:
                self._session.show({"data": bundle(self.known(), rich=self._session.rich)})
            raise


def short_name(task: Any) -> str:
    """Return the name of a task without its environment's."""
    return str(task.name.rpartition(".")[2]) or "task"


def was_stopped(error: BaseException | None) -> bool:
    """Whether a run ended because somebody stopped it."""
    failure = failure_in(error)
    return isinstance(error, RunAbortedError) or (isinstance(failure, Failure) and failure.reason == "stopped")


def conduct(
    kind: type[Experiment],
    make: Callable[[Session], Experiment],
    bundle: Bundle,
    began: Callable[[Experiment], object] = lambda _: None,
) -> Any:
    """Make an experiment in the open session, or one of its own, and run it to its end.

    When it ends before it found anything, what is known is shown where output goes, as ``bundle`` says it. ``began`` is
    given the experiment when it begins.
    """
    if context.in_worker():
        raise kind.error(
            f"{kind.kind} starts runs of its own, and cannot inside a task; call it in the notebook or script"
        )
    session = enforcement.current()
    if session is None:
        opened = enforcement.open_session()
        try:
            return conduct(kind, make, bundle, began)
        finally:
            if enforcement.current() is opened:
                enforcement.close_session()
    experiment = make(session)
    began(experiment)
    return experiment.run_and_show(bundle)


async def conduct_aio(kind: type[Experiment], make: Callable[[Session], Experiment], bundle: Bundle) -> Any:
    """As `conduct`, in a thread of its own. When cancelled, the experiment is stopped."""
    begun: list[Experiment] = []
    thread = asyncio.ensure_future(asyncio.to_thread(conduct, kind, make, bundle, begun.append))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        for one in begun:
            one.stop()
        await asyncio.wait({thread}, timeout=STOP_BOUND_S)
        if thread.done() and not thread.cancelled():
            thread.exception()  # that it was stopped
        raise
