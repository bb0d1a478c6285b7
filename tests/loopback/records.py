"""Runs, actions and attempts: what the plane knows, and how it looks on the wire. It starts nothing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flyteidl2.common import identifier_pb2, phase_pb2
from flyteidl2.core import execution_pb2
from flyteidl2.workflow import run_definition_pb2 as definition_pb2
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from flyteidl2.task import run_pb2, task_definition_pb2

    from .faults import Faults

QUEUED = phase_pb2.ACTION_PHASE_QUEUED
WAITING = phase_pb2.ACTION_PHASE_WAITING_FOR_RESOURCES
INITIALIZING = phase_pb2.ACTION_PHASE_INITIALIZING
RUNNING = phase_pb2.ACTION_PHASE_RUNNING
SUCCEEDED = phase_pb2.ACTION_PHASE_SUCCEEDED
FAILED = phase_pb2.ACTION_PHASE_FAILED
ABORTED = phase_pb2.ACTION_PHASE_ABORTED
TIMED_OUT = phase_pb2.ACTION_PHASE_TIMED_OUT
LAST = frozenset({SUCCEEDED, FAILED, ABORTED, TIMED_OUT})

NAMESPACE = "loopback"
CLUSTER = "loopback"
CONTAINER = "a0"

USER, SYSTEM = definition_pb2.ErrorInfo.KIND_USER, definition_pb2.ErrorInfo.KIND_SYSTEM


def stamp(seconds: float | None) -> Timestamp | None:
    """Return a point in time as it is on the wire."""
    return None if seconds is None else Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


@dataclass(slots=True)
class Line:
    """One line that a pod wrote, without what ends it."""

    at_s: float
    text: str


@dataclass(slots=True)
class Log:
    """What a pod has written so far. It can be followed while it grows."""

    lines: list[Line] = field(default_factory=list)
    closed: bool = False
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, text: str) -> None:
        """Take a line."""
        self.lines.append(Line(time.time(), text))
        self._tell()

    def close(self) -> None:
        """Say that no more comes."""
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()

    def tail(self, most_bytes: int = 2048, most_lines: int = 80) -> str:
        """Return the end, as much of it as Kubernetes puts into the message of a container that failed."""
        return "\n".join(line.text for line in self.lines[-most_lines:])[-most_bytes:]


@dataclass(slots=True)
class Attempt:
    """One pod of an action."""

    number: int
    pod: str
    phases: list[tuple[int, float]] = field(default_factory=list)
    events: list[definition_pb2.ClusterEvent] = field(default_factory=list)
    error: definition_pb2.ErrorInfo | None = None
    end_s: float | None = None
    log: Log = field(default_factory=Log)
    deleted: bool = False

    @property
    def phase(self) -> int:
        """The last phase."""
        return self.phases[-1][0]

    @property
    def has_run(self) -> bool:
        """Whether there is, or was, a container."""
        return any(phase == RUNNING for phase, _ in self.phases)

    def event(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Note what a cluster would note about the pod."""
        kind = definition_pb2.ClusterEvent
        self.events.append(
            kind(
                occurred_at=stamp(time.time()),
                message=message,
                reason=reason,
                type=kind.TYPE_WARNING if warning else kind.TYPE_NORMAL,
                source_component="kubelet",
                count=1,
            )
        )

    def _process(self) -> execution_pb2.ContainerContext.ProcessContext:
        start_s = next((start for phase, start in self.phases if phase == RUNNING), None)
        return execution_pb2.ContainerContext.ProcessContext(
            container_start_time=stamp(start_s), container_end_time=stamp(self.end_s)
        )

    def wire(self, prefix: str, error: definition_pb2.ErrorInfo | None) -> definition_pb2.ActionAttempt:
        """Return it as it is on the wire; ``prefix`` is where the action's outputs are."""
        ends = [start for _, start in self.phases[1:]] + [self.end_s]
        began = self.phases[0][1]
        containers = [execution_pb2.ContainerContext(container_name=CONTAINER, process=self._process())]
        pod = execution_pb2.PodLogContext(
            namespace=NAMESPACE, pod_name=self.pod, containers=containers, primary_container_name=CONTAINER
        )
        message = definition_pb2.ActionAttempt(
            phase=self.phase,
            start_time=stamp(began),
            end_time=stamp(self.end_s),
            error_info=error,
            attempt=self.number,
            logs_available=self.has_run,
            cluster_events=self.events,
            phase_transitions=[
                definition_pb2.PhaseTransition(phase=phase, start_time=stamp(start), end_time=stamp(end))
                for (phase, start), end in zip(self.phases, ends, strict=True)
            ],
            cluster=CLUSTER,
            log_context=execution_pb2.LogContext(pods=[pod], primary_pod_name=self.pod),
        )
        if self.phase == SUCCEEDED:
            message.outputs.output_uri = f"{prefix}/{self.number}/outputs.pb"
        return message


