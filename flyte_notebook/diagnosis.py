"""What the facts about one attempt mean: `WorkerReport` to `Success` or `Failure`.

Pure: nothing is started, read or waited for. Facts decide (the kernel's counter, the exit status, the exact class),
never a part of a name or a message; and the first reason that was recorded stands, whatever happened after it.

Messages are those of a Flyte cluster, so that code which reads them works in both places. What a person should read is
the headline: one sentence, measured against allowed.
"""

from __future__ import annotations

import builtins
import signal as signals
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

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
    rebuild,
    recoverable,
)
from flyte_notebook.outcome import Failure, Raised, Success, Suggestion
from flyte_notebook.semantics import Ended, in_reference
from flyte_notebook.units import format_duration, format_memory, quantity_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.job import Job
    from flyte_notebook.outcome import Outcome, SourceLine, TerminationReason, WorkerReport

WORKER_NEEDS_BYTES: Final = 36 * 2**20
"""What a fresh interpreter with Flyte holds before any code of the user, measured on 2.12.1, Python 3.11, Linux."""

SMALLEST_SUGGESTION_BYTES: Final = 128 * 2**20
"""Room for the worker and a small library beside it."""

_SIGNAL_STATUS: Final = 128  # a shell and a container runtime report signal n as exit code 128 + n
_NOBODY: Final = frozenset({None, "", "user", "UNKNOWN"})  # what the SDK writes where a worker's name belongs
_MEMORY_ERRORS: Final = frozenset(
    {
        ("builtins", "MemoryError"),
        ("numpy._core._exceptions", "_ArrayMemoryError"),
        ("numpy.core._exceptions", "_ArrayMemoryError"),
    }
)
_SIGKILL: Final = 9
_KILLED_STATUS: Final = _SIGNAL_STATUS + _SIGKILL
_NO_MESSAGE: Final = "Pod failed. No message received from kubernetes."
_Timeout: TypeAlias = type[MaxRuntimeExceededError | MaxQueuedTimeExceededError | DeadlineExceededError]
_BOUNDS: Final[dict[str | None, tuple[_Timeout, str, TerminationReason]]] = {
    "max_runtime": (MaxRuntimeExceededError, "MAX_RUNTIME_EXCEEDED", "max_runtime"),
    "max_queued_time": (MaxQueuedTimeExceededError, "QUEUED_TIMEOUT_EXCEEDED", "max_queued_time"),
    "deadline": (DeadlineExceededError, "DEADLINE_EXCEEDED", "deadline"),
}
_NOT_READY: Final = frozenset({"queued", "starting"})


class WorkerTraceback(Exception):  # noqa: N818 - not an error of its own: the text of another process's traceback
    """Carries a traceback's text, so that ``traceback.format_exception`` shows it above the error it belongs to."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the worker process\n\n{self.text.rstrip()}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What one rule decided; ``recoverable`` is whether the task's own retries may try again."""

    error: Exception
    reason: TerminationReason
    headline: str
    recoverable: bool = True
    wire_code: str | None = None
    suggestions: tuple[Suggestion, ...] = ()


