"""The size of one allocation, seen as growth of the process's address space before its pages are used.

The kernel reserves memory at the request and provides it page by page. So if a task is killed at its limit while it
fills a large allocation, its size is known: the private writable part of the address space (sixth field of
``/proc/PID/statm``, proc(5)) grew by it at once, while usage only began to grow. Reading the field takes some
microseconds, and does not need the lock that a fork may hold. It works on Linux only, and not for child processes.
"""

from __future__ import annotations

import os
from typing import Final

LEAST_BYTES: Final = 32 << 20
"""A smaller growth may be a thread's stack, or the growing heap."""
RESERVED_BYTES: Final = 256 << 20
"""A growth of this size may be an arena that an allocator reserved, 1 GiB for example, to use it bit by bit."""

EVERY_S: Final = 0.004
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_DATA_FIELD: Final = 5


class AllocationProbe:
    """The last large allocation of one process that it still holds."""

    def __init__(self, pid: int | None) -> None:
        self._path = None if pid is None else f"/proc/{pid}/statm"
        self._maps = f"/proc/{pid}/smaps"
        self.begin(0)

    def begin(self, used_bytes: int) -> None:
        """Start again, for an attempt that begins now with this usage."""
        self._due_s = float("-inf")
        self._used_bytes = used_bytes
        self._data_bytes: int | None = None
        self._held_bytes = self._reserved_bytes = 0
        self._last: tuple[int, int] | None = None

    def look(self, now: float, used_bytes: int, *, moved: bool = True) -> None:
        """Compare with the last sample. Only if memory ``moved``: an allocation that is not filled needs no memory."""
        if not moved or now < self._due_s:
            return
        data_bytes = self._read()
        if not data_bytes:  # it has ended, or is ending: then it holds no memory
            return
        self._due_s = now + EVERY_S
        if self._last is not None and data_bytes < self._held_bytes - self._last[0] // 2:
            self._last = None  # it was freed
        grew_bytes = 0 if self._data_bytes is None else data_bytes - self._data_bytes
        if grew_bytes >= RESERVED_BYTES:
            reserved_bytes = self._read_reserved()
            if reserved_bytes is None:
                grew_bytes = 0  # it ended since: nobody knows whether this was a request
            else:
                grew_bytes -= max(0, reserved_bytes - self._reserved_bytes)
                self._reserved_bytes = reserved_bytes
        if grew_bytes >= LEAST_BYTES:
            self._last, self._held_bytes = (grew_bytes, self._used_bytes), data_bytes
        self._data_bytes, self._used_bytes = data_bytes, used_bytes

    @property
    def last(self) -> tuple[int, int] | None:
        """Its size and the usage before it, in bytes; ``None`` when there was none."""
        return self._last

    def _read_reserved(self) -> int | None:
        """Return the size of large writable mappings without swap reservation (``MAP_NORESERVE``): no request.

        Their flag in ``/proc/PID/smaps`` is ``nr``, proc(5). Small ones are the heaps of threads, which are in use.
        Reading takes some milliseconds. Of a process that is killed meanwhile the file has no line, and this returns
        ``None``; or it is cut off, and then the reserved mappings before the cut count: allocators choose low addresses
        for them, and the file begins there.
        """
        size_bytes = found_bytes = 0
        empty = True
        try:
            with open(self._maps, "rb") as file:
                for line in file:
                    empty = False
                    if line.startswith(b"Size:"):
                        size_bytes = int(line.split()[1]) << 10
                    elif line.startswith(b"VmFlags:") and size_bytes >= LEAST_BYTES:
                        found_bytes += size_bytes if {b"wr", b"nr"} <= set(line.split()) else 0
        except (OSError, IndexError, ValueError):  # it has ended
            pass
        return None if empty else found_bytes

    def _read(self) -> int | None:
        if self._path is None:
            return None
        try:
            with open(self._path, "rb", buffering=0) as file:
                return int(file.read(200).split()[_DATA_FIELD]) * _PAGE_BYTES
        except (OSError, IndexError, ValueError):  # it has ended, or there is no /proc
            return None
