"""Control groups version 1: memory, cpu and pids hierarchies, each with a directory per session and one per attempt.

The kernel refuses memory above ``memory.limit_in_bytes`` and, when nothing can be dropped, kills a process of the
group; ``memory.memsw.limit_in_bytes`` at the same value keeps swap from extending the limit. ``cpu.cfs_quota_us`` is
the CPU time of the group per period. The kernel kills one process, not the group: when ``oom_kills`` rises, the
supervisor ends the other processes. Sources: kernel Documentation/admin-guide/cgroup-v1/memory.rst and
scheduler/sched-bwc.rst.

``memory.oom_control`` counts kills of this group's own processes for any reason; only usage at the group's own limit
distinguishes a kill for this limit from one for a group above or the whole machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.limiters import affinity
from flyte_notebook.limiters.attempt_group import AttemptGroup, fresh
from flyte_notebook.limiters.base import Counters, LimiterUnavailableError
from flyte_notebook.limiters.control_groups import (
    CPU_PERIOD_US,
    Meter,
    clear,
    own,
    prove_entry,
    quota_us,
    remove_tree,
    subdirectories,
)
from flyte_notebook.limiters.kernel_files import parse_counts, read, read_number, write
from flyte_notebook.limiters.session_limits import Room, shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.limits import CpuMechanism

# Memory is charged in batches of 64 pages per CPU; usage this close to the limit counts as at the limit.
NEAR_BYTES = 64 * os.sysconf("SC_PAGE_SIZE")
PROOF_BYTES = 64 << 20
ALARM_AT = (0.95, 0.85)
"""Parts of the limit at which the current line of the task is read."""
CACHE_KEYS = (b"total_inactive_file ", b"total_active_file ")


class CgroupV1:
    """Groups under our own memory group, and under our own cpu group if it is writable."""

    def __init__(self, session: str) -> None:
        """Make the session's directories and try them. Raises `LimiterUnavailableError` where that is not allowed."""
        self._memory = _session_directory("memory", session)
        self._cpu: str | None = None
        self._cpus = affinity.Cpus()
        self._room = Room(self._memory + "/memory.usage_in_bytes", self._memory + "/memory.limit_in_bytes")
        try:
            _prove(self._memory, lambda directory: _limit_memory(directory, PROOF_BYTES))
        except OSError as refused:
            clear(self._memory)
            reason = f"cgroup v1: no memory limit can be set: {refused}"
            raise LimiterUnavailableError(refused.errno, reason) from refused
        cpu: CpuMechanism = "affinity" if affinity.AVAILABLE else "none"
        try:
            self._cpu = _session_directory("cpu", session)
            _prove(self._cpu, lambda directory: _limit_cpu(directory, 0.5))
            cpu = "cgroup_v1"
        except OSError:  # memory is most important; CPU is limited by affinity
            if self._cpu is not None:
                clear(self._cpu)
                self._cpu = None
        self._pids, self._pids_each = _pids_directory(session)
        self.enforcement = Enforcement(memory="cgroup_v1", cpu=cpu)

    def group(self, name: str, limits: Limits) -> AttemptGroup:
        """Make the group of one attempt, its limits set. Raises OSError when the kernel refuses."""
        memory = f"{self._memory}/fnb-{name}"
        cpu = None if self._cpu is None else f"{self._cpu}/fnb-{name}"
        pids = None if self._pids is None else f"{self._pids}/fnb-{name}"
        limit_bytes: int | None = None

        def limit(limits: Limits) -> float | None:
            nonlocal limit_bytes
            _limit_memory(memory, limits.memory_bytes)
            if limits.memory_bytes is not None:
                limit_bytes = read_number(memory + "/memory.limit_in_bytes")
            if cpu is None:
                return limits.cpu_cores
            if limits.cpu_cores is not None:
                _limit_cpu(cpu, limits.cpu_cores)
            return None

        directories = [directory for directory in (memory, cpu, pids) if directory is not None]
        with fresh(directories):
            if pids is not None:
                write(pids + "/pids.max", str(self._pids_each))
            return AttemptGroup(
                directories,
                meter=Meter(memory + "/memory.usage_in_bytes", memory + "/memory.stat", CACHE_KEYS),
                count=lambda: _count(memory, limit_bytes),
                limit=limit,
                limits=limits,
                cpu_allocator=self._cpus,
                set_alarm=lambda alarm: _set_alarm(alarm, memory, limit_bytes),
            )

    def keep_room(self) -> None:
        """Limit all attempts together to the memory left in a limited group above."""
        self._room.keep()

    def close(self) -> None:
        """Kill the processes of every remaining group of this session and remove the groups. Idempotent."""
        for directory in filter(None, (self._memory, self._cpu, self._pids)):
            clear(directory)


