"""Notifies the watcher when a run begins, and once when it is over: returned, raised, stopped or cancelled.

The session only handles attempts. It knows that another one follows a failure, but gets no event for a run that is
cancelled while the SDK sleeps in between: this is noticed by the end of the SDK's own asyncio task, one for each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.sdk import seam

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.progress import Progress
    from flyte_notebook.engine import Sink
    from flyte_notebook.history import Run

logger = logging.getLogger("flyte_notebook.sdk")


class Watch(Protocol):
    """Is called for runs, on threads of the SDK and in the context of the run's caller; must return soon."""

    def began(self, run: Run, sink: Sink) -> None:
        """Note that a run began, whose output goes to ``sink``."""

    def ended(self, run: Run) -> None:
        """Note that it is over, before its caller has the result."""


class Group(Protocol):
    """Many runs that are watched as one, such as a sweep. Any method from any thread."""

    name: str

    def progress(self) -> Progress | None:
        """Return their progress together, ``None`` when they are over."""

    def stop(self) -> None:
        """Stop all of them; returns at once."""


@dataclass(slots=True, eq=False)
class _Watched:
    run: Run
    task: asyncio.Task[Any]
    began_s: float
    attempts: int = 0
    wakes_s: float | None = None
    """The monotonic time at which the SDK tries again, ``None`` during an attempt."""


class Watching:
    """The runs that are not over. ``lost(name)`` is called for one that ended between two attempts."""

    def __init__(self, watch: Watch | None, *, lost: Callable[[str], object]) -> None:
        self._watch = watch
        self._lost = lost
        self._runs: dict[str, _Watched] = {}

    def attempt(self, run: Run, sink: Sink) -> None:
        """Note that an attempt of a run's first action begins; called in the SDK's asyncio task for the run."""
        watched = self._runs.get(run.name)
        if watched is None:
            task = asyncio.current_task()
            assert task is not None
            watched = self._runs[run.name] = _Watched(run, task, monotonic_s())
            task.add_done_callback(lambda _: self._task_ended(watched))
            self._tell(lambda watch: watch.began(run, sink))
        watched.attempts += 1
        watched.wakes_s = None

    def failed(self, name: str, task: Any) -> None:
        """Note that an attempt failed and that the SDK sleeps before the next one."""
        watched = self._runs.get(name)
        if watched is not None:
            sleep_s = seam.backoff_s(task, watched.attempts)
            watched.wakes_s = None if sleep_s is None else monotonic_s() + sleep_s

    def over(self, name: str) -> None:
        """Note that a run is over. Idempotent."""
        watched = self._runs.pop(name, None)
        if watched is not None:
            watched.run.took_s = monotonic_s() - watched.began_s
            self._tell(lambda watch: watch.ended(watched.run))

    def group_began(self, run: Run, sink: Sink) -> None:
        """Note that a group began; ``run`` represents it, and has no actions."""
        self._tell(lambda watch: watch.began(run, sink))

    def group_ended(self, run: Run) -> None:
        """Note that a group is over."""
        self._tell(lambda watch: watch.ended(run))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the runs that are not over. Thread-safe, takes no lock."""
        return tuple(self._runs)

    def again_in_s(self, name: str) -> float | None:
        """Return how long the SDK still sleeps before the next attempt, ``None`` if it does not sleep. Thread-safe."""
        watched = self._runs.get(name)
        wakes_s = None if watched is None else watched.wakes_s
        return None if wakes_s is None else max(0.0, wakes_s - monotonic_s())

    def wake(self, name: str | None = None) -> None:
        """End the SDK's sleep before the next attempt of a run, or of all runs. Thread-safe, takes no lock."""
        for watched in tuple(self._runs.values()):
            if watched.wakes_s is not None and name in {None, watched.run.name}:
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    watched.task.get_loop().call_soon_threadsafe(_wake, watched)

    def _task_ended(self, watched: _Watched) -> None:
        if self._runs.get(watched.run.name) is watched:
            self._lost(watched.run.name)
            self.over(watched.run.name)

    def _tell(self, say: Callable[[Watch], None]) -> None:
        if self._watch is None:
            return
        try:
            say(self._watch)
        except Exception:  # an error of the watcher must not change the run
            logger.exception("could not show how a run stands")


def _wake(watched: _Watched) -> None:
    if watched.wakes_s is not None:
        seam.cut_sleep_short(watched.task)
