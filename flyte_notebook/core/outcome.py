"""The result of one attempt: first the facts (`WorkerReport`), then what they mean (`Success` or `Failure`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from flyte_notebook.core.bound import to_json
from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.core.trace import MemoryTrace

if TYPE_CHECKING:
    from flyte_notebook.core.endings import Left, Step, Unanswered

Stage = Literal["queued", "starting", "loading", "running", "returning", "finished"]
"""How far the worker got. ``loading`` reads code and inputs, ``returning`` serialises outputs."""

Tripped = Literal["memory", "max_runtime", "deadline", "max_queued_time", "stopped", "never_fits"]
"""The first reason for which our side ended an attempt, or refused to start it."""

TerminationReason = Literal[
    "memory",  # the task's own limit, by the kernel or the watchdog
    "machine_memory",  # the machine ran out of memory; not the task's limit
    "max_runtime",
    "deadline",
    "max_queued_time",
    "stopped",
    "never_fits",
    "raised",  # user code raised
    "exited",  # the process ended by itself before a result
    "signalled",  # a signal that was neither ours nor the OOM killer's
    "worker_lost",  # the worker never became ready, or its channel broke
]


NOTE_MARK = "[flyte_notebook]"
"""The beginning of our notes on exceptions."""

MAX_LINE_CHARS = 4_096
"""How much of a line of code, and of its file name, is kept: a line may contain a literal of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """A line of the user's code, at most `MAX_LINE_CHARS` of each text; ``str()`` of it contains the text."""

    file: str
    number: int
    text: str
    function: str = ""

    def __post_init__(self) -> None:
        """Cut texts that are too long."""
        for name in ("file", "text", "function"):
            object.__setattr__(self, name, getattr(self, name)[:MAX_LINE_CHARS])

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        """Return the line by its fields, ready for JSON."""
        return {"file": self.file, "number": self.number, "text": self.text, "function": self.function}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedAllocation:
    """The known facts about the allocation behind a ``MemoryError``.

    ``size_bytes`` is the size of the single request, ``None`` when it is not known. It is ``exact`` when the error
    itself says it, else computed from the failing expression, without the few bytes of the object's header. ``by_hand``
    is whether Python code raised the error: then there may have been no allocation at all.
    """

    size_bytes: int | None = None
    exact: bool = False
    by_hand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """An exception of user code, as the worker saw it.

    ``fields`` are used to rebuild a ``flyte.errors`` instance (see `flyte_notebook.errors.pack`), ``None`` for any
    other class. ``pickled`` is the exception itself, ``None`` when it could not be pickled. ``traceback`` starts at the
    user's first frame; ``lines`` are the user's frames in it, outermost first. ``refused`` is the allocation behind a
    ``MemoryError``, ``None`` for any other class. ``cause`` is the exception that a ``flyte.errors`` instance was
    raised from, without a traceback of its own: the exception of a nested task, which its caller did not catch.
    ``loaded_bytes`` is roughly the memory that the values of ``fields`` or ``pickled`` need when loaded. ``step`` is
    the worker's current step if the exception was raised after the user's code had ended. ``on_cluster`` are the fields
    of the error that a caller on a cluster would get instead, ``None`` where it is the same error.
    """

    type_name: str
    module: str
    message: str
    traceback: str
    lines: tuple[SourceLine, ...] = ()
    fields: dict[str, Any] | None = None
    pickled: bytes | None = None
    recoverable: bool = True
    refused: RefusedAllocation | None = None
    cause: Raised | None = None
    loaded_bytes: int = 0
    step: Step | None = None
    on_cluster: dict[str, Any] | None = None

    @property
    def weight_bytes(self) -> int:
        """Roughly its size in memory, with the exception and its causes loaded.

        Without its pickle, which is dropped once the exception is loaded.
        """
        own = sum(map(sys.getsizeof, (self.message, self.traceback)))
        return own + self.loaded_bytes + (0 if self.cause is None else self.cause.weight_bytes)

    def without_pickles(self) -> Raised:
        """Return it without the exceptions themselves."""
        return replace(self, pickled=None, cause=None if self.cause is None else self.cause.without_pickles())

    def cut(self, characters: int) -> Raised:
        """Return it without its values, and with each text cut to that length."""
        return replace(
            self,
            message=_cut(self.message, characters),
            traceback=_cut(self.traceback, characters),
            fields=None,
            pickled=None,
            cause=None,
            loaded_bytes=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LastLine:
    """The position of the user's code when it was last sampled.

    ``stack`` are the user's lines, outermost first. ``how`` is ``"stopped"`` when it was read right before we killed
    the attempt, else ``"sampled"``: then it was read ``age_s`` seconds before the end, or a little less. ``"grew"``
    means that the attempt was killed for its memory and was waiting at the last sample; the lines are those at which it
    last wrote to memory that had grown, ``age_s`` before the end.
    """

    stack: tuple[SourceLine, ...]
    age_s: float = 0.0
    how: Literal["stopped", "sampled", "grew"] = "sampled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The change of memory while a line was executing, from samples some milliseconds apart; it may be negative."""

    line: SourceLine
    grew_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingAllocation:
    """The last large allocation that the worker still held: ``size_bytes`` in one request, ``before_bytes`` in use."""

    size_bytes: int
    before_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """The facts about one attempt; `flyte_notebook.core.diagnosis` decides what they mean.

    ``answer`` is the opaque result, ``None`` when there was none. ``exit_status`` and ``signal`` are of the worker
    process, at most one of them set. ``oom_kills`` is the rise of the kernel's counter for this task's group and
    ``limit_reached`` whether the group itself was at its limit: a kill without it means that the machine ran out of
    memory. ``returning`` names the output being serialised when the attempt ended. ``queued_for_s`` is the wait for
    admission; ``duration_s`` counts from the start of the process, of which ``ready_after_s`` passed before it was
    ready, ``None`` if it never was. ``last_line`` is the last sampled position of the user's code, ``None`` when there
    was no sample; ``grew`` the lines with the largest changes of memory, the largest first; ``no_line`` says why no
    line can be read. ``asked`` is the last large allocation of an attempt, ``None`` when none was seen;
    ``machine_bytes`` is the most memory that a task can have on this machine, known for attempts that were killed for
    memory. ``unanswered`` says why there is no answer although the body ended and the worker went on running. ``left``
    is the shared memory of an attempt that failed.
    """

    answer: bytes | None = None
    raised: Raised | None = None
    exit_status: int | None = None
    signal: int | None = None
    tripped: Tripped | None = None
    tripped_detail: str = ""
    oom_kills: int = 0
    limit_reached: bool = False
    machine_short: bool = False
    stage: Stage = "queued"
    returning: str | None = None
    trace: MemoryTrace = field(default_factory=MemoryTrace)
    enforcement: Enforcement = field(default_factory=Enforcement)
    output_tail: str = ""
    queued_for_s: float = 0.0
    duration_s: float = 0.0
    ready_after_s: float | None = None
    last_line: LastLine | None = None
    grew: tuple[Growth, ...] = ()
    no_line: str = ""
    asked: PendingAllocation | None = None
    machine_bytes: int | None = None
    unanswered: Unanswered | None = None
    left: tuple[Left, ...] = ()

    @property
    def ran_s(self) -> float:
        """Seconds since the worker was ready, which is what ``max_runtime`` counts; since its start if it never was."""
        return max(0.0, self.duration_s - (self.ready_after_s or 0.0))

    @property
    def said_last(self) -> str:
        """The last printed line that is not indented: for a traceback this is the line with the exception."""
        lines = [line.rstrip() for line in self.output_tail.splitlines() if line[:1].strip()]
        return lines[-1][:MAX_LINE_CHARS] if lines else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """The attempt returned a result; ``answer`` is opaque."""

    answer: bytes
    report: WorkerReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One sentence, and the limits that it proposes."""

    sentence: str
    limits: Limits


BUNDLE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Failure:
    """Why an attempt failed, and everything known about it.

    ``error`` is the ``flyte.errors`` exception that reaches the user; its attribute ``failure`` is this object.
    ``headline`` is one plain sentence with the measured and the allowed value. ``wire_code`` is the code a cluster puts
    on the wire when it differs from ``code``. ``note`` is one sentence for the case that a cluster would raise another
    class. ``line`` is the user's line where it failed, ``None`` when not known. ``retried_as_system_failure`` is
    whether a lost worker is replaced, whatever retries the task itself has.
    """

    error: BaseException
    kind: str
    code: str
    worker: str
    message: str
    reason: TerminationReason
    headline: str
    task_name: str
    attempt: int
    max_attempts: int
    limits: Limits
    report: WorkerReport
    wire_code: str | None = None
    note: str = ""
    line: SourceLine | None = None
    lines: tuple[SourceLine, ...] = ()
    traceback: str = ""
    output_tail: str = ""
    inputs: tuple[Any, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    retried_as_system_failure: bool = False

    def __repr__(self) -> str:
        return f"<Failure of {self.task_name}: {type(self.error).__name__}: {self.headline}>"

    @property
    def words(self) -> str:
        """What failed, on which line, and what to try: a few lines for the end of a traceback."""
        line = self.line
        where = [] if line is None else [f"  {line.file}, line {line.number}, in {line.function}", f"    {line.text}"]
        headline = f"{NOTE_MARK} {self.task_name}: {_cut(self.headline, MAX_LINE_CHARS)}"
        return "\n".join([headline, *where, *(suggestion.sentence for suggestion in self.suggestions[:1])])

    @property
    def weight_bytes(self) -> int:
        """Roughly its size in memory: its texts, and the values of its error."""
        raised = self.report.raised
        texts = sum(map(sys.getsizeof, (self.message, self.output_tail)))
        return texts + (0 if raised is None else raised.weight_bytes)

    def let_pickle_go(self) -> None:
        """Drop the pickles that its error was loaded from: they are not needed after that."""
        raised = self.report.raised
        if raised is not None and raised.pickled is not None:
            self._become(report=replace(self.report, raised=raised.without_pickles()))

    def cut(self, characters: int) -> None:
        """Cut each text to that length and drop the values, so that the failure needs less memory."""
        raised = self.report.raised
        self._become(
            message=_cut(self.message, characters),
            traceback=_cut(self.traceback, characters),
            output_tail=self.output_tail[-characters:],
            report=replace(
                self.report,
                raised=None if raised is None else raised.cut(characters),
                output_tail=self.report.output_tail[-characters:],
            ),
        )

    def _become(self, **changes: object) -> None:
        # Frozen for all other code: cards, history and the error itself share this one object.
        for name, value in changes.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return the failure for tools: plain values only, versioned, no environment and no input values."""
        trace = self.report.trace
        return {
            "version": BUNDLE_VERSION,
            "error": type(self.error).__name__,
            "kind": self.kind,
            "code": self.code,
            "wire_code": self.wire_code,
            "worker": self.worker,
            "message": self.message,
            "reason": self.reason,
            "headline": self.headline,
            "note": self.note,
            "task_name": self.task_name,
            "attempt": self.attempt + 1,
            "max_attempts": self.max_attempts,
            "limits": self.limits.to_dict(),
            "memory": trace.to_dict(),
            "enforcement": self.report.enforcement.to_dict(),
            "duration_s": round(self.report.duration_s, 3),
            "queued_for_s": round(self.report.queued_for_s, 3),
            "ready_after_s": None if self.report.ready_after_s is None else round(self.report.ready_after_s, 3),
            "exit_status": self.report.exit_status,
            "signal": self.report.signal,
            "oom_kills": self.report.oom_kills,
            "stage": self.report.stage,
            "line": None if self.line is None else self.line.to_dict(),
            "lines": [line.to_dict() for line in self.lines],
            "line_seen": self._line_seen(),
            "no_line": self.report.no_line,
            "grew": [{**grew.line.to_dict(), "bytes": grew.grew_bytes} for grew in self.report.grew],
            "traceback": self.traceback,
            "output_tail": self.output_tail,
            "inputs": [
                {"name": fact.name, "type": fact.type_name, "size_bytes": fact.size_bytes} for fact in self.inputs
            ],
            "suggestions": [
                {"sentence": item.sentence, "memory_bytes": item.limits.memory_bytes} for item in self.suggestions
            ],
            "retried_as_system_failure": self.retried_as_system_failure,
        }

    def _line_seen(self) -> dict[str, Any] | None:
        seen = self.report.last_line
        if seen is None or self.line is None or self.report.raised is not None:
            return None
        return {"how": seen.how, "before_end_s": seen.age_s}

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return to_json(self.to_dict())


Outcome: TypeAlias = Success | Failure


def _cut(text: str, characters: int) -> str:
    """Return both ends of a text that is longer than that."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"