def diagnose(job: Job, report: WorkerReport, *, unpickle: Callable[[bytes], Any] | None = None) -> Outcome:
    """Decide what became of an attempt. Never raises.

    ``unpickle`` loads the exception that user code raised; when it is not given or fails, a stand-in of the same name
    takes that exception's place. The error of a `Failure` carries the failure as ``error.failure`` and, for the SDK's
    retry loop, a bool as ``error.recoverable``.
    """
    if report.tripped is None and report.answer is not None and not report.oom_kills:
        return Success(answer=report.answer, report=report)
    raised = report.raised
    as_raised = None if raised is None else _as_raised(raised, unpickle)
    verdict = _verdict(job, report, as_raised)
    error = verdict.error
    if raised is not None and as_raised is not None:
        if raised.traceback:
            _attach(as_raised, "__cause__", WorkerTraceback(raised.traceback))
        if error is not as_raised:
            _attach(error, "__cause__", as_raised)
    note = ""
    if job.semantics == "reference":
        differing = in_reference(
            Ended(
                error=error,
                reason=verdict.reason,
                worker=job.worker,
                attempt=job.attempt,
                max_attempts=job.max_attempts,
                recoverable=verdict.recoverable,
            )
        )
        if differing is not None:
            error, note = differing
    worker = getattr(error, "worker", None)
    failure = Failure(
        error=error,
        kind=str(getattr(error, "kind", "user")),
        code=str(getattr(error, "code", None) or type(error).__name__),
        wire_code=verdict.wire_code,
        worker=job.worker if worker in _NOBODY else str(worker),
        message=raised.message if raised is not None and error is as_raised else str(error),
        reason=verdict.reason,
        headline=verdict.headline,
        note=note,
        task_name=job.label,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        limits=job.limits,
        report=report,
        line=_line(raised),
        lines=() if raised is None else raised.lines,
        traceback="" if raised is None else raised.traceback,
        output_tail=report.output_tail,
        inputs=job.inputs,
        suggestions=verdict.suggestions,
    )
    _attach(error, "worker", failure.worker)
    _attach(error, "failure", failure)
    _attach(error, "recoverable", verdict.recoverable)
    return failure


def _verdict(job: Job, report: WorkerReport, as_raised: BaseException | None) -> _Verdict:
    if report.tripped in _BOUNDS:
        return _timed_out(job, report)
    if report.tripped == "stopped":
        return _stopped(job, report)
    if report.tripped == "never_fits":
        return _never_fits(job, report)
    killed_by_machine = report.machine_short and report.answer is None and report.raised is None
    if report.tripped == "memory" or report.oom_kills or killed_by_machine:
        return _out_of_memory(job, report)
    if report.raised is not None and as_raised is not None:
        return _raised(report.raised, as_raised)
    return _lost(job, report)


def _out_of_memory(job: Job, report: WorkerReport) -> _Verdict:
    """Tell the task's own limit from a machine that ran short, and the task's death from a child's."""
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
    limit = "it may use" if limit_bytes is None else format_memory(limit_bytes)
    if report.answer is not None and report.oom_kills:
        why = "when the machine ran out of memory" if machine else f"at the limit of {limit}"
        return f"a process that it started was killed{_by(report)} {why}; the task itself ended well"
    killed = f"was killed{_by(report)} {format_duration(report.ran_s)} in{_while(report)}{_on_line(report.raised)}"
    if machine:
        own = "" if limit_bytes is None else f" of {limit}"
        return f"the machine ran out of memory, not the task's own limit{own}; {killed}"
    if report.stage == "starting" and limit_bytes is not None and limit_bytes < WORKER_NEEDS_BYTES:
        return f"{limit} is below what Python and Flyte themselves need ({format_memory(WORKER_NEEDS_BYTES)})"
    return f"needed more than {limit}; {killed}"


def _more_memory(job: Job, report: WorkerReport, limit_bytes: int) -> Suggestion:
    memory_bytes, how = 2 * limit_bytes, "twice the limit"
    if report.stage == "starting" and memory_bytes < SMALLEST_SUGGESTION_BYTES:
        memory_bytes, how = SMALLEST_SUGGESTION_BYTES, "room for Python, Flyte and a small library"
    return Suggestion(
        sentence=f"Try {quantity_memory(memory_bytes)}, {how}: the peak of a killed run is only a lower bound.",
        limits=replace(job.limits, memory_bytes=memory_bytes),
    )


