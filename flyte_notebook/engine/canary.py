"""The proof, before anything runs, that a worker is a process of its own; and what an empty one holds."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from flyte_notebook.engine.attempt import AttemptInWorker, Origin
from flyte_notebook.engine.sinks import Nowhere
from flyte_notebook.job import Job, Surroundings

if TYPE_CHECKING:
    from flyte_notebook.engine.link import SupervisorLink
    from flyte_notebook.outcome import WorkerReport


class CanaryError(RuntimeError):
    """No isolated worker could be started; the text says why."""


async def run_canary(entry: str, link: SupervisorLink) -> WorkerReport:
    """Run a job that answers with its pid, in a fresh interpreter; return what was seen of that one.

    Raises `CanaryError` when there is no answer, or the pid is ours.
    """
    job = Job(label="canary", run="canary", action="a0", entry=entry, payload=b"")
    own = Surroundings(cwd=os.getcwd(), environ=dict(os.environ), sys_path=tuple(filter(None, sys.path)))  # noqa: PTH109 - a string is wanted
    origin = Origin(sink=Nowhere(), surroundings=own)
    report = await AttemptInWorker(job, origin, link, _no_call, fresh=True).run()
    if report.answer is None or int(report.answer) == os.getpid():
        words = report.output_tail or report.tripped_detail or f"exit status {report.exit_status}"
        raise CanaryError(f"no isolated worker could be started, so nothing is run: {words}")
    return report


async def _no_call(_request: dict[str, Any]) -> dict[str, Any]:
    raise CanaryError("a canary calls nobody")