def base_directory(controller: str) -> str | None:
    """Return the parent group of sessions for a controller, or ``None`` without such a hierarchy."""
    found = own(controller)
    return None if found is None else found[0]


def _count(memory: str, limit_bytes: int | None) -> Counters | None:
    """Return the counters of a memory group, ``None`` when it is removed."""
    peak_bytes = read_number(memory + "/memory.max_usage_in_bytes")
    if peak_bytes is None:
        return None
    oom_kills = sum(
        parse_counts(read(directory + "/memory.oom_control") or "").get("oom_kill", 0)
        for directory in (memory, *subdirectories(memory))
    )
    limit_reached = limit_bytes is not None and (
        peak_bytes >= limit_bytes - NEAR_BYTES or bool(read_number(memory + "/memory.failcnt"))
    )
    return Counters(
        oom_kills=oom_kills, limit_reached=limit_reached, peak_bytes=peak_bytes, peak_source="kernel counter"
    )


def _session_directory(controller: str, session: str) -> str:
    base = base_directory(controller)
    if base is None:
        raise LimiterUnavailableError(errno.ENODEV, f"cgroup v1: no {controller} hierarchy is mounted here")
    directory = f"{base}/{session}"
    try:
        Path(directory).mkdir(exist_ok=True)
    except OSError as refused:
        raise LimiterUnavailableError(
            refused.errno, f"cgroup v1: {base} may not be written ({refused.strerror})"
        ) from refused
    if controller == "memory" and read_number(directory + "/memory.use_hierarchy") == 0:
        write(directory + "/memory.use_hierarchy", "1")  # before kernel 5.11 groups below would escape the limit
    return directory


def _pids_directory(session: str) -> tuple[str | None, int]:
    """Make and limit the session's pids group; return it (``None`` where this is not allowed) and an attempt's share.

    It limits only the number of processes, so a machine without it works as Linux usually does.
    """
    above = own("pids")
    if above is None:
        return None, 0
    directory = f"{above[0]}/{session}"
    session_most, each = shares(*above)
    try:
        Path(directory).mkdir(exist_ok=True)
        write(directory + "/pids.max", str(session_most))
        _prove(directory, lambda proof: write(proof + "/pids.max", str(each)))
    except OSError:
        clear(directory)
        return None, 0
    return directory, each


def _prove(session_directory: str, limit: Callable[[str], None]) -> None:
    directory = f"{session_directory}/fnb-proof-{os.getpid()}"
    Path(directory).mkdir()
    try:
        limit(directory)
        prove_entry([directory])
    finally:
        remove_tree(directory)


def _limit_memory(directory: str, memory_bytes: int | None) -> None:
    if Path(directory + "/memory.swappiness").exists():
        write(directory + "/memory.swappiness", "0")
    if memory_bytes is None:
        return
    write(directory + "/memory.limit_in_bytes", str(memory_bytes))
    if Path(directory + "/memory.memsw.limit_in_bytes").exists():  # missing with swapaccount=0
        write(directory + "/memory.memsw.limit_in_bytes", str(memory_bytes))  # second: it must not be the lower one


def _set_alarm(alarm: int, directory: str, memory_bytes: int | None) -> None:
    """Have the kernel report when usage with page cache passes the last parts of the limit; not all kernels can.

    Each part takes 15 to 30 ms: the kernel waits until the previous table is no longer in use (``synchronize_rcu``).
    Source: kernel Documentation/admin-guide/cgroup-v1/memory.rst, section 9.
    """
    if memory_bytes is None:
        return
    with contextlib.suppress(OSError):
        usage = os.open(directory + "/memory.usage_in_bytes", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for part in ALARM_AT:
                write(directory + "/cgroup.event_control", f"{alarm} {usage} {int(part * memory_bytes)}")
        finally:
            os.close(usage)


def _limit_cpu(directory: str, cores: float) -> None:
    write(directory + "/cpu.cfs_period_us", str(CPU_PERIOD_US))
    try:
        write(directory + "/cpu.cfs_quota_us", str(quota_us(cores)))
    except OSError as refused:
        if refused.errno != errno.EINVAL:
            raise
        # More than a group above allows: then that group's quota is the limit, and the kernel enforces it.
