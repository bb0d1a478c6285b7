"""Decides what the facts about one attempt mean: `WorkerReport` to `Success` or `Failure`.

Pure functions: they start nothing, read nothing and wait for nothing. They decide by facts (the kernel's counter, the
exit status, the exact class), never by a part of a name or a message. The first recorded reason is kept; later events
do not change it.

Messages are those of a Flyte cluster, so that code which reads them works in both places. The headline is written for
people: one sentence with the measured and the allowed value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from flyte_notebook.core.endings import left_words, not_done, signal_words, unanswered_words
from flyte_notebook.core.next_limit import Kill, next_limit
from flyte_notebook.core.outcome import Failure, Raised, Success, Suggestion
from flyte_notebook.core.semantics import Ended, arriving, in_reference, misread_on_cluster
from flyte_notebook.core.stand_in import WorkerTraceback, as_raised, attach, attribute
from flyte_notebook.core.units import format_duration, format_memory, too_little
from flyte_notebook.errors import (
    CustomError,
    DeadlineExceededError,
    FlyteError,
    MaxQueuedTimeExceededError,
    MaxRuntimeExceededError,
    OOMError,
    RunAbortedError,
    RuntimeSystemError,
    RuntimeUserError,
    UnschedulableError,
    recoverable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.job import Job
    from flyte_notebook.core.outcome import Outcome, RefusedAllocation, SourceLine, TerminationReason, WorkerReport

WORKER_NEEDS_BYTES: Final = 36 * 2**20
"""Memory of a fresh interpreter with Flyte before any user code, measured with Flyte 2.12.1, Python 3.11, Linux."""

_SIGNAL_STATUS: Final = 128  # a shell and a container runtime report signal n as exit code 128 + n
_NOBODY: Final = frozenset({None, "", "user", "UNKNOWN"})  # values that the SDK writes in place of a worker's name
_SIGKILL: Final = 9
_KILLED_STATUS: Final = _SIGNAL_STATUS + _SIGKILL
_NO_MESSAGE: Final = "Pod failed. No message received from kubernetes."
_Timeout: TypeAlias = type[MaxRuntimeExceededError | MaxQueuedTimeExceededError | DeadlineExceededError]
_BOUNDS: Final[dict[str | None, tuple[_Timeout, str, TerminationReason]]] = {
    "max_runtime": (MaxRuntimeExceededError, "MAX_RUNTIME_EXCEEDED", "max_runtime"),
    "max_queued_time": (MaxQueuedTimeExceededError, "QUEUED_TIMEOUT_EXCEEDED", "max_queued_time"),
    "deadline": (DeadlineExceededError, "DEADLINE_EXCEEDED", "deadline"),
}
_ENDED: Final = frozenset({"memory", "machine_memory", "max_runtime", "deadline", "stopped", "signalled"})
"""Reasons for which there is no exception that says which line the task was at."""
_NOT_READY: Final = frozenset({"queued", "starting"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The decision of one rule; ``recoverable`` is whether the task's own retries may try again."""

    error: Exception
    reason: TerminationReason
    headline: str
    recoverable: bool = True
    wire_code: str | None = None
    suggestions: tuple[Suggestion, ...] = ()
    retried_as_system_failure: bool = False


def diagnose(job: Job, report: WorkerReport, *, unpickle: Callable[[bytes], Any] | None = None) -> Outcome:
    """Decide what became of an attempt. Never raises.

    ``unpickle`` loads the exception that user code raised; when it is not given or fails, a stand-in of the same name
    takes that exception's place. The error of a `Failure` carries the failure as ``error.failure`` and, for the SDK's
    retry loop, a bool as ``error.recoverable``.
    """
    if report.tripped is None and report.answer is not None and not report.oom_kills:
        return Success(answer=report.answer, report=report)
    raised = report.raised
    original = None if raised is None else as_raised(raised, unpickle)
    verdict = _verdict(job, report, original)
    error = verdict.error
    if raised is not None and original is not None:
        _attach_causes(original, raised, unpickle)
        if error is not original:
            attach(error, "__cause__", original)
    note = misread_on_cluster(verdict.error) if verdict.reason == "raised" else ""
    if job.semantics == "reference":
        differing = in_reference(
            Ended(
                error=error,
                reason=verdict.reason,
                worker=job.worker,
                attempt=job.attempt - job.system_failures,
                max_attempts=job.max_attempts - job.system_failures,
                recoverable=verdict.recoverable,
            )
        )
        if differing is not None:
            error, sentence = differing
            note = "; ".join(filter(None, [sentence, note]))
    note = "; ".join(filter(None, [note, left_words(report.left)]))
    worker, lines = attribute(error, "worker"), _lines(report, verdict.reason)
    failure = Failure(
        error=error,
        kind=str(attribute(error, "kind", "user")),
        code=str(attribute(error, "code") or type(error).__name__),
        wire_code=verdict.wire_code,
        worker=job.worker if worker in _NOBODY else str(worker),
        message=raised.message if raised is not None and error is original else str(error),
        reason=verdict.reason,
        headline=verdict.headline,
        note=note,
        task_name=job.label,
        attempt=job.attempt,
        max_attempts=job.max_attempts + verdict.retried_as_system_failure,
        limits=job.limits,
        report=report,
        line=lines[-1] if lines else None,
        lines=lines,
        traceback="" if raised is None else raised.traceback,
        output_tail=report.output_tail,
        inputs=job.inputs,
        suggestions=verdict.suggestions,
        retried_as_system_failure=verdict.retried_as_system_failure,
    )
    attach(error, "worker", failure.worker)
    attach(error, "failure", failure)
    attach(error, "recoverable", verdict.recoverable)
    return failure


