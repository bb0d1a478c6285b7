"""CPU limits without control groups: a process bound to n CPUs uses at most n cores (sched_setaffinity(2)).

Whole cores only, so a share is rounded up. A process may change its own binding, so this limit only works for programs
that do not. macOS has no such call, and there CPU is not limited. A process joins its group itself (`join`).
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from flyte_notebook.limiters import kernel_files

AVAILABLE = hasattr(os, "sched_setaffinity")


class Cpus:
    """Assigns the CPUs of this process to groups, the least used CPUs first."""

    def __init__(self) -> None:
        self._dealt: Counter[int] = Counter()

    def take(self, cores: float | None) -> frozenset[int]:
        """Return the CPUs for that many cores; empty when all of them are allowed anyway."""
        if cores is None or sys.platform != "linux":
            return frozenset()
        ours = sorted(os.sched_getaffinity(0))
        wanted = max(1, math.ceil(cores))
        if wanted >= len(ours):
            return frozenset()
        cpus = frozenset(sorted(ours, key=lambda cpu: (self._dealt[cpu], cpu))[:wanted])
        self._dealt.update(cpus)
        return cpus

    def give_back(self, cpus: frozenset[int]) -> None:
        """Note that a group with these CPUs was removed."""
        self._dealt.subtract(cpus)


def bind(cpus: frozenset[int], pid: int = 0) -> None:
    """Bind a process with one thread (0 is the caller), and its later children, to these CPUs; none: no change."""
    if cpus and sys.platform == "linux":
        os.sched_setaffinity(pid, cpus)


def join(procs_files: Sequence[str], cpus: Iterable[int]) -> None:
    """Put the calling process into a group, given its ``procs_files`` and ``cpus``; see `limiters.base.TaskGroup`.

    For a process between fork and exec: system calls only. Raises OSError when the kernel refuses.
    """
    for door in procs_files:
        kernel_files.write(door, "0")  # "0" means itself
    bind(frozenset(cpus))
