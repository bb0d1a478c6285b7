"""Decides what the facts of a cluster mean: the same outcome as a local run of the same task would have.

A backend may leave out the code of an error; then it is in the message, or in the record that our part of the pod
wrote. The words of the card come from the same place as those of local runs, `flyte_notebook.core.diagnosis`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.diagnosis import diagnose, one_line
from flyte_notebook.core.limits import Enforcement
from flyte_notebook.core.outcome import Failure, Raised, SourceLine, Success, WorkerReport
from flyte_notebook.core.stand_in import attach
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.core.units import format_duration
from flyte_notebook.sdk import seam
from flyte_notebook.sdk.cluster import tagged
from flyte_notebook.sdk.cluster.observed import ABORTED, STOPPED_HERE, SUCCEEDED, TIMED_OUT, ErrorFacts

if TYPE_CHECKING:
    from flyte_notebook.core.job import Job
    from flyte_notebook.core.outcome import Outcome
    from flyte_notebook.sdk.cluster.observed import ActionFacts, AttemptFacts, LogFacts

OOM: Final = "OOMKilled"
SIGNALS: Final = 128
_REASON = re.compile(r"Reason \[(\w+)\]")
_TOLD: Final = {
    "Back-off pulling image": "ContainersNotReady|ImagePullBackOff",
    "InvalidImageName": "ContainersNotReady|InvalidImageName",
}
"""Codes of errors whose messages have no reason in brackets."""

_EXIT = re.compile(r"exit code \((\d+)\)")


def outcome(job: Job, action: ActionFacts, attempt: AttemptFacts, log: LogFacts) -> Outcome:
    """Return the outcome of an attempt that has ended; ``job`` has its task, limits and number."""
    report = report_of(job, attempt, log)
    if attempt.phase == SUCCEEDED:
        return Success(answer=b"", report=report)
    wire = attempt.error or action.error or ErrorFacts(kind="system", code="", message="")
    message = without_records(wire.message)
    code = wire.code or code_in(message, log)
    if attempt.phase == ABORTED:
        report = replace(report, tripped="stopped", tripped_detail=action.abort_reason)
    elif attempt.phase == TIMED_OUT:
        report = replace(report, tripped="max_runtime")
    elif code == OOM:
        report = replace(report, oom_kills=1, limit_reached=True, raised=None)
    elif report.raised is None and (status := _EXIT.search(message)) is not None:
        report = _ended_by(report, int(status[1]))
    failure = diagnose(job, report)
    assert isinstance(failure, Failure)
    if attempt.phase in {ABORTED, TIMED_OUT}:
        failure = replace(failure, worker=attempt.pod or failure.worker, message=message or failure.message)
        if attempt.phase == ABORTED and action.abort_reason not in {"", STOPPED_HERE}:
            words = f"aborted on the cluster after {format_duration(report.duration_s)}"
            failure = replace(failure, headline=f"{words}: {one_line(action.abort_reason)}")
        attach(failure.error, "worker", failure.worker)
        attach(failure.error, "failure", failure)
        return failure
    error = seam.native_error(wire.kind, code, message)
    ended = report.exit_status is not None or report.signal is not None
    known = code == OOM or report.raised is not None or ended
    failure = replace(
        failure,
        error=error,
        kind=str(getattr(error, "kind", wire.kind)),
        code=str(getattr(error, "code", code)),
        worker=attempt.pod or failure.worker,
        message=message,
        headline=failure.headline + (_last_sample(attempt, log) if code == OOM else "")
        if known
        else _headline(wire, code, message),
        reason=failure.reason if known else "raised" if _is_python(wire, code) else "worker_lost",
    )
    attach(error, "worker", failure.worker)
    attach(error, "failure", failure)
    return failure


def report_of(job: Job, attempt: AttemptFacts, log: LogFacts) -> WorkerReport:
    """Return the facts of an attempt in the form of a local one's."""
    began_s = attempt.running_since_s or attempt.began_s
    samples = log.samples
    start_s = samples[0][0] if samples else began_s or 0.0
    trace = MemoryTrace(
        times_s=tuple(moment_s - start_s for moment_s, _ in samples),
        memory_bytes=tuple(used_bytes for _, used_bytes in samples),
        limit_bytes=job.limits.memory_bytes,
        baseline_bytes=samples[0][1] if samples else None,
        peak_bytes=max((used_bytes for _, used_bytes in samples), default=None),
        peak_source="samples",
    )
    ended_s = attempt.ended_s
    return WorkerReport(
        raised=None if log.raised is None else _raised(log.raised),
        stage="running",
        trace=trace,
        enforcement=Enforcement(memory="cluster", cpu="cluster"),
        output_tail=log.tail,
        duration_s=0.0 if began_s is None or ended_s is None else max(0.0, ended_s - began_s),
        queued_for_s=0.0
        if attempt.began_s is None or attempt.running_since_s is None
        else max(0.0, attempt.running_since_s - attempt.began_s),
        no_line="" if log.raised is not None else "the pod was ended from outside, and its last line is not known",
    )


def code_in(message: str, log: LogFacts) -> str:
    """Return the code of an error that the backend sent without: of its message, else of the record in the log."""
    found = _REASON.search(message)
    if found is not None:
        return found[1]
    for told, code in _TOLD.items():
        if told in message:
            return code
    return "" if log.raised is None else str(log.raised["code"])


def without_records(text: str) -> str:
    """Return a message without our records: a cluster may add the end of the log to it."""
    reader = tagged.Reader()
    return "".join(reader.read(line)[0] for line in text.splitlines(keepends=True)).rstrip("\n")


def _raised(record: dict[str, Any]) -> Raised:
    return Raised(
        type_name=record["type_name"],
        module=record["module"],
        message=record["message"],
        traceback=record["traceback"],
        lines=tuple(SourceLine(**line) for line in record["lines"]),
    )


def _headline(wire: ErrorFacts, code: str, message: str) -> str:
    said = one_line(message)
    if _is_python(wire, code):
        return f"raised {': '.join(filter(None, [code, said.rstrip('.')]))}"
    return said or f"the cluster gives no reason{f', but the code {code}' if code else ''}"


def _is_python(wire: ErrorFacts, code: str) -> bool:
    """Whether a code is the name of an exception of Python, which a task has raised."""
    return wire.kind == "user" and code.isidentifier() and code.endswith(("Error", "Exception")) and code != "Error"


def _ended_by(report: WorkerReport, status: int) -> WorkerReport:
    """Return a report with the end of a container's process: a status above 128 is that of a signal."""
    return replace(report, signal=status - SIGNALS) if status > SIGNALS else replace(report, exit_status=status)


def _last_sample(attempt: AttemptFacts, log: LogFacts) -> str:
    if not log.samples or attempt.ended_s is None:
        return ""
    before_s = attempt.ended_s - log.samples[-1][0]
    return f" (last sample {format_duration(before_s)} before the end)" if before_s > 0 else ""
