"""The limit without control groups: measure every 5 ms, and kill above the limit.

It is weaker than the kernel's limit, and the user is told so: between two looks a task may exceed it by about 100 MiB.
It measures memory of the processes (see `flyte_notebook.limiters.processes`); files in memory (tmpfs) that no process
maps are not counted. Forked children share pages with their parent until one of them writes; the quick sum counts such
pages once per process. So with more than one process a quick sum above the limit is only a suspicion, and an exact look
(each page divided by its users) has to confirm it. An exact look is expensive, 8 us per MiB, so it is done only when it
can matter, and never takes more than a fifth of the time.
"""

from __future__ import annotations

import errno
import sys
import time
from typing import TYPE_CHECKING

from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.limiters import affinity
from flyte_notebook.limiters.base import Counters, LimiterUnavailableError
from flyte_notebook.limiters.kernel_files import parse_counts, read
from flyte_notebook.limiters.processes import PROC, LinuxProcesses

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flyte_notebook.limiters.portable import PsutilProcesses
    from flyte_notebook.limiters.processes import Member, Table

GROWTH_BYTES_PER_S = 4 << 30
"""Tasks do not write to fresh or shared pages faster than this; far from the limit no exact look is needed."""
LOOK_SHARE = 4
"""The pause after an exact look is at least this many times its duration."""
LOOK_BOUND_S = 0.1
"""How long an exact look may take, plus `LOOK_S_PER_BYTE`; one that takes longer waits for forking processes."""
LOOK_S_PER_BYTE = 20e-6 / (1 << 20)
IDLE_LOOK_SHARE = 50
IDLE_LOOK_S = 0.25
STOP_PASSES = 200
"""How often one `kill` looks for processes that were forked meanwhile; each time fewer processes can fork."""


class Watchdog:
    """Groups whose limits are enforced by polling."""

    def __init__(self, session: str) -> None:
        """Open the table. Raises `LimiterUnavailableError` without ``/proc`` and psutil."""
        self._table = process_table(session)
        self._cpus = affinity.Cpus()
        self._groups: list[WatchdogGroup] = []
        self.enforcement = Enforcement(memory="watchdog", cpu="affinity" if affinity.AVAILABLE else "none")

    def group(self, name: str, limits: Limits) -> WatchdogGroup:
        """Make the group of one attempt."""
        group = WatchdogGroup(name, limits, self._table, self._cpus)
        self._groups = [known for known in self._groups if not known.removed] + [group]
        return group

    def keep_room(self) -> None:
        """Do nothing: without a control group the kernel cannot limit them together."""

    def close(self) -> None:
        """Kill the rest of every group, for 2 s at most, and drop all data. Idempotent."""
        give_up = time.monotonic() + 2.0
        left = [group for group in self._groups if not group.removed]
        while left and time.monotonic() < give_up:
            for group in left:
                group.kill()
            left = [group for group in left if not group.empty()]
            time.sleep(0.002 if left else 0)
        self._groups = []
        self._table.close()