def _timed_out(job: Job, report: WorkerReport) -> _Verdict:
    limits, ran_s = job.limits, format_duration(report.ran_s)
    if report.tripped == "max_runtime":
        headline = f"ran longer than its max_runtime{_of(limits.max_runtime_s)}; was stopped {ran_s} in{_while(report)}"
    elif report.tripped == "deadline":
        headline = f"was not done by its deadline{_of(limits.deadline_s)}, counted over all attempts and their waiting"
    else:
        waited = format_duration(report.queued_for_s)
        headline = f"waited {waited} to start, longer than its max_queued_time{_of(limits.max_queued_time_s)}"
    error_class, wire_code, reason = _BOUNDS[report.tripped or ""]
    where = "" if job.parent is None else f", raising exception in current Action {job.parent}"
    message = f"Action {job.action} timed out{where}: {headline}"
    return _Verdict(
        error=error_class(message),
        reason=reason,
        headline=headline + _on_line(report.raised),
        recoverable=reason != "deadline",
        wire_code=wire_code,
    )


def _stopped(job: Job, report: WorkerReport) -> _Verdict:
    where = "" if job.parent is None else f", aborting current Action {job.parent}"
    waiting = report.stage == "queued"
    return _Verdict(
        error=RunAbortedError(f"Action {job.action} was aborted{where}"),
        reason="stopped",
        headline="was stopped before it started"
        if waiting
        else f"was stopped {format_duration(report.ran_s)} in{_while(report)}",
        recoverable=False,
    )


def _never_fits(job: Job, report: WorkerReport) -> _Verdict:
    needed = "" if job.limits.memory_bytes is None else f" {format_memory(job.limits.memory_bytes)}"
    headline = report.tripped_detail or f"needs{needed or ' more memory'}, which this machine can never give it"
    return _Verdict(
        error=UnschedulableError(f"Action {job.action} cannot be scheduled: {headline}", job.worker),
        reason="never_fits",
        headline=headline,
        recoverable=False,
    )


def _raised(raised: Raised, as_raised: BaseException) -> _Verdict:
    """Decide on an exception of user code; a class of ``flyte.errors`` arrives as itself, any other as a user error."""
    what = f"{raised.type_name}: {raised.message}" if raised.message else raised.type_name
    headline = f"raised {_one_line(what)}"
    code, message = raised.type_name, raised.message
    error: Exception | None = None
    if raised.fields is not None and isinstance(as_raised, CustomError):
        code = as_raised.code
    elif raised.fields is not None and isinstance(as_raised, FlyteError):
        error = as_raised
    elif isinstance(as_raised, SystemExit) or (raised.module, raised.type_name) == ("builtins", "SystemExit"):
        status = "0" if raised.message in {"", "None"} else raised.message
        message = f"sys.exit() was called in the task, with status {status}"
        headline = f"called sys.exit() with status {_one_line(status)} instead of returning a result"
    elif isinstance(as_raised, MemoryError) or (raised.module, raised.type_name) in _MEMORY_ERRORS:
        said = f" ({_one_line(raised.message)})" if raised.message else ""
        headline = f"one allocation was larger than the machine could promise{said}; this is not an OOM kill"
    return _Verdict(
        error=error or RuntimeUserError(code, message, _worker_of(as_raised)),
        reason="raised",
        headline=headline + _on_line(raised),
        recoverable=raised.recoverable and recoverable(as_raised),
    )


def _worker_of(error: BaseException) -> str | None:
    """Return the attempt that an error of the SDK came from, if it says so."""
    worker = getattr(error, "worker", None)
    return worker if isinstance(error, CustomError) and worker not in _NOBODY else None


