"""The limits on the group of a session: on processes and threads (`shares`), and on memory (`Room`).

A fork bomb affects only its own task: the session gets half of the number of processes left above it, and each attempt
half of that, so that the notebook and the other attempts can still start processes. Read once, when the session begins.
Source: kernel Documentation/admin-guide/cgroup-v1/pids.rst; the pids controller is the same in version 2.
"""

from __future__ import annotations

import contextlib

from flyte_notebook.limiters import machine
from flyte_notebook.limiters.control_groups import upwards
from flyte_notebook.limiters.kernel_files import read, read_number, write

MOST = 4096
"""The maximum for one attempt on any machine: far more than any pool of workers needs."""

LEAST = 64
"""The minimum for one attempt: an interpreter with the threads of its libraries."""


def shares(directory: str, point: str) -> tuple[int, int]:
    """Return the limits of a session under the group ``directory``, and of each of its attempts."""
    left = min([_machine_left(), *_left_in_groups(directory, point)])
    session = max(2 * LEAST, left // 2)
    return session, min(MOST, session // 2)


def _left_in_groups(directory: str, point: str) -> list[int]:
    found = []
    for place in upwards(directory, point):
        most = read_number(place + "/pids.max")
        if most is not None:
            found.append(most - (read_number(place + "/pids.current") or 0))
    return found


def _machine_left() -> int:
    """Return how many more processes and threads the machine allows (proc(5), kernel/pid_max, kernel/threads-max)."""
    bounds = [read_number(f"/proc/sys/kernel/{name}") for name in ("pid_max", "threads-max")]
    # The fourth field of /proc/loadavg: running and existing ones, with a slash in between.
    existing = int((read("/proc/loadavg") or "0 0 0 0/0").split()[3].partition("/")[2])
    return min((bound for bound in bounds if bound is not None), default=MOST) - existing


SPARE_BYTES = 8 << 20
"""The memory reserved for the notebook's kernel and the supervisor between two calls of `Room.keep`."""

STEP_BYTES = 1 << 20
"""Smaller changes are not written."""


class Room:
    """Limits all tasks together to the memory left in the groups above, where these are limited (a container).

    When a group above us runs out, the kernel kills a process anywhere below it, by size and ``oom_score_adj``. A task
    has the highest score, but the kernel skips a killed process with several threads that is still releasing its memory
    (its main thread counts as ended while another thread frees the memory). If memory runs out again in those
    milliseconds, it kills the next larger process: the notebook's kernel. Measured: 1 in 50. With a limit on the
    session's own group, a little below the memory left above, only the tasks run out of memory.

    ``usage_file`` and ``limit_file`` are that group's.
    """

    def __init__(self, usage_file: str, limit_file: str) -> None:
        self._usage_file = usage_file
        self._limit_file = limit_file
        self._held_bytes = 0

    def keep(self) -> None:
        """Set the limit to the usage of the tasks plus the memory left above them; takes 0.2 ms. Never raises.

        Memory that tasks allocate or release between two readings (this process may have to wait for a core) must not
        be counted both as used and as left: so the usage is read before and after.
        """
        before_bytes = read_number(self._usage_file)
        left_bytes = machine.left_above_bytes()
        usage_bytes = read_number(self._usage_file)
        if before_bytes is None or left_bytes is None or usage_bytes is None:
            return
        wanted_bytes = max(usage_bytes, min(before_bytes, usage_bytes) + left_bytes - SPARE_BYTES)
        if abs(wanted_bytes - self._held_bytes) < STEP_BYTES:
            return
        # Version 1 refuses a limit below the current usage; the next call tries again.
        with contextlib.suppress(OSError):
            write(self._limit_file, str(wanted_bytes))
            self._held_bytes = wanted_bytes
