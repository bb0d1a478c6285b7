"""Checks in workers when a session starts: whether they are isolated, how much an empty one uses, what is lost.

The first attempt waits for the proof that a worker is a separate process. The behaviour that is relied on of other
libraries is tried out after that, in a worker that no attempt waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.bound import from_json
from flyte_notebook.core.job import Job
from flyte_notebook.core.reliance import Loss, Reliance, losses
from flyte_notebook.engine.around import snapshot
from flyte_notebook.engine.attempt import AttemptInWorker, Origin
from flyte_notebook.engine.link import SupervisorError
from flyte_notebook.engine.output_pump import Nowhere
from flyte_notebook.history import Run
from flyte_notebook.worker.relies import BY_KEY, LINES

if TYPE_CHECKING:
    from flyte_notebook.core.outcome import WorkerReport
    from flyte_notebook.engine.link import SupervisorLink

REHEARSAL_AFTER_S = 0.5
"""How long the rehearsal waits once workers are isolated: the first runs of a session need the processors more."""

NOT_TRIED = Reliance(
    key="rehearsal",
    library="flyte",
    behaviour="a small run in a worker shows what is relied on",
    lost="what works here is known to the doctor: it could not be tried out",
)


class CanaryError(RuntimeError):
    """No isolated worker could be started; the text says why."""


class UnprovenError(RuntimeError):
    """Nothing may be run; the text says why."""


class Proof:
    """The checks of one session. ``canary`` and ``rehearsal`` are entries (``module:function``); the second may be "".

    Everything runs on the engine's loop. ``baseline_bytes`` is the memory of a worker before any user code, ``no_line``
    says why the current line of a task cannot be read, and is empty when it can; both are known when isolation is
    proven.
    """

    def __init__(self, link: SupervisorLink, *, canary: str, rehearsal: str) -> None:
        self.baseline_bytes: int | None = None
        self.no_line = ""
        self._refused = ""
        self._link = link
        self._wanted = asyncio.Event()
        self._isolated = asyncio.ensure_future(self._isolate(canary))
        self._rehearsed = asyncio.ensure_future(self._rehearse(rehearsal))

    async def isolated(self) -> None:
        """Wait until workers are known to be isolated. Raises `UnprovenError` where nothing may run."""
        await asyncio.shield(self._isolated)
        if self._refused:
            raise UnprovenError(f"nothing is run, since this is lost: {self._refused}")

    @property
    def succeeded(self) -> bool:
        """Whether all checks are over, and attempts may run. Thread-safe."""
        over = (self._isolated, self._rehearsed)
        return not self._refused and all(
            check.done() and not check.cancelled() and not check.exception() for check in over
        )

    async def complete(self) -> None:
        """Wait for all results. Raises as `isolated`."""
        self._wanted.set()
        await asyncio.shield(self._isolated)
        await asyncio.shield(self._rehearsed)
        await self.isolated()

    async def _isolate(self, canary: str) -> None:
        try:
            report = await _run_canary(canary, self._link)
        except CanaryError as error:
            raise UnprovenError(str(error)) from error
        # It does nothing, so its peak is its baseline; that is missing if the worker ended before the first sample.
        self.baseline_bytes, self.no_line = report.trace.baseline_bytes or report.trace.peak_bytes, report.no_line
        losses.settle(BY_KEY[LINES], self.no_line)

    async def _rehearse(self, rehearsal: str) -> None:
        await asyncio.wait({self._isolated})
        if not rehearsal or self._isolated.cancelled() or self._isolated.exception() is not None:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), REHEARSAL_AFTER_S)
        try:
            found = await _try_out(rehearsal, self._link)
        except (CanaryError, SupervisorError, OSError) as error:
            losses.settle(NOT_TRIED, str(error))
            return
        losses.settle(NOT_TRIED, "")
        for key, loss in found.items():
            losses.put(key, loss)
        self._refused = "; ".join(str(loss) for loss in found.values() if loss is not None and loss.refuse)


async def _run_canary(entry: str, link: SupervisorLink) -> WorkerReport:
    """Run a job that answers with its pid; return the facts about it.

    It waits for the server that workers are forked from, where there is one: a separate interpreter would import the
    same modules at the same time, and would not be ready sooner. Raises `CanaryError` when there is no answer, or the
    pid is ours.
    """
    report = await _run("canary", entry, link)
    if report.answer is None or int(report.answer) == os.getpid():
        raise CanaryError(f"no isolated worker could be started, so nothing is run: {_words(report)}")
    return report


async def _try_out(entry: str, link: SupervisorLink) -> dict[str, Loss | None]:
    """Run a job that tries out the behaviour relied on in workers; return the loss by key, ``None`` for no loss.

    Raises `CanaryError` when there is no answer.
    """
    report = await _run("rehearsal", entry, link)
    if report.answer is None:
        raise CanaryError(f"what is relied on could not be tried out: {_words(report)}")
    found: dict[str, dict[str, Any] | None] = from_json(report.answer.decode())
    return {key: None if loss is None else Loss(**loss) for key, loss in found.items()}


async def _run(name: str, entry: str, link: SupervisorLink) -> WorkerReport:
    job = Job(label=name, run=name, action="a0", entry=entry, payload=b"")
    run = Run(name=name, task_name=name)  # it is not in the history
    origin = Origin(run=run, sink=Nowhere(), surroundings=snapshot(local=False))
    attempt = AttemptInWorker(job, origin, link, _no_call)
    report = await attempt.run()
    again = attempt.second_try(report)
    return await AttemptInWorker(job, origin, link, _no_call, start=again).run() if again else report


def _words(report: WorkerReport) -> str:
    if report.raised is not None:
        return f"{report.raised.type_name}: {report.raised.message}"
    return report.output_tail or report.tripped_detail or f"exit status {report.exit_status}"


async def _no_call(_request: dict[str, Any]) -> dict[str, Any]:
    raise CanaryError("a canary calls nobody")
