"""Memory of a virtual machine: made real before it is measured.

A host often gives memory only when it is first touched, at a tenth of the speed, and takes back what stays free for two
seconds (free page reporting). A program that allocates 1 GiB would measure that. So as much as is about to be used is
touched, in huge pages, and freed right before each measurement.
"""

from __future__ import annotations

import ctypes
import mmap
import time

GIB = 1 << 30
PASSES = 3
"""How many times the size of an array its way may need: here, there, and copies between."""

NOTE = "before each pass of an array the machine's memory was touched: a host gives it slowly, and takes it back"


def touch(size: int) -> float:
    """Touch so many bytes and free them; return the speed in GiB/s."""
    began_s = time.perf_counter()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        address = (ctypes.c_char * size).from_buffer(memory)
        ctypes.memset(address, 1, size)
        del address
    return size / GIB / (time.perf_counter() - began_s)
