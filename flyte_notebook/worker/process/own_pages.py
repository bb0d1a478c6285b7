"""How a forked process gets pages of its own: inherited pages are charged to the process that first touched them.

Inherited pages would not count for the worker, and a limit that was found in this way would fail in a container. So a
forked worker makes each present anonymous page its own, in its own group: ``madvise(MADV_POPULATE_WRITE)`` breaks
copy-on-write without changing a byte (Linux 5.14). Pages that the loader made read-only after it wrote them
(relocations) count as well; they are made writable for that moment. Source: madvise(2), proc(5), kernel
Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import array
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MADV_POPULATE_WRITE = 23
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROT_READ = 1
PROT_WRITE = 2
PRESENT = 1 << 63
OF_A_FILE = 1 << 61
"""Bits of an entry of ``/proc/self/pagemap``; the second is also set for shared memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Adjacent pages, by address; ``sealed`` when they are read-only."""

    start: int
    length: int
    sealed: bool


def reason_against() -> str:
    """Return why pages cannot be made a process's own on this machine; empty when they can."""
    if sys.platform != "linux":
        return "only Linux tells which pages a process has"
    libc = ctypes.CDLL(None, use_errno=True)
    page = ctypes.create_string_buffer(2 * PAGE_BYTES)
    address = (ctypes.addressof(page) + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
    if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(PAGE_BYTES), MADV_POPULATE_WRITE) != 0:
        return "this kernel cannot give a forked process pages of its own (Linux 5.14 can)"
    try:
        return "" if inherited() else "the kernel does not tell which pages a process has"
    except OSError as refused:
        return f"the kernel does not tell which pages a process has: {refused}"


def inherited() -> tuple[Run, ...]:
    """Return the anonymous pages of this process that a forked child will share. Raises OSError."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        return tuple(run for start, end, sealed in _private() for run in _runs(pagemap.fileno(), start, end, sealed))


def make_own(runs: Sequence[Run]) -> None:
    """Break copy-on-write of these pages in the calling process. Pages that are not mapped any more are skipped."""
    libc = ctypes.CDLL(None, use_errno=True)
    for run in runs:
        start, length = ctypes.c_void_p(run.start), ctypes.c_size_t(run.length)
        if run.sealed and libc.mprotect(start, length, PROT_READ | PROT_WRITE) != 0:
            continue
        libc.madvise(start, length, MADV_POPULATE_WRITE)
        if run.sealed:
            libc.mprotect(start, length, PROT_READ)


def _private() -> Iterator[tuple[int, int, bool]]:
    """Yield start, end and whether it is read-only, of each private mapping that may hold pages of its own."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            place, modes, _ = line.split(" ", 2)
            if modes in {"rw-p", "r--p"} and "[v" not in line:  # not [vvar], [vdso]
                start, _, end = place.partition("-")
                yield int(start, 16), int(end, 16), modes == "r--p"


def _runs(pagemap: int, start: int, end: int, sealed: bool) -> Iterator[Run]:  # noqa: FBT001 - a field of a tuple
    entries = array.array("Q")
    entries.frombytes(os.pread(pagemap, (end - start) // PAGE_BYTES * entries.itemsize, start // PAGE_BYTES * 8))
    began: int | None = None
    for index, entry in enumerate((*entries, 0)):
        if entry & PRESENT and not entry & OF_A_FILE:
            began = index if began is None else began
        elif began is not None:
            yield Run(start=start + began * PAGE_BYTES, length=(index - began) * PAGE_BYTES, sealed=sealed)
            began = None
