"""The engine: admits attempts, runs each in a worker, decides on its outcome, keeps the history.

It runs on one daemon thread with one asyncio loop; only methods marked as thread-safe may be called elsewhere.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flyte_notebook.core import private
from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.diagnosis import diagnose
from flyte_notebook.core.outcome import Failure, Success, WorkerReport
from flyte_notebook.engine.actions import Actions
from flyte_notebook.engine.attempt import AttemptInWorker, Origin
from flyte_notebook.engine.blobs import parcelled
from flyte_notebook.engine.in_flight import AttemptsInFlight
from flyte_notebook.engine.link import SupervisorError, SupervisorLink
from flyte_notebook.engine.proof import Proof, UnprovenError
from flyte_notebook.engine.request import above_standard, places
from flyte_notebook.engine.scheduler import MAX_PROCESSES, Scheduler
from flyte_notebook.history import Attempt, History
from flyte_notebook.limiters import machine
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.job import Job
    from flyte_notebook.core.limits import Enforcement
    from flyte_notebook.core.outcome import Outcome
    from flyte_notebook.core.progress import Progress
    from flyte_notebook.engine.in_flight import InFlight
    from flyte_notebook.engine.link import Prefork, Workers
    from flyte_notebook.engine.request import Start
    from flyte_notebook.engine.scheduler import Ticket

START_BOUND_S = 60.0
CLOSE_BOUND_S = 10.0


class EngineError(RuntimeError):
    """The engine could not start, or isolates nothing; the text says why."""


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock a notebook cannot stop by freezing its own, and whose class does not depend on its policy."""

    def time(self) -> float:
        """Return the time by which timeouts are measured."""
        return monotonic_s()


