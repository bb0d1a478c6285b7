"""How much memory a process and its children use, over time; in a process of its own beside a task in a pod."""

from __future__ import annotations

import os
from typing import Any

from flyte_notebook.core.bound import clock_s, monotonic_s, open_file, sleep_s
from flyte_notebook.sdk.cluster import tagged

INTERVAL_S = 0.02
STEP_BYTES = 1 << 20
"""A sample is told at once when memory has changed by that much, or by a hundredth."""

HEARTBEAT_S = 1.0
"""After which time a sample is told although nothing changed; five times that after a minute."""

_CALM_AFTER_S = 60.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def used_bytes(pid: int) -> int:
    """Return the memory of a process and those that it started, less what they share with files; 0 when it is gone.

    The process that asks is left out, unless it asks about itself.
    """
    pids = [pid]
    for one in pids:
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                with open_file(f"/proc/{one}/task/{thread}/children", "rb") as file:
                    pids += map(int, file.read().split())
        except (OSError, ValueError):
            continue  # it has just ended
    return sum(_own_bytes(one) for one in pids if one == pid or one != os.getpid())


def _own_bytes(pid: int) -> int:
    try:
        with open_file(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * _PAGE_BYTES


def record(pid: int) -> dict[str, Any]:
    """Return the record of a sample: seconds since 1970, and bytes."""
    return {"sample": [round(clock_s(), 3), used_bytes(pid)]}


def sample(pid: int) -> None:
    """Write samples of the parent of this process until it ends."""
    began_s, told_s, told_bytes = monotonic_s(), float("-inf"), 0
    while os.getppid() == pid:
        now_s, found = monotonic_s(), record(pid)
        used = found["sample"][1]
        calm_s = HEARTBEAT_S if now_s - began_s < _CALM_AFTER_S else 5 * HEARTBEAT_S
        if used and (abs(used - told_bytes) >= max(STEP_BYTES, told_bytes // 100) or now_s - told_s >= calm_s):
            tagged.write(found)
            told_s, told_bytes = now_s, used
        sleep_s(INTERVAL_S)
