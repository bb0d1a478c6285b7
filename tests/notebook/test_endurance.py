"""A kernel that ran three hundred cells, a third of them into their limit, is as large as after the first few."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import leaks
import pytest
from kernels import started

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup, pytest.mark.slow, pytest.mark.timeout(400)]

CELLS = 300
WARM_UP = 24
GROWTH_BYTES = 10 << 20
SPARE_DESCRIPTORS = 3
"""What a kernel opens for a moment now and then (its history's database, a socket), whatever its cells do."""

SETUP = """
%load_ext flyte_notebook
import ctypes, gc, sys, threading
import flyte, psutil
base = 7

def look():
    "Own memory, descriptors, threads and descendants of this kernel."
    gc.collect()
    process = psutil.Process()
    memory = process.memory_full_info().uss
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what is free already counts for nobody
        # A library's pages are ours alone or shared as other programs on the machine come and go: not they.
        lines = open("/proc/self/status").read().splitlines()
        memory = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return memory, process.num_fds(), threading.active_count(), len(process.children(recursive=True))
"""

TOO_LARGE = ["%%flyte_task --memory 100Mi\nheld = bytearray(200 << 20)\nlen(held)"]
OTHERS = [
    "%%flyte_task --memory 100Mi\nresult = base * {number}\nresult",
    "%%flyte_task --memory 120Mi\nfor line in range(50):\n    print('line', line, 'of cell', {number})",
    "%%flyte_task --memory 100Mi\nraise ValueError('cell {number}')",
    "%%flyte_task named --memory 120Mi\ntable = list(range({number}))\nsum(table)",
]


def run_cells(kernel: Kernel, numbers: range) -> None:
    """Run cells, every third one into its limit; each must end as it should."""
    for number in numbers:
        too_large = number % 3 == 0
        cell = (TOO_LARGE * 4 if too_large else OTHERS)[number % 4]
        reply = kernel.run(cell.replace("{number}", str(number)))
        expected = "OOMError" if too_large else "RuntimeUserError" if "raise" in cell else None
        assert expected == reply.ename, f"cell {number}: {reply.ename} {reply.evalue}"
        reply.events.clear()  # our own copy of what it showed


def test_three_hundred_cells_leave_the_kernel_as_it_was() -> None:
    """Processes, descriptors, threads and groups are the same in number, own memory is within 10 MiB."""
    with started() as kernel:
        kernel.run(SETUP).ok()
        run_cells(kernel, range(WARM_UP))
        kernel.value("look()")
        memory_bytes, descriptors, threads, children = kernel.value("look()")
        before = leaks.Snapshot.take()
        began_s = time.monotonic()
        run_cells(kernel, range(WARM_UP, WARM_UP + CELLS))
        took_s = time.monotonic() - began_s
        after = kernel.value("look()")
        assert [] == leaks.settle(before)
        assert (threads, children) == after[2:]
        assert after[1] <= descriptors + SPARE_DESCRIPTORS
        growth_bytes = after[0] - memory_bytes
        assert growth_bytes < GROWTH_BYTES, f"{growth_bytes / 2**20:.1f} MiB more after {CELLS} cells in {took_s:.0f} s"
        assert "200" == kernel.run("import flyte_notebook as fn\nlen(fn.runs)").result