@dataclass(slots=True)
class Action:
    """A task, or a trace, in a run."""

    run: Run
    name: str
    input_uri: str
    parent: str = ""
    group: str = ""
    spec: task_definition_pb2.TaskSpec | None = None
    trace: definition_pb2.TraceAction | None = None
    phase: int = QUEUED
    start_s: float = field(default_factory=time.time)
    end_s: float | None = None
    error: definition_pb2.ErrorInfo | None = None
    error_seen_s: float = 0.0
    """When the error becomes visible."""
    abort_reason: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    life: asyncio.Task[None] | None = None

    @property
    def prefix(self) -> str:
        """Where its outputs are, one folder for each attempt."""
        return f"{self.run.base}/{self.name}"

    @property
    def output_uri(self) -> str:
        """Where the outputs of the last attempt are, without the name of the file."""
        if self.trace is not None:
            return self.trace.outputs.output_uri
        return f"{self.prefix}/{max(1, len(self.attempts))}"

    @property
    def done(self) -> bool:
        """Whether no other phase comes."""
        return self.phase in LAST

    @property
    def complete(self) -> bool:
        """Whether nothing about it changes any more, its error included."""
        return self.done and time.time() >= self.error_seen_s

    @property
    def id(self) -> identifier_pb2.ActionIdentifier:
        """Its identifier."""
        return identifier_pb2.ActionIdentifier(run=self.run.id, name=self.name)

    @property
    def task_name(self) -> str:
        """The name of the task, as its environment has it."""
        return "" if self.spec is None else self.spec.task_template.id.name

    def wire(self) -> definition_pb2.Action:
        """Return it as it is in lists."""
        metadata = definition_pb2.ActionMetadata(
            parent=self.parent, group=self.group, action_type=definition_pb2.ACTION_TYPE_TRACE
        )
        if self.spec is not None:
            template = self.spec.task_template
            metadata.action_type = definition_pb2.ACTION_TYPE_TASK
            metadata.environment_name = self.spec.environment.name
            metadata.task.short_name = self.spec.short_name
            metadata.task.task_type = template.type
            for name in ("org", "project", "domain", "name", "version"):
                setattr(metadata.task.id, name, getattr(template.id, name))
        elif self.trace is not None:
            metadata.trace.name = self.trace.name
        end_s = self.end_s or time.time()
        status = definition_pb2.ActionStatus(
            phase=self.phase,
            start_time=stamp(self.start_s),
            end_time=stamp(self.end_s),
            attempts=len(self.attempts),
            duration_ms=int((end_s - self.start_s) * 1000),
        )
        return definition_pb2.Action(id=self.id, metadata=metadata, status=status)

    def details(self, faults: Faults) -> definition_pb2.ActionDetails:
        """Return all there is to know about it."""
        short = self.wire()
        error, late = self.error, time.time() < self.error_seen_s
        if error is not None and faults.omit_code:
            error = definition_pb2.ErrorInfo(message=error.message, kind=error.kind)
        details = definition_pb2.ActionDetails(
            id=short.id,
            metadata=short.metadata,
            status=short.status,
            attempts=[
                attempt.wire(self.prefix, None if late else error if attempt is self.attempts[-1] else attempt.error)
                for attempt in self.attempts
            ],
        )
        if self.spec is not None:
            details.task.CopyFrom(self.spec)
        elif self.trace is not None:
            details.trace.CopyFrom(self.trace.spec)
        if self.abort_reason is not None and self.phase == ABORTED:
            details.abort_info.reason = self.abort_reason
        elif error is not None and self.done and not late:
            details.error_info.CopyFrom(error)
        return details


@dataclass(slots=True)
class Run:
    """All actions of one submission."""

    id: identifier_pb2.RunIdentifier
    spec: run_pb2.RunSpec
    base: str
    actions: dict[str, Action] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def root(self) -> Action:
        """The action that was submitted; its name is ``a0``."""
        return self.actions["a0"]

    def touch(self) -> None:
        """Wake whoever watches."""
        self.changed.set()
        self.changed = asyncio.Event()

    def below(self, action: Action) -> list[Action]:
        """Return what an action started, and what that did."""
        children = [other for other in self.actions.values() if other.parent == action.name]
        return [*children, *(deeper for child in children for deeper in self.below(child))]

    def wire(self) -> definition_pb2.Run:
        """Return it as it is in lists."""
        return definition_pb2.Run(action=self.root.wire(), labels=dict(self.spec.labels.values))


Key = tuple[str, str, str]


class Store:
    """All runs that there are, by project, domain and name. The organisation does not matter: there is one."""

    def __init__(self) -> None:
        self.runs: dict[Key, Run] = {}

    def add(self, run: Run) -> None:
        """Keep a run."""
        self.runs[key(run.id)] = run

    def run(self, wanted: identifier_pb2.RunIdentifier) -> Run | None:
        """Return a run, ``None`` when there is none."""
        return self.runs.get(key(wanted))

    def action(self, wanted: identifier_pb2.ActionIdentifier) -> Action | None:
        """Return an action, ``None`` when there is none."""
        run = self.run(wanted.run)
        return None if run is None else run.actions.get(wanted.name)


def key(wanted: identifier_pb2.RunIdentifier) -> Key:
    """Return what tells a run from all others."""
    return wanted.project, wanted.domain, wanted.name