def _attach_causes(original: BaseException, raised: Raised, unpickle: Callable[[bytes], Any] | None) -> None:
    """Set the causes of an error; the last cause gets the worker's traceback, which shows the whole chain."""
    last, cause = original, raised.cause
    while cause is not None:
        attach(last, "__cause__", found := as_raised(cause, unpickle))
        last, cause = found, cause.cause
    if raised.traceback:
        attach(last, "__cause__", WorkerTraceback(raised.traceback))


def _verdict(job: Job, report: WorkerReport, original: BaseException | None) -> _Verdict:
    if report.tripped in _BOUNDS:
        return _timed_out(job, report)
    if report.tripped == "stopped":
        return _stopped(job, report)
    if report.tripped == "never_fits":
        return _never_fits(job, report)
    killed_by_machine = report.machine_short and report.answer is None and report.raised is None
    if report.tripped == "memory" or report.oom_kills or killed_by_machine:
        return _out_of_memory(job, report)
    if report.raised is not None and original is not None:
        return _raised(job, report, report.raised, original)
    return _lost(job, report)


def _out_of_memory(job: Job, report: WorkerReport) -> _Verdict:
    """Distinguish the task's own limit from a machine that ran out of memory, and the task's end from a child's."""
    machine = report.machine_short or (report.oom_kills > 0 and not report.limit_reached)
    limit_bytes = job.limits.memory_bytes
    message = _pod_failed(job, _KILLED_STATUS, "OOMKilled")
    if report.answer is not None and report.oom_kills:
        message = "Pod reported success despite being OOMKilled"
    elif machine:
        message += "the machine ran out of memory; this was not a limit of the task"
    suggestions: tuple[Suggestion, ...] = ()
    if not machine and limit_bytes is not None:
        suggestions = (_more_memory(job, report, limit_bytes),)
    return _Verdict(
        error=OOMError("OOMKilled", message, job.worker),
        reason="machine_memory" if machine else "memory",
        headline=_memory_headline(limit_bytes, report, machine=machine),
        suggestions=suggestions,
    )


def _memory_headline(limit_bytes: int | None, report: WorkerReport, *, machine: bool) -> str:
    limit = "" if limit_bytes is None else f" (limit {format_memory(limit_bytes)})"
    if report.answer is not None and report.oom_kills:
        why = "the machine ran out of memory" if machine else f"ran out of memory{limit}"
        return f"{why}: a process that it started was killed; the task itself ended well"
    where = _on_line(report, "machine_memory" if machine else "memory")
    when = f"after {format_duration(report.ran_s)}{_while(report)}"
    if machine:
        own = "" if limit_bytes is None else f", below the task's limit of {format_memory(limit_bytes)}"
        return f"killed {when} because the machine ran out of memory{own}{where}"
    if report.stage == "starting" and limit_bytes is not None and limit_bytes < WORKER_NEEDS_BYTES:
        return too_little(format_memory(limit_bytes), WORKER_NEEDS_BYTES)
    return f"ran out of memory{limit} {when}{where}"


def _more_memory(job: Job, report: WorkerReport, limit_bytes: int) -> Suggestion:
    asked, most = report.asked, max(report.grew, key=lambda grew: grew.grew_bytes, default=None)
    memory_bytes, sentence = next_limit(
        Kill(
            limit_bytes=limit_bytes,
            trace=report.trace,
            stage=report.stage,
            asked_bytes=None if asked is None else asked.size_bytes,
            before_bytes=0 if asked is None else asked.before_bytes,
            inputs_bytes=sum(fact.size_bytes or 0 for fact in job.inputs),
            line_number=None if most is None else most.line.number,
            line_bytes=0 if most is None else most.grew_bytes,
            machine_bytes=report.machine_bytes,
            killed_bytes=job.killed_bytes,
        )
    )
    return Suggestion(sentence=sentence, limits=replace(job.limits, memory_bytes=memory_bytes))


