"""One attempt of one action, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flyte_notebook.core.limits import Limits

Semantics: TypeAlias = Literal["cluster", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The notebook's surroundings for a worker: current directory, environment and module search path."""

    cwd: str
    environ: Mapping[str, str]
    sys_path: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFact:
    """An input by name, type and size; never its value. ``size_bytes`` is ``None`` when it was not measured."""

    name: str
    type_name: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """How a program would call the task again: its name and its arguments.

    ``callee`` is the name of the function, or a cell's NAME. ``resources`` are those that the task declares, by their
    names in ``flyte.Resources``. ``arguments`` are expressions by name: a short plain value is written out, any other
    is a variable of the same name. ``awaited`` is whether the call has to be awaited.
    """

    callee: str
    awaited: bool
    resources: Mapping[str, object] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt of one action.

    ``entry`` is the ``module:function`` that the worker calls with the payload, which only that function reads: the
    bytes ``payload``, or the file ``payload_path``, which is removed when the job is done. ``unsent`` says why there is
    none. ``attempt`` counts from 0, as ``flyte.ctx().attempt_number`` does; ``max_attempts`` is retries + 1. ``parent``
    is the action name of the action that asked for this one, ``None`` for the root of a run. ``queued_s`` is the
    monotonic time of the action's first submission; a deadline counts from there. ``semantics`` selects the error
    classes of failures: those of today's cluster, or those of the published reference. ``system_retries`` is how many
    lost workers in a row are replaced without using up a retry of the task. ``system_failures`` counts all workers
    replaced before this attempt (``max_attempts`` has grown by the same number), ``system_failures_in_a_row`` those
    directly before it. ``killed_bytes`` are the memory limits at which the same call was killed in earlier runs.
    """

    label: str
    run: str
    action: str
    entry: str
    payload: bytes
    payload_path: str | None = None
    unsent: str = ""
    parent: str | None = None
    attempt: int = 0
    max_attempts: int = 1
    limits: Limits = field(default_factory=Limits)
    env_vars: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[InputFact, ...] = ()
    queued_s: float = 0.0
    semantics: Semantics = "cluster"
    call: CallFacts | None = None
    system_retries: int = 0
    system_failures: int = 0
    system_failures_in_a_row: int = 0
    killed_bytes: tuple[int, ...] = ()

    @property
    def worker(self) -> str:
        """The name of the attempt in the cluster's form: ``<run>-<action>-<attempt>``."""
        return f"{self.run}-{self.action}-{self.attempt}"

    def queue_bound(self, now_s: float) -> tuple[float, Literal["max_queued_time", "deadline"]]:
        """Return how many seconds the attempt may wait for admission, and which bound sets this."""
        limits = self.limits
        queued_s = limits.max_queued_time_s if limits.max_queued_time_s is not None else float("inf")
        deadline_s = float("inf")
        if limits.deadline_s is not None:
            deadline_s = self.queued_s + limits.deadline_s - now_s
        return (queued_s, "max_queued_time") if queued_s <= deadline_s else (deadline_s, "deadline")
