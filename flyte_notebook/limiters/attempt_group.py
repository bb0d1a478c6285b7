"""The control groups of one attempt, for both versions: making, joining, measuring, killing, removing."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.limiters import affinity
from flyte_notebook.limiters.base import Counters
from flyte_notebook.limiters.control_groups import kill_all, processes, remove_tree
from flyte_notebook.limiters.kernel_files import read, write
from flyte_notebook.limiters.processes import ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flyte_notebook.core.limits import Limits
    from flyte_notebook.limiters.control_groups import Meter


@contextlib.contextmanager
def fresh(directories: Sequence[str]) -> Iterator[None]:
    """Make the directories of an attempt; they are removed again if the kernel refuses the settings in the block.

    Raises OSError, FileExistsError among others: a group that existed before belongs to another program, and is kept.
    """
    made: list[str] = []
    try:
        for directory in directories:
            Path(directory).mkdir()
            made.append(directory)
        yield
    except OSError:
        for directory in made:
            remove_tree(directory)
        raise


class AttemptGroup:
    """All processes of one attempt: one directory per hierarchy, the first of them with the memory.

    ``count`` reads the counters of this version; ``None`` once the group is removed. ``limit`` sets the limits in this
    version's files, and returns the cores to enforce by affinity: ``None`` where a control group enforces them or there
    is no limit. ``set_alarm`` has the kernel make an event's descriptor readable near the limit.
    """

    poll_interval_s: float | None = None

    def __init__(  # noqa: PLR0913 - one mechanism in parts, each by name
        self,
        directories: Sequence[str],
        *,
        meter: Meter,
        count: Callable[[], Counters | None],
        limit: Callable[[Limits], float | None],
        limits: Limits,
        cpu_allocator: affinity.Cpus,
        set_alarm: Callable[[int], None] | None = None,
    ) -> None:
        self.alarm = None if set_alarm is None else os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._set_alarm = set_alarm
        self._directories = tuple(directories)
        self.procs_files = tuple(f"{directory}/cgroup.procs" for directory in directories)
        self._meter = meter
        self._count = count
        self._limit = limit
        self._cpu_allocator = cpu_allocator
        self._pid: int | None = None
        self._last_counters = Counters()
        self._home: tuple[str, ...] = ()
        try:
            self.cpus = cpu_allocator.take(limit(limits))
        except OSError:
            meter.close()
            self._close_alarm()
            raise

    def assign(self, name: str, limits: Limits) -> None:  # noqa: ARG002 - a directory keeps its name
        """Set the limits of a group that had none. Raises OSError when the kernel refuses."""
        self.cpus = self._cpu_allocator.take(self._limit(limits))
        affinity.bind(self.cpus, self._pid or 0)

    def attach(self, pid: int) -> None:
        """Remember the first process, and its group now: it is inside."""
        self._pid = pid
        names = tuple(directory.rpartition("/")[2] for directory in self._directories)
        lines = (read(f"/proc/{pid}/cgroup") or "").splitlines()
        self._home = tuple(line for line in lines if line.endswith(names))

    def holds(self, pid: int) -> bool:
        """Whether the process is in the same group, or below: 15 us. Version 1 shows an ending process at the top."""
        lines = (read(f"/proc/{pid}/cgroup") or "").splitlines()
        inside = all(any(line.startswith(home) for line in lines) for home in self._home)
        return inside or ending(pid)

    def sample(self) -> int:
        """Return the bytes in use less page cache; takes 10 us, 35 with cold caches."""
        return self._meter.read()

    def set_alarm(self) -> None:
        """Set up the kernel's notification, where there is a limit and the kernel supports it."""
        alarm = self.alarm
        if alarm is not None and self._set_alarm is not None:
            self._set_alarm(alarm)

    def exceeded(self) -> bool:
        """Return False: the kernel holds the limit."""
        return False

    def counters(self) -> Counters:
        """Read kills and peak; takes 0.1 ms. Kills in groups that the task made below its own count too."""
        counted = self._count()
        if counted is not None:  # else the group is removed: use the last reading
            self._last_counters = replace(counted, page_cache_bytes=self._meter.page_cache_bytes)
        return self._last_counters

    def kill(self) -> None:
        """Send SIGKILL to every process in the group and below."""
        for directory in self._directories:
            with contextlib.suppress(OSError):  # not a pids group
                write(directory + "/pids.max", "0")  # no process can be forked while the signals are being sent
            kill_all(directory)

    def empty(self) -> bool:
        """Whether no process is left; the kernel does not list zombies."""
        return not any(processes(directory) for directory in self._directories)

    def alone(self, pid: int) -> bool:
        """Whether the kernel lists no other process."""
        return all(set(processes(directory)) <= {pid} for directory in self._directories[:1])

    def pids(self) -> list[int]:
        """Return the processes that the kernel lists."""
        return processes(self._directories[0])

    def remove(self) -> None:
        """Remove the directories. Idempotent; raises OSError (EBUSY) when a process is still inside."""
        self.counters()
        for directory in self._directories:
            remove_tree(directory)
        self._meter.close()
        self._close_alarm()
        self._cpu_allocator.give_back(self.cpus)
        self.cpus = frozenset()

    def _close_alarm(self) -> None:
        alarm, self.alarm = self.alarm, None
        if alarm is not None:
            os.close(alarm)