class Engine:
    """Runs jobs, each in a process of its own under its own limits."""

    def __init__(
        self,
        *,
        history: History,
        canary: str,
        rehearsal: str = "",
        max_processes: int = MAX_PROCESSES,
        prefork: Prefork | None = None,
    ) -> None:
        self._prefork = prefork
        self.history = history
        self.on_failure: Callable[[Job], None] | None = None
        """Called for each attempt that failed."""
        self.adjust: Callable[[Job], Job] | None = None
        """Changes the job of a nested call before it runs."""
        self._canary = canary
        self._rehearsal = rehearsal
        self.max_processes = max_processes
        with above_standard():
            self._loop = Loop()
        self._thread = threading.Thread(target=self._serve, name="flyte-notebook-engine", daemon=True)
        self._in_flight = AttemptsInFlight()
        self._actions = Actions()
        self._closed = False
        self._begun: concurrent.futures.Future[None] | None = None

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._run_loop():
                pass  # an exit or an interrupt does not change the loop: it goes on
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _run_loop(self) -> bool:
        """Run the loop; return whether it was stopped."""
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            self._loop.run_forever()
            return True
        return False

    def begin(self) -> None:
        """Begin to start the thread and the supervisor; returns at once. `start` goes on with it."""
        self._thread.start()
        self._begun = self.call(self._start())

    def start(self) -> None:
        """Start the thread and the supervisor, or wait until they are. Raises `EngineError` when that fails."""
        if self._begun is None:
            self.begin()
        assert self._begun is not None
        try:
            self._begun.result(START_BOUND_S)
            self.call(self._go_on()).result(START_BOUND_S)
        except (SupervisorError, OSError, concurrent.futures.TimeoutError) as error:
            self.close()
            raise EngineError(str(error)) from error

    async def _start(self) -> None:
        self._link = SupervisorLink(self._on_usage, self._on_loss, self._prefork)
        self._starting = asyncio.Lock()
        self._scheduler = Scheduler(
            memory=machine.memory,
            max_processes=self.max_processes,
            places=lambda: places(self._link.pid),
        )
        await self._link.start()

    async def _go_on(self) -> None:
        """Prepare workers, and check that one can start. Both take a core, so this begins when a caller waits."""
        self._link.begin_server()
        self._proof = Proof(self._link, canary=self._canary, rehearsal=self._rehearsal)

    def wait_until_proven(self, timeout_s: float = START_BOUND_S) -> None:
        """Wait for the results of all first checks. Thread-safe. Raises `EngineError` where nothing may run."""
        if self._proof.succeeded:  # each cell asks, and a round trip to the loop takes half a millisecond
            return
        try:
            self.call(self._proof.complete()).result(timeout_s)
        except UnprovenError as error:
            raise EngineError(str(error)) from error

    @property
    def baseline_bytes(self) -> int | None:
        """Memory of a worker before any user code, known when proven."""
        return self._proof.baseline_bytes

    @property
    def no_line(self) -> str:
        """Why the current line of a task cannot be read; empty when it can, and before that is proven."""
        return self._proof.no_line

    def workers(self) -> Workers:
        """Return how workers are started; waits until that is known. Thread-safe."""
        found: Workers = self.call(self._link.known_workers()).result()
        return found

    @property
    def enforcement(self) -> Enforcement:
        """The limits that this machine enforces, and by which mechanism."""
        return self._link.enforcement

    @property
    def directory(self) -> private.Directory:
        """The directory for files of this session; the supervisor removes it at its end."""
        return self._link.directory

    @property
    def left_alone(self) -> int:
        """How many sessions have files or groups here, and are from another machine or not provably over."""
        return self._link.left_alone

    @property
    def supervisor_pid(self) -> int | None:
        """The pid of the supervisor process."""
        return self._link.pid

    @property
    def active(self) -> int:
        """How many attempts wait or run now. Thread-safe."""
        return len(self._in_flight)

    def call(self, coroutine: Any) -> concurrent.futures.Future[Any]:  # noqa: ANN401 - any coroutine
        """Run a coroutine on the engine's loop. Thread-safe."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def submit(self, job: Job, origin: Origin) -> concurrent.futures.Future[Outcome]:
        """Run a job; the future holds its outcome. Cancelling the future kills the attempt. Thread-safe."""
        return self.call(self.run(job, origin))

    def stop_all(self) -> int:
        """Stop every run that waits, runs, or is between two attempts; returns their number at once. Thread-safe.

        Takes no lock: it is called from signal handlers.
        """
        count = self._in_flight.stoppable
        self._loop.call_soon_threadsafe(self._in_flight.stop_all)
        return count

    def stop_run(self, run: str) -> None:
        """Stop one run, as `stop_all` does with every run. Thread-safe, takes no lock."""
        self._loop.call_soon_threadsafe(self._in_flight.stop_run, run)

    def forget_run(self, run: str) -> None:
        """Note that an expected attempt of a run will not follow. Thread-safe, idempotent."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and there is nothing to forget
            self._loop.call_soon_threadsafe(self._in_flight.forget, run)

    def progress(self, run: str) -> Progress | None:
        """Return the progress of a run, ``None`` if it has not begun or is over. Thread-safe."""
        return self._in_flight.progress(run)

    def close(self) -> None:
        """Stop all runs, end the supervisor and the thread; returns when both have ended. Thread-safe, idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            with contextlib.suppress(concurrent.futures.TimeoutError):
                self.call(self._close()).result(CLOSE_BOUND_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_BOUND_S)

    async def _close(self) -> None:
        self._in_flight.stop_all()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(self, "_link"):  # else it could not even begin
            await self._link.close()

    async def run(self, job: Job, origin: Origin) -> Outcome:
        """Run one attempt, and repeat it as long as a lost worker has to be replaced."""
        _, outcome = await self._run(job, origin, None)
        _let_pickle_go(outcome)
        return outcome

    async def _run(self, asked: Job, origin: Origin, parent: Ticket | None) -> tuple[Job, Outcome]:
        """As `run`, but also return the job with its final numbers."""
        try:
            return await self._run_attempts(asked, origin, parent)
        finally:
            if asked.payload_path is not None:
                with contextlib.suppress(OSError):
                    private.remove(asked.payload_path)

    async def _run_attempts(self, asked: Job, origin: Origin, parent: Ticket | None) -> tuple[Job, Outcome]:
        counted = self._actions.of(asked, monotonic_s())
        while True:
            job = counted.next_attempt(asked)
            outcome = await self._attempt(job, origin, parent)
            if not counted.goes_on(outcome):
                return job, outcome
            _let_pickle_go(outcome)

    async def _attempt(self, job: Job, origin: Origin, parent: Ticket | None) -> Outcome:
        """Run one attempt: wait for admission, supervise, diagnose, record it."""
        origin.run.begin_action(job.action, job.label, job.parent, job.limits)
        attempt = self._in_flight.begin(job)
        if origin.observer is not None:
            origin.observer.started(job)
        if parent is not None:
            self._scheduler.awaits_child(parent, +1)
        try:
            report = await self._admit_and_supervise(attempt, origin)
        except asyncio.CancelledError:
            cut_short = attempt.worker.cut_short if attempt.worker is not None else None
            stopped = WorkerReport(tripped="stopped", enforcement=self._link.enforcement)
            outcome = self._conclude(job, cut_short or stopped, origin, cancelled=True)
            if parent is None and isinstance(outcome, Failure):
                self.history.end(origin.run, outcome)  # the session is not notified of it
            raise
        finally:
            self._in_flight.leave(attempt)
            if attempt.ticket is not None:
                self._scheduler.release(attempt.ticket)
            if parent is not None:
                self._scheduler.awaits_child(parent, -1)
        return self._conclude(job, report, origin)

    def _conclude(self, job: Job, report: WorkerReport, origin: Origin, *, cancelled: bool = False) -> Outcome:
        """Decide on the outcome of an attempt, record it, and notify the listeners."""
        outcome = diagnose(job, report, unpickle=pickling.loads)
        self._in_flight.conclude(job, outcome, cancelled=cancelled)
        attempt = Attempt(
            number=job.attempt + 1,
            worker=job.worker,
            limits=job.limits,
            outcome=_without_answer(outcome),
            trace=report.trace,
            duration_s=report.duration_s,
        )
        action = origin.run.begin_action(job.action, job.label, job.parent, job.limits)
        self.history.record(origin.run, action, attempt)
        if isinstance(outcome, Failure) and self.on_failure is not None:
            self.on_failure(job)
        if origin.observer is not None:
            origin.observer.ended(job, outcome)
        return outcome

    async def _admit_and_supervise(self, attempt: InFlight, origin: Origin) -> WorkerReport:
        if attempt.job.unsent:
            return self._not_run(attempt.job.unsent)
        began_s = monotonic_s()
        tripped, detail = await self._in_flight.wait_for_place(attempt, self._scheduler)
        queued_for_s = monotonic_s() - began_s
        if tripped is not None:
            return WorkerReport(
                tripped=tripped, tripped_detail=detail, queued_for_s=queued_for_s, enforcement=self._link.enforcement
            )
        try:
            await self._proof.isolated()
        except UnprovenError as error:
            raise EngineError(str(error)) from error
        report = await self._supervise(attempt, origin)
        again = None if attempt.worker is None else attempt.worker.second_try(report)
        if again is not None:
            report = await self._supervise(attempt, origin, again)
        return replace(report, queued_for_s=queued_for_s)

    async def _supervise(self, attempt: InFlight, origin: Origin, start: Start = "any") -> WorkerReport:
        async def call(request: dict[str, Any]) -> dict[str, Any]:
            return await self._nested(attempt, request, origin)

        try:
            await self._ensure_supervisor()
            attempt.worker = AttemptInWorker(attempt.job, origin, self._link, call, start=start)
            if attempt.stopped:
                attempt.worker.stop()
            return await attempt.worker.run()
        except (OSError, SupervisorError) as error:
            return self._not_run(error)

    def _not_run(self, error: object) -> WorkerReport:
        """Return the facts of an attempt that our side could not run: no descriptors, no disk space, no supervisor."""
        detail = f"no worker could be run: {error}"
        return WorkerReport(tripped_detail=detail, enforcement=self._link.enforcement)

    async def _nested(self, parent: InFlight, request: dict[str, Any], origin: Origin) -> dict[str, Any]:
        """Run a task that a worker called, as its sibling; return the reply for the worker."""
        caller = parent.job
        job: Job = replace(
            request["job"],
            run=caller.run,
            parent=caller.action,
            semantics=caller.semantics,
            system_retries=caller.system_retries,
        )
        try:
            job, outcome = await self._run(self.adjust(job) if self.adjust else job, origin, parent.ticket)
        except EngineError as error:
            return {"kind": "reply", "facts": (replace(job, payload=b""), self._not_run(error))}
        if isinstance(outcome, Success):
            return {"kind": "reply", "facts": None, **await parcelled(outcome.answer, self.directory.path)}
        # The facts are sent, not the error: the parent's worker makes the same error from them.
        facts = (replace(job, payload=b""), outcome.report)
        _let_pickle_go(outcome)
        return {"kind": "reply", "facts": facts}

    async def _ensure_supervisor(self) -> None:
        async with self._starting:
            if not self._link.alive:
                await self._link.reap()
                await self._link.start()
                self._link.begin_server()

    def _on_loss(self) -> None:
        """Start a new supervisor at once: it first ends the processes that the lost supervisor's attempts left."""
        self._recovery = asyncio.ensure_future(self._recover())

    async def _recover(self) -> None:
        with contextlib.suppress(OSError, SupervisorError):  # the next attempt tries again, and says why
            await self._ensure_supervisor()

    def _on_usage(self) -> None:
        for attempt in self._in_flight:
            if attempt.ticket is not None and attempt.worker is not None:
                attempt.ticket.usage_bytes = attempt.worker.usage_bytes
        self._scheduler.reported()


def _let_pickle_go(outcome: Outcome) -> None:
    if isinstance(outcome, Failure):
        outcome.let_pickle_go()


def _without_answer(outcome: Outcome) -> Outcome:
    """Return an outcome for the history, which keeps hundreds of them: without the result, which may be large."""
    if isinstance(outcome, Failure):
        return outcome
    return Success(answer=b"", report=replace(outcome.report, answer=None))


__all__ = ["Engine", "EngineError", "Origin"]
