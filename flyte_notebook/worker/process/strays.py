"""Ends processes that an attempt has left behind, daemons included: they become children of the supervisor.

Without control groups a worker is the subreaper of its descendants (prctl(2)), as the first process of a container is:
a daemon, which lost its parent and may have changed its terminal session and its environment, becomes a child of the
worker, and of the supervisor when the worker has ended. So a child of the supervisor that is neither a worker nor one
of its own helpers belongs to an attempt that is over.

A worker does not collect such children: an ended one remains a zombie until the worker ends. In a control group zombies
would count against the number of processes that a task may have, and no process can leave the group: so there a worker
is no subreaper.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.limiters.processes import listed, stat

MOST_ROUNDS = 50
"""How often one `end` looks again: processes may fork while they are being killed."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""The clock of the start times in ``/proc/PID/stat``, which counts from boot (proc(5))."""
PROC_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether the kernel lists the children of a process (CONFIG_PROC_CHILDREN)."""


class Own(NamedTuple):
    """Children that are not strays: the known pids, and the time since when children with unknown pids may exist."""

    pids: set[int | None]
    unborn_since_s: float = float("inf")


def end(*own: Own) -> bool:
    """Kill each other child of this process, with its descendants; return whether one may be left.

    All are stopped first, so that none can fork when the first is killed.
    """
    if sys.platform != "linux":
        return False
    known = set[int | None]().union(*(some.pids for some in own))
    unborn_s = min(some.unborn_since_s for some in own) - monotonic_s() + time.clock_gettime(time.CLOCK_BOOTTIME)
    living: list[tuple[int, int]] = []
    stopped: set[int] = set()
    for _ in range(MOST_ROUNDS):
        others = [(pid, stat(pid)) for pid in _children(os.getpid()) if pid not in known]
        living = [(pid, found.start_ticks) for pid, found in others if found is not None and found.state not in "ZX"]
        new = [pid for pid, start_ticks in living if start_ticks + 1 < unborn_s * TICKS_PER_S and pid not in stopped]
        for pid in new:
            _send(pid, signal.SIGSTOP)
            new += _children(pid)
        if not new:
            break
        stopped.update(new)
    for pid in stopped:
        _send(pid, signal.SIGKILL)
    return bool(living)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it ended meanwhile; a child of ours keeps its pid until we wait for it
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    if not PROC_CHILDREN:
        return [child for child in listed() if (origin := stat(child)) is not None and origin.ppid == pid]
    try:
        with os.scandir(f"/proc/{pid}/task") as threads:
            return [int(child) for thread in threads for child in Path(thread.path, "children").read_text().split()]
    except OSError:
        return []  # it ended
