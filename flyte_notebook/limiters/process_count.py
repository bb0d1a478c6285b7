"""The limits on processes and threads of a session and of each attempt: a fork bomb affects only its own task.

The session gets half of the number left above it, and each attempt half of that, so that the notebook and the other
attempts can still start processes. Read once, when the session begins. Source: kernel
Documentation/admin-guide/cgroup-v1/pids.rst; the pids controller is the same in version 2.
"""

from __future__ import annotations

from flyte_notebook.limiters.control_groups import upwards
from flyte_notebook.limiters.kernel_files import read, read_number

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
