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
    # Threads of an asyncio executor are kept, a few, by the loop that they belong to.
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return memory, process.num_fds(), len(threads), len(process.children(recursive=True))
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


VALUES = """
flyte.init()
env = flyte.TaskEnvironment(name="values", resources=flyte.Resources(cpu=1, memory="400Mi"))

@env.task
async def echo(value: bytes) -> bytes:
    return value

@env.task
async def refuse(value: bytes) -> bytes:
    raise ValueError(len(value))

@env.task
def in_sync(number: int) -> int:
    return number
"""

WITH_VALUES = [
    "run = flyte.run(echo, ballast)",
    "flyte.run(refuse, ballast)",
    "%%flyte_task --memory 400Mi\nlen(ballast)\nraise ValueError",
    "%%flyte_task --memory 400Mi\ngiven = ballast[:900_000]",
    "for number in range(3):\n    flyte.run(in_sync, number)",
    "await flyte.run.aio(refuse, ballast)",
]


def test_what_runs_took_and_gave_does_not_stay() -> None:
    """Inputs of failed runs, outputs of others, and the threads that the SDK starts for sync tasks go with their run.

    What the last run holds may stay: that is the one a person looks at.
    """
    with started() as kernel:
        kernel.run(SETUP + VALUES).ok()

        def rounds(count: int) -> list[int]:
            for number in range(count):
                for cell in WITH_VALUES:
                    kernel.run(f"ballast = bytes([1 + {number}]) * 6_000_000").ok()
                    kernel.run(cell).events.clear()
            kernel.run("ballast = given = run = None\nfor number in range(3):\n    flyte.run(in_sync, number)").ok()
            return list(kernel.value("look()"))

        first, second = rounds(2), rounds(8)
        # One value that stayed in each round would be 48 MiB; the allocator's own holes are up to 20.
        assert second[0] - first[0] < 32 << 20, f"{(second[0] - first[0]) >> 20} MiB more"
        assert second[1] <= first[1] + SPARE_DESCRIPTORS
        assert first[2:] == second[2:]