def _timed_out(job: Job, report: WorkerReport) -> _Verdict:
    limits, ran_s = job.limits, format_duration(report.ran_s)
    if report.tripped == "max_runtime":
        headline = (
            f"ran longer than its max_runtime{_of(limits.max_runtime_s)} and was stopped after {ran_s}{_while(report)}"
        )
    elif report.tripped == "deadline":
        headline = f"not done by its deadline{_of(limits.deadline_s)}, counted over all attempts and their waiting"
    else:
        waited = format_duration(report.queued_for_s)
        headline = f"waited {waited} to start, longer than its max_queued_time{_of(limits.max_queued_time_s)}"
    suggestions: tuple[Suggestion, ...] = ()
    if report.tripped == "max_runtime" and limits.max_runtime_s is not None:
        twice_s = 2 * limits.max_runtime_s
        sentence = f"Try {format_duration(twice_s)}. The run was stopped, so how long it needs is unknown."
        suggestions = (Suggestion(sentence=sentence, limits=replace(limits, max_runtime_s=twice_s)),)
    error_class, wire_code, reason = _BOUNDS[report.tripped or ""]
    where = "" if job.parent is None else f", raising exception in current Action {job.parent}"
    message = f"Action {job.action} timed out{where}: {headline}"
    return _Verdict(
        error=error_class(message),
        reason=reason,
        headline=headline + _on_line(report, reason),
        recoverable=reason != "deadline",
        wire_code=wire_code,
        suggestions=suggestions,
    )


def _stopped(job: Job, report: WorkerReport) -> _Verdict:
    where = "" if job.parent is None else f", aborting current Action {job.parent}"
    by = " by you" if job.parent is None else ""
    waiting = report.stage == "queued"
    return _Verdict(
        error=RunAbortedError(f"Action {job.action} was aborted{where}"),
        reason="stopped",
        headline=f"stopped{by} before it started"
        if waiting
        else f"stopped{by} after {format_duration(report.ran_s)}{_while(report)}{_on_line(report, 'stopped')}",
        recoverable=False,
    )


def _never_fits(job: Job, report: WorkerReport) -> _Verdict:
    needed = "" if job.limits.memory_bytes is None else f" {format_memory(job.limits.memory_bytes)}"
    headline = report.tripped_detail or f"needs{needed or ' more memory'}, which is more than this machine has"
    return _Verdict(
        error=UnschedulableError(f"Action {job.action} cannot be scheduled: {headline}", job.worker),
        reason="never_fits",
        headline=headline,
        recoverable=False,
    )


def _raised(job: Job, report: WorkerReport, raised: Raised, original: BaseException) -> _Verdict:
    """Decide on an exception of user code: `arriving` says for ``flyte.errors``, any other is a user error."""
    what = ": ".join(filter(None, [raised.type_name, raised.message.strip()]))
    headline = f"raised {one_line(what).rstrip('.')}"
    code, message = raised.type_name, raised.message
    error: Exception | None = None
    if raised.fields is not None and isinstance(original, CustomError):
        code = original.code
    elif raised.fields is not None and isinstance(original, FlyteError):
        error = arriving(original, raised.on_cluster, job.semantics)
    elif isinstance(original, SystemExit) or (raised.module, raised.type_name) == ("builtins", "SystemExit"):
        status = "0" if raised.message in {"", "None"} else raised.message
        message = f"sys.exit() was called in the task, with status {status}"
        headline = f"called sys.exit() with status {one_line(status)} instead of returning a result"
    elif raised.step is not None and isinstance(original, (OSError, MemoryError)):
        headline = f"{not_done(raised.step)}: {headline}"
    elif raised.refused is not None:
        headline = _refused_headline(raised.refused, raised.message, headline)
    return _Verdict(
        error=error or RuntimeUserError(code, message, _worker_of(original)),
        reason="raised",
        headline=headline + _on_line(report, "raised"),
        recoverable=raised.recoverable and recoverable(original),
    )