def _lost(job: Job, report: WorkerReport) -> _Verdict:
    """Decide on a process that ended without a result.

    Not recoverable by the task's own retries: a cluster charges these to the platform, and repeating a deterministic
    segfault would repeat its side effects.
    """
    after = f"{format_duration(report.ran_s)} in{_while(report)}"
    reason: TerminationReason
    if report.signal is not None:
        message = _pod_failed(job, _SIGNAL_STATUS + report.signal, "Error")
        reason, headline = "signalled", f"was ended by {_signal_words(report)} {after}"
    elif report.exit_status is not None:
        why = "Error" if report.exit_status else "Completed"
        message = _pod_failed(job, report.exit_status, why)
        reason, headline = "exited", f"exited with status {report.exit_status} before it gave a result, {after}"
    else:
        message = f"{_NO_MESSAGE}\n{report.tripped_detail}".rstrip()
        reason, headline = "worker_lost", f"was lost {after}: its process left neither a result nor a status"
    if report.stage in _NOT_READY:
        reason, headline = "worker_lost", f"never became ready: {headline}"
    return _Verdict(
        error=RuntimeSystemError("Interrupted", message, job.worker),
        reason=reason,
        headline=headline,
        recoverable=False,
    )


def _signal_words(report: WorkerReport) -> str:
    number = report.signal or 0
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    said = signals.strsignal(number) if number in signals.valid_signals() else None
    words = f"{name} ({said.lower()})" if said else name
    if number == _SIGKILL and report.enforcement.kernel_memory:
        words += " from outside (the kernel counted no kill for memory)"
    return words


def _pod_failed(job: Job, status: int, why: str) -> str:
    return f"{_NO_MESSAGE}\n[{job.worker}] terminated with exit code ({status}). Reason [{why}]. Message: "


def _by(report: WorkerReport) -> str:
    if report.oom_kills or report.enforcement.kernel_memory:
        return " by the kernel"
    return " by the watchdog" if report.enforcement.memory == "watchdog" else ""


def _while(report: WorkerReport) -> str:
    if report.stage == "returning":
        return f", while returning `{report.returning}`" if report.returning else ", while returning its result"
    return {
        "starting": ", while Python and Flyte started",
        "loading": ", while its code and inputs were read",
    }.get(report.stage, "")


def _of(seconds: float | None) -> str:
    return "" if seconds is None else f" of {format_duration(seconds)}"


def _line(raised: Raised | None) -> SourceLine | None:
    return raised.lines[-1] if raised is not None and raised.lines else None


def _on_line(raised: Raised | None) -> str:
    line = _line(raised)
    return "" if line is None else f", on line {line.number}: `{_one_line(line.text)}`"


def _one_line(text: str, characters: int = 160) -> str:
    """Return the first line of ``text`` that says something, cut to a length that fits a headline."""
    first = next((line.strip() for line in text[:10_000].splitlines() if line.strip()), "")
    return first if len(first) <= characters else first[: characters - 1] + "…"


def _attach(error: BaseException, name: str, value: object) -> None:
    # Past the class's own __setattr__: a frozen dataclass is an exception class like any other. A property without
    # a setter is left alone.
    with suppress(AttributeError, TypeError):
        BaseException.__setattr__(error, name, value)


def _as_raised(raised: Raised, unpickle: Callable[[bytes], Any] | None) -> BaseException:
    """Return the exception as user code raised it, or the best that can be had of it."""
    with suppress(BaseException):  # unpickling and a user's class may run any code
        if raised.fields is not None:
            return rebuild(raised.fields)
        if raised.pickled is not None and unpickle is not None:
            loaded = unpickle(raised.pickled)
            if isinstance(loaded, BaseException):
                return loaded
    return _stand_in(raised)


def _stand_in(raised: Raised) -> BaseException:
    """Return an exception of a class named like the one that could not be brought here, with its message.

    Where the original is a built-in class, ``isinstance`` still holds.
    """
    base = getattr(builtins, raised.type_name, None) if raised.module == "builtins" else None
    if not (isinstance(base, type) and issubclass(base, BaseException)):
        base = Exception
    namespace = {"__module__": raised.module, "__str__": lambda _: raised.message}
    for candidate in (base, Exception):
        with suppress(Exception):  # some built-in classes need arguments; a name may hold what no class name may
            stand_in = type(raised.type_name, (candidate,), namespace)
            made: BaseException = candidate.__new__(stand_in)
            return made
    return Exception(raised.message)
