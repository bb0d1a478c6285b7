"""The attempts that wait or run now, their runs, and which runs have to stop.

Changed on the engine's thread only. Methods marked as thread-safe may be called from any thread at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.progress import Tally, live_attempt
from flyte_notebook.core.stand_in import attribute
from flyte_notebook.engine.scheduler import NeverFitsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flyte_notebook.core.job import Job
    from flyte_notebook.core.outcome import Outcome, Tripped
    from flyte_notebook.core.progress import LiveAttempt, Progress
    from flyte_notebook.engine.attempt import AttemptInWorker
    from flyte_notebook.engine.scheduler import Scheduler, Ticket

SHOWN_WITH_WORKER = 64
SHOWN_QUEUED = 8
"""How many attempts of a run its `Progress` lists; a user would not read more rows."""


class NotAdmittedError(Exception):
    """Why an attempt no longer waits for admission, as a `Tripped`."""

    def __init__(self, tripped: Tripped) -> None:
        super().__init__(tripped)
        self.tripped = tripped


@dataclass(slots=True, eq=False)
class InFlight:
    """An attempt that waits for admission or runs. Thousands of them may wait, so the object is small."""

    job: Job
    stopped: bool = False
    place: asyncio.Future[Ticket] | None = None
    """Its place in the queue for admission."""
    ticket: Ticket | None = None
    worker: AttemptInWorker | None = None


@dataclass(slots=True, eq=False)
class _Run:
    """One run: its tally and its attempts (the keys), in order of submission and of admission."""

    tally: Tally
    queued: dict[InFlight, None] = field(default_factory=dict)
    admitted: dict[InFlight, None] = field(default_factory=dict)
    sleeps: bool = False
    """Whether its root is between two attempts."""


class AttemptsInFlight:
    """The attempts that wait or run."""

    def __init__(self, clock: Callable[[], float] = monotonic_s) -> None:
        self._clock = clock
        self._attempts: set[InFlight] = set()
        self._runs: dict[str, _Run] = {}
        self._stopped: set[str] = set()
        self._sleeping = 0

    def __len__(self) -> int:
        """How many attempts wait or run. Thread-safe."""
        return len(self._attempts)

    @property
    def stoppable(self) -> int:
        """How many attempts wait or run, and how many runs are between two attempts. Thread-safe."""
        return len(self._attempts) + self._sleeping

    def begin(self, job: Job) -> InFlight:
        """Add an attempt that waits for admission, and return it."""
        attempt = InFlight(job)
        self._attempts.add(attempt)
        run = self._runs.get(job.run)
        if run is None:
            run = self._runs[job.run] = _Run(Tally(job, self._clock()))
        self._sleep(run, sleeps=run.sleeps and job.parent is not None)
        run.tally.began(job)
        run.queued[attempt] = None
        return attempt

    async def wait_for_place(self, attempt: InFlight, scheduler: Scheduler) -> tuple[Tripped | None, str]:
        """Wait for admission; return why it was not granted, or ``None``."""
        job = attempt.job
        if self.is_stopped(job.run):
            return "stopped", ""
        bound_s, bound = job.queue_bound(monotonic_s())
        if bound_s <= 0:
            return bound, ""
        place: asyncio.Future[Ticket] | None = None
        clock: asyncio.TimerHandle | None = None
        try:
            place = attempt.place = scheduler.admit(job.limits)
            if bound_s != float("inf"):
                clock = asyncio.get_running_loop().call_later(bound_s, _turn_away, place, bound)
            self.admit(attempt, await place)
        except NotAdmittedError as refused:
            return refused.tripped, ""
        except NeverFitsError as error:
            return "never_fits", str(error)
        else:
            return None, ""
        finally:
            if clock is not None:
                clock.cancel()
            if place is not None and attempt.ticket is None:
                scheduler.give_up(place)
            attempt.place = None

    def admit(self, attempt: InFlight, ticket: Ticket) -> None:
        """Give the attempt the right to run."""
        attempt.ticket = ticket
        run = self._runs.get(attempt.job.run)
        if run is not None:
            run.queued.pop(attempt, None)
            run.admitted[attempt] = None
            run.tally.admitted(attempt.job)

    def leave(self, attempt: InFlight) -> None:
        """Remove an attempt that neither waits nor runs any more."""
        self._attempts.discard(attempt)
        run = self._runs.get(attempt.job.run)
        if run is not None:
            run.queued.pop(attempt, None)
            run.admitted.pop(attempt, None)

    def conclude(self, job: Job, outcome: Outcome, *, cancelled: bool = False) -> None:
        """Count the outcome of an attempt; a run ends with its root action, unless another attempt follows."""
        run = self._runs.get(job.run)
        if run is None:
            return
        if not isinstance(outcome, Failure):
            run.tally.ended(job, succeeded=True)
            again = False
        else:
            again = not cancelled and (_comes_again(job, outcome) or outcome.retried_as_system_failure)
            run.tally.ended(job, succeeded=False, again=again, code=outcome.code)
        if job.parent is None and again:
            self._sleep(run, sleeps=True)
        elif job.parent is None:
            self.forget(job.run)

    def forget(self, name: str) -> None:
        """Forget a run: no further attempt of its root follows. Idempotent."""
        self._stopped.discard(name)
        run = self._runs.pop(name, None)
        if run is not None:
            self._sleep(run, sleeps=False)

    def is_stopped(self, run: str) -> bool:
        """Whether the run has to stop."""
        return run in self._stopped

    def stop_run(self, run: str) -> None:
        """Stop the attempts of one run, and all that would follow."""
        self._stopped.add(run)
        for attempt in self:
            if attempt.job.run == run:
                _stop(attempt)

    def stop_all(self) -> None:
        """As `stop_run`, for every run."""
        self._stopped.update(name for name, run in self._runs.items() if run.sleeps)
        for attempt in self:
            self._stopped.add(attempt.job.run)
            _stop(attempt)

    def __iter__(self) -> Iterator[InFlight]:
        """Yield all attempts; stopping one may remove it."""
        return iter(tuple(self._attempts))

    def progress(self, name: str) -> Progress | None:
        """Return the progress of a run, ``None`` if it has not begun or is over. Thread-safe."""
        run = self._runs.get(name)
        if run is None:
            return None
        now_s = self._clock()
        shown = [*_first(run.admitted, SHOWN_WITH_WORKER), *_first(run.queued, SHOWN_QUEUED)]
        return run.tally.progress([_seen(one, now_s) for one in shown], now_s)

    def _sleep(self, run: _Run, *, sleeps: bool) -> None:
        self._sleeping += sleeps - run.sleeps
        run.sleeps = sleeps


def _seen(attempt: InFlight, now_s: float) -> LiveAttempt:
    worker = attempt.worker
    return live_attempt(
        attempt.job,
        admitted=attempt.ticket is not None,
        ready_s=None if worker is None else worker.ready_s,
        usage_bytes=0 if worker is None else worker.usage_bytes,
        now_s=now_s,
    )


def _first(attempts: dict[InFlight, None], count: int) -> list[InFlight]:
    """Return the first few keys of a dictionary that another thread changes."""
    while True:
        with contextlib.suppress(RuntimeError):  # changed meanwhile: garbage collection lets other threads run
            return list(itertools.islice(attempts, count))


def _stop(attempt: InFlight) -> None:
    attempt.stopped = True
    if attempt.place is not None and not attempt.place.done():
        attempt.place.set_exception(NotAdmittedError("stopped"))
    if attempt.worker is not None:
        attempt.worker.stop()


def _comes_again(job: Job, outcome: Failure) -> bool:
    """Whether the SDK waits now and will try once more."""
    return bool(attribute(outcome.error, "recoverable", False)) and job.attempt + 1 < job.max_attempts


def _turn_away(place: asyncio.Future[Ticket], tripped: Tripped) -> None:
    """End an attempt's wait for its place in the queue."""
    if not place.done():
        place.set_exception(NotAdmittedError(tripped))
