"""One run of a fit: the limits that replace the declared ones.

The fitted task is overridden, as a program would do it. Nested tasks are called by user code, which cannot set the
limit: so their limit is looked up by the task's name when the job arrives in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import flyte

from flyte_notebook.core.overrides import Override, resources_with
from flyte_notebook.core.units import quantity_memory
from flyte_notebook.engine.scheduler import DEFAULT_RESERVE_BYTES, reserve_bytes
from flyte_notebook.sdk import tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyte_notebook.core.job import Job
    from flyte_notebook.core.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The declaration of a task: its limit, and its resources by their names in ``flyte.Resources``."""

    memory_bytes: int | None = None
    resources: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def by(cls, task: Any) -> Declared:
        """Return the declaration of a task. Raises `UnitError` for an invalid quantity."""
        return cls(memory_bytes=tasks.limits_of(task).memory_bytes, resources=tasks.declared_resources(task))

    def with_memory(self, memory_bytes: int) -> dict[str, object]:
        """Return the same resources with another limit, as ``flyte.Resources`` takes them."""
        return resources_with(self.resources, Override(memory_bytes=memory_bytes))

    def line(self, memory_bytes: int) -> str:
        """Return them as code: ``resources=flyte.Resources(cpu=1, memory="464Mi")``."""
        said = ", ".join(f"{name}={_code(value)}" for name, value in self.with_memory(memory_bytes).items())
        return f"resources=flyte.Resources({said})"


@dataclass(slots=True, kw_only=True)
class Trial:
    """Limits by task name for one run; any other task gets ``room_bytes``, its own limit where that is ``None``.

    ``muted``: its output is not shown. A task reserves only its declared memory, so that parallel tasks still run in
    parallel; with ``reserves`` it reserves its whole limit. ``declared`` collects the declarations of the called tasks.
    Changed on the engine's thread only.
    """

    limits: Mapping[str, int]
    room_bytes: int | None
    muted: bool = False
    reserves: bool = False
    declared: dict[str, Declared] = field(default_factory=dict)

    def adjusted(self, job: Job) -> Job:
        """Return a job under the limit of this trial."""
        facts = job.call
        resources = {} if facts is None else facts.resources
        self.declared.setdefault(job.label, Declared(memory_bytes=job.limits.memory_bytes, resources=resources))
        memory_bytes = self.limits.get(job.label, self.room_bytes)
        if memory_bytes is None:
            return job
        request_bytes = self._request(job.limits, memory_bytes)
        return replace(job, limits=replace(job.limits, memory_bytes=memory_bytes, memory_request_bytes=request_bytes))

    def overridden(self, task: Any) -> Any:
        """Return a task under the limit of this trial, with one attempt only."""
        memory_bytes = self.limits.get(task.name, self.room_bytes)
        changes: dict[str, Any] = {"retries": flyte.RetryStrategy(count=0)}
        if memory_bytes is not None:
            request_bytes = self._request(tasks.limits_of(task), memory_bytes)
            resources: dict[str, Any] = tasks.declared_resources(task)
            resources["memory"] = (quantity_memory(request_bytes), quantity_memory(memory_bytes))
            changes["resources"] = flyte.Resources(**resources)
        if task.reusable is not None:  # the SDK cannot override resources of a reused container
            changes["reusable"] = "off"
        return task.override(**changes)

    def _request(self, limits: Limits, memory_bytes: int) -> int:
        declared = limits.memory_bytes is not None or limits.memory_request_bytes is not None
        wanted_bytes = reserve_bytes(limits) if declared else DEFAULT_RESERVE_BYTES
        return memory_bytes if self.reserves else min(wanted_bytes, memory_bytes)


def _code(value: object) -> str:
    text = repr(value)
    return f'"{text[1:-1]}"' if text[:1] == text[-1:] == "'" and '"' not in text else text
