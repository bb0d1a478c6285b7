"""The limits of one attempt, and the mechanisms that enforce them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one attempt. ``None`` means not limited, and nothing else.

    ``memory_bytes`` is the hard limit over all processes of the task: interpreter, imports, inputs and children
    included, as in a container. ``memory_request_bytes`` is the amount that admission reserves when a request below the
    limit was declared. ``max_runtime_s`` counts from the moment the worker was ready, per attempt;
    ``max_queued_time_s`` from submission to start, per attempt; ``deadline_s`` from the first submission, across all
    attempts. ``max_inline_io_bytes`` limits inputs and outputs that are sent inline.
    """

    memory_bytes: int | None = None
    memory_request_bytes: int | None = None
    cpu_cores: float | None = None
    max_runtime_s: float | None = None
    max_queued_time_s: float | None = None
    deadline_s: float | None = None
    max_inline_io_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the bounds by their names, ready for JSON."""
        return asdict(self)

    def times(self) -> dict[str, float]:
        """Return the declared bounds on time in seconds, by their names in the SDK."""
        declared = {name: getattr(self, f"{name}_s") for name in ("max_runtime", "max_queued_time", "deadline")}
        return {name: seconds for name, seconds in declared.items() if seconds is not None}


MemoryMechanism = Literal["cgroup_v2", "cgroup_v1", "watchdog", "cluster", "none"]
CpuMechanism = Literal["cgroup_v2", "cgroup_v1", "affinity", "cluster", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """Which mechanism of this machine enforces each limit.

    ``memory`` is ``cgroup_v2`` or ``cgroup_v1`` when the operating system's kernel enforces it, ``watchdog`` when a 5
    ms poll does, which may overshoot by about 100 MiB, ``cluster`` in a pod. ``hints`` are sentences about what is
    missing on this machine, each with the command that would improve it; empty when nothing is missing.
    """

    memory: MemoryMechanism = "none"
    cpu: CpuMechanism = "none"
    hints: tuple[str, ...] = ()

    @property
    def kernel_memory(self) -> bool:
        """Whether the operating system's kernel holds the memory limit."""
        return self.memory in {"cgroup_v1", "cgroup_v2"}

    @property
    def memory_words(self) -> str:
        """How the memory limit is held, in words a person can read."""
        return {
            "cgroup_v2": "kernel (cgroup v2)",
            "cgroup_v1": "kernel (cgroup v1)",
            "watchdog": "polled every 5 ms, may overshoot by about 100 MiB",
            "cluster": "the cluster",
            "none": "not enforced",
        }[self.memory]

    def to_dict(self) -> dict[str, Any]:
        """Return the mechanisms and the hints, ready for JSON."""
        return {"memory": self.memory, "memory_words": self.memory_words, "cpu": self.cpu, "hints": list(self.hints)}

    @property
    def cpu_words(self) -> str:
        """How the CPU limit is held, in words a person can read."""
        return {
            "cgroup_v2": "kernel (cgroup v2)",
            "cgroup_v1": "kernel (cgroup v1)",
            "affinity": "CPU affinity, whole cores only",
            "cluster": "the cluster",
            "none": "not enforced",
        }[self.cpu]
