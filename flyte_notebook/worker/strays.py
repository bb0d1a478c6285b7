"""Processes that an attempt has left behind, wherever they hid: daemons of it fall to the supervisor with its worker.

A worker is the subreaper of what it starts (prctl(2)), as the first process of a container is: a daemon, which lost its
parent and may have left its terminal session and its environment, becomes a child of the worker, and of the supervisor
when the worker is gone. So a child of the supervisor that is neither a worker nor one of its own helpers belongs to an
attempt that is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.limiters.processes import listed, stat

if TYPE_CHECKING:
    from collections.abc import Container

PR_SET_CHILD_SUBREAPER = 36
MOST_ROUNDS = 50
"""How often one `end` looks again: some fork while they are being killed."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether the kernel lists the children of a process (CONFIG_PROC_CHILDREN)."""


def keep_children() -> None:
    """Become the parent of whatever loses its own among what this process starts. Linux only: elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def now_ticks() -> int:
    """Return the time since boot in the unit of the start of a process in ``/proc/PID/stat`` (proc(5)). Linux only."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S) if sys.platform == "linux" else 0


def end(known: Container[int | None], *, before_ticks: int | None) -> bool:
    """Kill each child of this process that is not known, and all below it; return whether one is left. Linux only.

    One that began at ``before_ticks`` or later may be on its way to become known, and is left for the next time.
    """
    later = False
    for _ in range(MOST_ROUNDS if sys.platform == "linux" else 0):
        later, found = False, False
        for pid in _children(os.getpid()):
            origin = None if pid in known else stat(pid)
            if origin is None or origin.state in "ZX":
                continue
            if before_ticks is not None and origin.start_ticks >= before_ticks:
                later = True
            else:
                found = True
                _kill_tree(pid)
        if not found:
            return later
    return sys.platform == "linux"


def _kill_tree(top: int) -> None:
    """Stop them from the top down, so that nobody forks any more, then kill them."""
    tree = [top]
    for pid in tree:
        _send(pid, signal.SIGSTOP)
        tree += _children(pid)
    for pid in tree:
        _send(pid, signal.SIGKILL)


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
