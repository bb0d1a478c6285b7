"""The common part of the experiments: they run one task several times, can be stopped, and show their results.

An experiment is a class here (`sdk.fit`, `sdk.sweep`) and a view. It plans with a module of pure functions, starts its
runs in the session, and returns partial results at any time.
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
"""How long a stopped experiment may take to end its runs."""

TIME = frozenset({"max_runtime", "deadline", "max_queued_time"})
"""The reasons of failures for exceeded time."""


class Bundle(Protocol):
    """Describes the results in all requested forms, by MIME type."""

    def __call__(self, found: Any, /, *, rich: bool) -> dict[str, Any]:
        """Return the forms; plain text alone unless ``rich``."""


class Experiment(ABC):
    """Several runs of one task."""

    kind: ClassVar[str]
    """Its name, for example ``fit``."""
    error: ClassVar[type[Exception]]
    """The error if the experiment is not possible."""

    def __init__(self, session: Session, task: Any) -> None:
        """Take the task to run; nothing starts yet."""
        self._session = session
        self._task = task
        self._stopped = False

    @abstractmethod
    def run(self) -> Any:
        """Run to the end and return the result; blocks. After any exception, `known` returns partial results."""

    @abstractmethod
    def known(self) -> Any:
        """Return the current results."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it; returns at once. It ends with ActionAbortedError. Thread-safe."""

    @property
    @abstractmethod
    def measured(self) -> bool:
        """Whether there are any results."""

    def run_and_show(self, bundle: Bundle) -> Any:
        """Run it; if it ends early, show the partial results in the output, and raise."""
        try:
            return self.run()
        except BaseException:
            if self.measured:
                self._session.sink().display({"data": bundle(self.known(), rich=self._session.rich)})
            raise


def short_name(task: Any) -> str:
    """Return the name of a task without its environment's."""
    return str(task.name.rpartition(".")[2]) or "task"


def was_stopped(error: BaseException | None) -> bool:
    """Whether a run ended because it was stopped."""
    failure = failure_in(error)
    return isinstance(error, RunAbortedError) or (isinstance(failure, Failure) and failure.reason == "stopped")


def conduct(
    kind: type[Experiment],
    make: Callable[[Session], Experiment],
    bundle: Bundle,
    began: Callable[[Experiment], object] = lambda _: None,
) -> Any:
    """Make an experiment in the open session, or one of its own, and run it to its end.

    If it ends early, the partial results are shown in the output, as described by ``bundle``. ``began`` is called with
    the experiment when it begins.
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