class WatchdogGroup:
    """One attempt: a set of processes, which grows when they start others."""

    procs_files: tuple[str, ...] = ()
    alarm: int | None = None

    def __init__(self, name: str, limits: Limits, table: Table, cpu_allocator: affinity.Cpus) -> None:
        self._name = name
        self._limit_bytes = limits.memory_bytes
        self._table = table
        self._cpu_allocator = cpu_allocator
        self.cpus = cpu_allocator.take(limits.cpu_cores)
        self._pid: int | None = None
        self._over = self._was_over = False
        self._twice_bytes = 0  # the memory that the quick sum counted more than once, at the last exact look
        self._seen: dict[int, int] = {}
        """The processes of the last exact look, and how much of each counts until the next one.

        A process that is new at a look may still be being copied: pages that it gets after that are shared, so it
        counts with its memory at the look.
        """
        self._look_again_s = self._look_by_s = 0.0
        self._machine_kills_before = _machine_oom_kills()
        self._last_counters = Counters()
        self.poll_interval_s = table.poll_interval_s if limits.memory_bytes is not None else None
        self.removed = False

    def attach(self, pid: int) -> None:
        """Set the first process; the processes that it starts are found."""
        self._pid = pid
        self._table.adopt(pid, self._name)

    def holds(self, pid: int) -> bool:  # noqa: ARG002 - of the protocol
        """Return True: no process can leave the group."""
        return True

    def assign(self, name: str, limits: Limits) -> None:
        """Give the processes a new name, and enforce limits on them from now on."""
        self._table.forget(self._name)
        self._name = name
        if self._pid is not None:
            self._table.adopt(self._pid, name)
        self._limit_bytes = limits.memory_bytes
        self.poll_interval_s = self._table.poll_interval_s if limits.memory_bytes is not None else None
        self.cpus = self._cpu_allocator.take(limits.cpu_cores)
        affinity.bind(self.cpus, self._pid or 0)

    def sample(self) -> int:
        """Return the bytes in use: anonymous and shared memory of all processes."""
        self._table.refresh()
        members = self._table.members(self._name)
        used = {member.pid: quick for member in members if (quick := member.quick_bytes())}
        quick_bytes = sum(used.values())
        if len(used) > 1:
            return self._with_shared([member for member in members if member.pid in used], used)
        self._twice_bytes = 0
        self._seen = dict.fromkeys(used, sys.maxsize)
        self._judge(quick_bytes)
        return quick_bytes

    def set_alarm(self) -> None:
        """Do nothing: this mechanism has no alarm."""

    def exceeded(self) -> bool:
        """Whether the last sample was certainly above the limit."""
        return self._over

    def counters(self) -> Counters:
        """Return whether the limit was passed, and how many processes the machine's kernel killed meanwhile."""
        if not self.removed:
            rise = _machine_oom_kills() - self._machine_kills_before
            self._last_counters = Counters(limit_reached=self._was_over, machine_oom_kills=max(0, rise))
        return self._last_counters

    def kill(self) -> None:
        """Send SIGKILL to every process, including those found meanwhile.

        All are stopped first: else a fork bomb would fork a new process for each killed one.
        """
        stopped: set[int] = set()
        for _ in range(STOP_PASSES):
            self._table.refresh(full=True)
            new = [member for member in self._table.members(self._name) if member.pid not in stopped]
            if not new:
                break
            for member in new:
                member.stop()
            stopped.update(member.pid for member in new)
        for member in self._table.members(self._name):
            member.kill()

    def empty(self) -> bool:
        """Whether all processes have ended."""
        self._table.refresh(full=True)
        return not any(member.alive() for member in self._table.members(self._name))

    def alone(self, pid: int) -> bool:
        """Whether all other processes have ended."""
        self._table.refresh(full=True)
        return not any(member.alive() for member in self._table.members(self._name) if member.pid != pid)

    def pids(self) -> list[int]:
        """Return the processes found so far."""
        return [member.pid for member in self._table.members(self._name)]

    def remove(self) -> None:
        """Drop the data. Idempotent; raises OSError (EBUSY) when a process still runs."""
        if self.removed:
            return
        if not self.empty():
            raise OSError(errno.EBUSY, "processes of the attempt are still alive", self._name)
        self.counters()
        self.removed = True
        self._table.forget(self._name)
        self._cpu_allocator.give_back(self.cpus)

    def _with_shared(self, members: Sequence[Member], used: Mapping[int, int]) -> int:
        """Return the memory certainly in use: the exact sum if one is due, else an estimate from the last exact sum.

        All pages of a process that started since then may be shared.
        """
        now = time.monotonic()
        seen, quick_bytes = frozenset(used), sum(used.values())
        known_bytes = sum(min(size, self._seen.get(pid, 0)) for pid, size in used.items())
        used_bytes = max(*used.values(), known_bytes - self._twice_bytes)
        wanted = now >= self._look_by_s or seen != self._seen.keys()
        accused = self._limit_bytes is not None and quick_bytes - self._twice_bytes > self._limit_bytes
        if now < self._look_again_s or not (wanted or accused):
            self._over = False  # not proven
            return used_bytes
        exact_bytes = _exact_bytes(members, self._seen.keys(), bound_s=LOOK_BOUND_S + LOOK_S_PER_BYTE * quick_bytes)
        if exact_bytes is None:
            self._over = False
            self._look_again_s = time.monotonic() + LOOK_SHARE * (time.monotonic() - now)
            return used_bytes
        if self._came_or_went(members):  # the first and the last process read had other sharers of pages
            self._judge(exact_bytes)
            return min(used_bytes, exact_bytes)
        self._seen = {pid: sys.maxsize if pid in self._seen else size for pid, size in used.items()}
        self._twice_bytes = max(0, quick_bytes - exact_bytes)
        self._judge(exact_bytes)
        self._plan(exact_bytes, quick_bytes, cost_s=time.monotonic() - now)
        return exact_bytes

    def _came_or_went(self, members: Sequence[Member]) -> bool:
        """Whether processes have started or ended during the look."""
        self._table.refresh()
        now = {member.pid for member in self._table.members(self._name) if member.quick_bytes()}
        return now != {member.pid for member in members}

    def _plan(self, used_bytes: int, quick_bytes: int, *, cost_s: float) -> None:
        """Set the earliest and the latest time of the next exact look."""
        now = time.monotonic()
        self._look_again_s = now + LOOK_SHARE * cost_s
        wait_s = max(IDLE_LOOK_S, IDLE_LOOK_SHARE * cost_s)
        if self._limit_bytes is not None and quick_bytes > self._limit_bytes:
            # Writing to a shared page makes it two pages, but the quick sum does not change.
            wait_s = min(wait_s, (self._limit_bytes - used_bytes) / GROWTH_BYTES_PER_S)
        self._look_by_s = now + max(wait_s, LOOK_SHARE * cost_s)

    def _judge(self, used_bytes: int) -> None:
        self._over = self._limit_bytes is not None and used_bytes > self._limit_bytes
        self._was_over = self._was_over or self._over


def _exact_bytes(members: Sequence[Member], known: Collection[int], *, bound_s: float) -> int | None:
    """Return the exact sum, or ``None`` if it takes longer: the time limits of the attempts must not wait for it.

    The kernel does not let us read a process that is just being copied, and a fork bomb consists of such processes. Its
    memory is still its parent's, so it counts as zero unless it was ``known`` before.
    """
    until_s = time.monotonic() + bound_s
    used_bytes = 0
    for member in members:
        exact_bytes = member.exact_bytes()
        refused_bytes = (member.quick_bytes() or 0) if exact_bytes is None and member.pid in known else 0
        used_bytes += refused_bytes if exact_bytes is None else exact_bytes
        if time.monotonic() > until_s:
            return None
    return used_bytes


def process_table(session: str) -> LinuxProcesses | PsutilProcesses:
    """Return the table for this machine. Raises `LimiterUnavailableError` where there is none."""
    try:
        if PROC:
            return LinuxProcesses(session)
        from flyte_notebook.limiters.portable import PsutilProcesses  # noqa: PLC0415 - psutil is loaded where it is used

        return PsutilProcesses(session)
    except (ImportError, OSError) as missing:
        raise LimiterUnavailableError(errno.ENOSYS, f"watchdog: processes cannot be seen here: {missing}") from missing


def _machine_oom_kills() -> int:
    return parse_counts(read("/proc/vmstat") or "").get("oom_kill", 0)
