"""Settings of a process by prctl(2): its name, its end with its parent, adopting orphans. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Final

EXIT_LOST = 70
"""The status of a process whose kernel or supervisor has ended."""

PARENT_BOUND_S = 5.0
LOOK_EVERY_S = 0.0002

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_GET_NAME: Final = 16
_PR_SET_CHILD_SUBREAPER: Final = 36
_NAME_BYTES: Final = 16
_libc: Final = ctypes.CDLL(None)


def name() -> bytes:
    """Return the name of this thread in the operating system, at most 15 bytes."""
    found = ctypes.create_string_buffer(_NAME_BYTES)
    _libc.prctl(_PR_GET_NAME, found)
    return found.value


def set_name(name: bytes) -> None:
    """Set the name of this thread, cut to 15 bytes; ``ps -o comm`` shows it."""
    _libc.prctl(_PR_SET_NAME, name)


def end_with_parent(number: int) -> None:
    """Get this signal when the parent ends. Does nothing on other systems than Linux."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, number)


def keep_orphans() -> None:
    """Become the parent of each descendant that loses its own. Does nothing on other systems than Linux."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def depend_on(pid: int, *, after: int | None = None) -> None:
    """End with that process, which is the parent or will be it; ``after`` is the parent that ends first, if known.

    Other systems than Linux have no such call, and there none of our processes has a parent that ends first.
    """
    if sys.platform != "linux":
        return
    until_s = time.monotonic() + PARENT_BOUND_S
    while (parent := os.getppid()) != pid:
        if time.monotonic() > until_s or (after is not None and parent != after):
            os._exit(EXIT_LOST)
        time.sleep(LOOK_EVERY_S)
    end_with_parent(signal.SIGKILL)
    if os.getppid() != pid:
        os._exit(EXIT_LOST)
