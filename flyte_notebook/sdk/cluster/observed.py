"""What a cluster tells of an action, as plain facts: its attempts with their pods, times, phases, errors and logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

QUEUED, WAITING, INITIALIZING, RUNNING = "QUEUED", "WAITING_FOR_RESOURCES", "INITIALIZING", "RUNNING"
SUCCEEDED, FAILED, ABORTED, TIMED_OUT = "SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT"
OVER: Final = frozenset({SUCCEEDED, FAILED, ABORTED, TIMED_OUT, "RECOVERED"})
"""The phases after which nothing follows."""

STOPPED_HERE: Final = "stopped in the notebook"
"""The reason of an abort that comes from here."""

TAIL_CHARS: Final = 64_000
"""How much of the end of an attempt's output is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFacts:
    """An error as it is on the wire; ``code`` may be empty, as some backends leave it out."""

    kind: str
    code: str
    message: str


@dataclass(slots=True, kw_only=True)
class LogFacts:
    """What the log of one attempt has said: the end of its output, memory at points in time, the error in Python.

    ``samples`` are pairs of seconds since 1970, by the pod's clock, and bytes.
    """

    tail: str = ""
    samples: list[tuple[float, int]] = field(default_factory=list)
    raised: dict[str, Any] | None = None

    def add(self, text: str, records: Iterable[dict[str, Any]]) -> None:
        """Add the text of a line, and the records in it."""
        self.tail = (self.tail + text)[-TAIL_CHARS:]
        for record in records:
            if "sample" in record:
                moment_s, used_bytes = record["sample"]
                self.samples.append((float(moment_s), int(used_bytes)))
            self.raised = record.get("raised", self.raised)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """One attempt. ``number`` counts from 1; times are in seconds since 1970, ``None`` when not known."""

    number: int
    phase: str
    pod: str = ""
    began_s: float | None = None
    ended_s: float | None = None
    running_since_s: float | None = None
    error: ErrorFacts | None = None
    events: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.phase in OVER


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFacts:
    """One action: a task that was called.

    ``parent`` is the name of the action that called it, empty for the root. ``memory`` and ``cpu`` are what it asked
    for, as quantities, empty where it did not.
    """

    name: str
    parent: str
    task_name: str
    phase: str
    error: ErrorFacts | None = None
    abort_reason: str = ""
    memory: str = ""
    cpu: str = ""
    attempts: tuple[AttemptFacts, ...] = ()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.phase in OVER


def origin_of(actions: Sequence[ActionFacts]) -> ActionFacts:
    """Return the action that the failure of a run comes from: the deepest one whose error no caller has caught.

    ``actions`` begin with the root. An error that is not caught goes on with its kind and its message.
    """
    here = actions[0]
    while here.error is not None:
        same = [
            action
            for action in actions
            if action.parent == here.name
            and action.error is not None
            and (action.error.kind, action.error.message) == (here.error.kind, here.error.message)
        ]
        if not same:
            break
        here = max(same, key=lambda action: (action.attempts[-1].ended_s or 0.0) if action.attempts else 0.0)
    return here


def action_facts(details: Any) -> ActionFacts:
    """Return the facts in an ``ActionDetails`` of ``flyteidl2.workflow``."""
    phase = phase_name(details.status.phase)
    error = _error(details.error_info) if details.HasField("error_info") else None
    last = len(details.attempts)
    attempts = tuple(
        _attempt(number, attempt, error if number == last else None, phase if number == last else "")
        for number, attempt in enumerate(details.attempts, start=1)
    )
    return ActionFacts(
        name=details.id.name,
        parent=details.metadata.parent,
        task_name=details.metadata.task.id.name or details.metadata.funtion_name,
        phase=phase,
        error=error,
        **_requested(details),
        abort_reason=details.abort_info.reason if details.HasField("abort_info") else "",
        attempts=attempts,
    )


def _requested(details: Any) -> dict[str, str]:
    """Return the memory and the CPU that a task asks for; a wire has requests only."""
    if not details.HasField("task"):
        return {}
    resources = details.task.task_template.container.resources
    named = {type(resources).ResourceName.Name(one.name).lower(): one.value for one in resources.requests}
    return {name: named.get(name, "") for name in ("memory", "cpu")}


def _attempt(number: int, attempt: Any, last_error: ErrorFacts | None, last_phase: str) -> AttemptFacts:
    running = [step for step in attempt.phase_transitions if phase_name(step.phase) == RUNNING]
    phase = phase_name(attempt.phase)
    return AttemptFacts(
        number=number,
        phase=last_phase if last_phase in OVER else phase,
        pod=attempt.log_context.primary_pod_name,
        began_s=_seconds(attempt, "start_time"),
        ended_s=_seconds(attempt, "end_time"),
        running_since_s=_seconds(running[-1], "start_time") if running else None,
        error=_error(attempt.error_info) if attempt.HasField("error_info") else last_error,
        events=tuple(event.message for event in attempt.cluster_events if event.message),
    )


def _error(info: Any) -> ErrorFacts:
    kind = type(info).Kind.Name(info.kind).removeprefix("KIND_").lower()
    return ErrorFacts(kind=kind if kind in {"user", "system"} else "user", code=info.code, message=info.message)


def _seconds(message: Any, name: str) -> float | None:
    if not message.HasField(name):
        return None
    moment = getattr(message, name)
    return float(moment.seconds + moment.nanos / 1e9)


def phase_name(phase: int) -> str:
    """Return the name of a phase, without its prefix; that of a phase of a newer backend is its number."""
    from flyteidl2.common import phase_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - loaded by the first run

    try:
        return str(phase_pb2.ActionPhase.Name(phase)).removeprefix("ACTION_PHASE_")
    except ValueError:
        return str(phase)
