"""How much a process asks for at once: what one allocation adds to its address space, before any page of it is used.

The kernel promises memory when it is asked for and gives it page by page, so a task that is killed at its limit in the
middle of filling a large allocation has said how large that is: the private writable part of its address space (sixth
field of ``/proc/PID/statm``, proc(5)) grew by it at once, while its usage only began to. Read in some microseconds, and
without the lock that a fork may hold. Nothing is known elsewhere than on Linux, and of child processes.
"""

from __future__ import annotations

import os
from typing import Final

LEAST_BYTES: Final = 32 << 20
"""Less at once may be a thread's stack, or the heap as it grows."""
EVERY_S: Final = 0.004
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_DATA_FIELD: Final = 5


class AllocationProbe:
    """The last large allocation of one process that it still holds."""

    def __init__(self, pid: int | None) -> None:
        self._path = None if pid is None else f"/proc/{pid}/statm"
        self.begin(0)

    def begin(self, used_bytes: int) -> None:
        """Start anew, for an attempt that begins now with this usage."""
        self._due_s = float("-inf")
        self._used_bytes = used_bytes
        self._data_bytes: int | None = None
        self._held_bytes = 0
        self._last: tuple[int, int] | None = None

    def look(self, now: float, used_bytes: int, *, moved: bool = True) -> None:
        """Compare with the last look. Only where memory ``moved``: what nobody fills costs nothing."""
        if not moved or now < self._due_s:
            return
        data_bytes = self._read()
        if not data_bytes:  # it is gone, or going: then it has nothing any more
            return
        self._due_s = now + EVERY_S
        if self._last is not None and data_bytes < self._held_bytes - self._last[0] // 2:
            self._last = None  # it was given back
        if self._data_bytes is not None and data_bytes - self._data_bytes >= LEAST_BYTES:
            self._last, self._held_bytes = (data_bytes - self._data_bytes, self._used_bytes), data_bytes
        self._data_bytes, self._used_bytes = data_bytes, used_bytes

    @property
    def last(self) -> tuple[int, int] | None:
        """Its size and what was in use before it, in bytes; ``None`` when there was none."""
        return self._last

    def _read(self) -> int | None:
        if self._path is None:
            return None
        try:
            with open(self._path, "rb", buffering=0) as file:
                return int(file.read(200).split()[_DATA_FIELD]) * _PAGE_BYTES
        except (OSError, IndexError, ValueError):  # it is gone, or there is no /proc
            return None
