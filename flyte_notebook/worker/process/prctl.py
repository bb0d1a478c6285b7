"""What a process asks the kernel for itself (prctl(2)): its name, its end with its parent, orphans. Linux only."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_GET_NAME: Final = 16
_PR_SET_CHILD_SUBREAPER: Final = 36
_NAME_BYTES: Final = 16
_libc: Final = ctypes.CDLL(None)


def name() -> bytes:
    """Return what the kernel calls this thread, at most 15 bytes."""
    found = ctypes.create_string_buffer(_NAME_BYTES)
    _libc.prctl(_PR_GET_NAME, found)
    return found.value


def set_name(name: bytes) -> None:
    """Have the kernel call this thread so, cut to 15 bytes; ``ps -o comm`` shows it."""
    _libc.prctl(_PR_SET_NAME, name)


def end_with_parent(signal: int) -> None:
    """Get this signal when the parent ends. Elsewhere than on Linux nothing happens."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal)


def keep_orphans() -> None:
    """Become the parent of each process below this one that loses its own. Elsewhere than on Linux nothing happens."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
