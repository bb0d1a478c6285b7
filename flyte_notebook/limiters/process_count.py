"""How many processes and threads a session and each of its attempts may have: a fork bomb stays inside its task.

Half of what is left above goes to the session, and half of that to each attempt, so that neither the notebook nor the
attempts beside it are left without. Read once, when the session begins. Source: kernel
Documentation/admin-guide/cgroup-v1/pids.rst; the pids controller is the same in version 2.
"""

from __future__ import annotations

from flyte_notebook.limiters.control_groups import upwards
from flyte_notebook.limiters.kernel_files import read, read_number

MOST = 4096
"""What one attempt may have however large the machine is: far more than any pool of workers needs."""

LEAST = 64
"""What one attempt may have however little is left: an interpreter with the threads of its libraries."""


def shares(directory: str, point: str) -> tuple[int, int]:
    """Return what a session under the group ``directory``, and what each of its attempts, may have."""
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
    """Return how many more processes and threads the machine takes (proc(5), kernel/pid_max, kernel/threads-max)."""
    bounds = [read_number(f"/proc/sys/kernel/{name}") for name in ("pid_max", "threads-max")]
    # The fourth field of /proc/loadavg: running and existing ones, with a slash in between.
    existing = int((read("/proc/loadavg") or "0 0 0 0/0").split()[3].partition("/")[2])
    return min((bound for bound in bounds if bound is not None), default=MOST) - existing