def _refused_headline(refused: RefusedAllocation, message: str, raised: str) -> str:
    """Distinguish a refused allocation from a kill for memory; name the requested size."""
    if refused.by_hand:
        return f"{raised}; the code raised it, so this is not an OOM kill"
    size = "(size not known)"
    if refused.size_bytes is not None:
        size = f"of {'' if refused.exact else 'about '}{format_memory(refused.size_bytes)}"
    said = f" ({one_line(message)})" if message else ""
    return f"one allocation {size} was larger than the machine can give{said}; this is not an OOM kill"


def _worker_of(error: BaseException) -> str | None:
    """Return the attempt that an error of the SDK came from, if the error names it."""
    worker = attribute(error, "worker")
    return worker if isinstance(error, CustomError) and worker not in _NOBODY else None


def _lost(job: Job, report: WorkerReport) -> _Verdict:
    """Decide on a process that ended without a result: a failure of the system.

    Not recoverable by the task's own retries: a cluster counts these as platform failures, and repeating a
    deterministic segfault would repeat its side effects. With ``system_retries`` the worker is replaced all the same.
    When those are used up, the message is that of the backend, which runs pods of Python tasks by the plugin
    ``container`` (``recordSystemError`` in flyte's ``executor/pkg/controller``).
    """
    after = f"after {format_duration(report.ran_s)}{_while(report)}"
    said = report.said_last if report.stage in _NOT_READY else ""
    reason: TerminationReason
    known = unanswered_words(report.unanswered) or report.tripped_detail
    if known and (report.exit_status is None or report.unanswered is not None):
        # More than the signal is known here: we sent it, or our side failed.
        message = f"{_NO_MESSAGE}\n{known}"
        reason, headline = "worker_lost", f"lost {after}: {one_line(known, 300)}"
    elif report.signal is not None:
        message = _pod_failed(job, _SIGNAL_STATUS + report.signal, "Error")
        words = signal_words(report.signal, counted=report.enforcement.kernel_memory)
        reason, headline = "signalled", f"ended by {words} {after}{_on_line(report, 'signalled')}"
    elif report.exit_status is not None:
        message = _pod_failed(job, report.exit_status, "Error" if report.exit_status else "Completed") + said
        reason, headline = "exited", f"exited with status {report.exit_status} before it gave a result, {after}"
    else:
        message = _NO_MESSAGE
        reason, headline = "worker_lost", f"lost {after}: its process left neither a result nor a status"
    if report.stage in _NOT_READY:
        reason, headline = "worker_lost", ": ".join(filter(None, ("never became ready", headline, one_line(said))))
    code, count = "Interrupted", job.system_failures_in_a_row + 1
    again = count <= job.system_retries
    if again:
        headline += f"; the system tries again ({count} of {job.system_retries})"
    elif job.system_retries:
        message = f'plugin "container" failed with system error {count} times: [{code}] {message}'
        code = "MaxSystemFailuresExceeded"
        headline += f"; lost {count} times in a row, with system_retries={job.system_retries}"
    return _Verdict(
        error=RuntimeSystemError(code, message, job.worker),
        reason=reason,
        headline=headline,
        recoverable=False,
        retried_as_system_failure=again,
    )


def _pod_failed(job: Job, status: int, why: str) -> str:
    return f"{_NO_MESSAGE}\n[{job.worker}] terminated with exit code ({status}). Reason [{why}]. Message: "


def _while(report: WorkerReport) -> str:
    if report.stage == "returning":
        return f", while returning `{report.returning}`" if report.returning else ", while returning its result"
    return {
        "starting": ", while Python and Flyte started",
        "loading": ", while its code and inputs were read",
    }.get(report.stage, "")


def _of(seconds: float | None) -> str:
    return "" if seconds is None else f" of {format_duration(seconds)}"


def _lines(report: WorkerReport, reason: TerminationReason) -> tuple[SourceLine, ...]:
    """Return the user's lines, the failing one last: from the exception, else from the last look at the attempt."""
    if report.raised is not None:
        return report.raised.lines
    seen = report.last_line
    return seen.stack if seen is not None and reason in _ENDED and report.answer is None else ()


def _on_line(report: WorkerReport, reason: TerminationReason) -> str:
    text = "".join(f", on line {line.number}: `{one_line(line.text)}`" for line in _lines(report, reason)[-1:])
    return text.removesuffix(": ``")  # the text of a line is not always known


def one_line(text: str, characters: int = 160) -> str:
    """Return the first line of ``text`` that says something, cut between words to a length that fits a headline."""
    first = next((line.strip() for line in text[:10_000].splitlines() if line.strip()), "")
    if len(first) <= characters:
        return first
    cut = first[:characters]
    words = cut.rpartition(" ")[0]
    return (words if len(words) > characters // 2 else cut[:-1]).rstrip(" ,;:") + "…"
