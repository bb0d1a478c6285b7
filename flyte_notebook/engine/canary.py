"""Jobs of ours that run in workers when a session starts: one that proves isolation, one that tries libraries out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.bound import from_json
from flyte_notebook.core.job import Job
from flyte_notebook.core.reliance import Loss
from flyte_notebook.engine.around import snapshot
from flyte_notebook.engine.attempt import AttemptInWorker, Origin
from flyte_notebook.engine.sinks import Nowhere
from flyte_notebook.history import Run

if TYPE_CHECKING:
    from flyte_notebook.core.outcome import WorkerReport
    from flyte_notebook.engine.link import SupervisorLink


class CanaryError(RuntimeError):
    """No isolated worker could be started; the text says why."""


async def run_canary(entry: str, link: SupervisorLink) -> WorkerReport:
    """Run a job that answers with its pid; return what was seen of that one.

    It waits for the server that workers are forked from, where there is one: an interpreter of its own would import the
    same things at the same time, and be ready no sooner. Raises `CanaryError` when there is no answer, or the pid is
    ours.
    """
    report = await _run("canary", entry, link)
    if report.answer is None or int(report.answer) == os.getpid():
        raise CanaryError(f"no isolated worker could be started, so nothing is run: {_words(report)}")
    return report


async def try_out(entry: str, link: SupervisorLink) -> dict[str, Loss | None]:
    """Run a job that tries out what is relied on in workers; return what is lost by key, ``None`` for what is not.

    Raises `CanaryError` when there is no answer.
    """
    report = await _run("rehearsal", entry, link)
    if report.answer is None:
        raise CanaryError(f"what is relied on could not be tried out: {_words(report)}")
    found: dict[str, dict[str, Any] | None] = from_json(report.answer.decode())
    return {key: None if loss is None else Loss(**loss) for key, loss in found.items()}


async def _run(name: str, entry: str, link: SupervisorLink) -> WorkerReport:
    job = Job(label=name, run=name, action="a0", entry=entry, payload=b"")
    run = Run(name=name, task_name=name)  # the history does not know it
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
