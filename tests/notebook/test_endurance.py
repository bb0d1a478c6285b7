"""A kernel that ran many cells, a third of them into their limit, is as large as after the first few.

``make soak`` runs three hundred of them.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING

import leaks
import pytest
from kernels import AT_REST, started

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup, pytest.mark.slow, pytest.mark.timeout(600)]

CELLS = int(os.environ.get("FLYTE_NOTEBOOK_TEST_CELLS", "60"))
WARM_UP = 36
"""Cells before the first look: each kind of them, more than once."""
PARTS = 3
"""A leak grows in each part; pages of a library come in one or two of them, for reasons of the machine."""
GROWTH_BYTES = 40 << 10
"""For each cell, in the part in which memory grew least: what is made once, late, is no leak.

What the history keeps of a run is 8 KiB of it.
"""
SETTLE_S = 20.0
"""How long a moment may last in which the kernel has more open than before: its history saves after each cell."""

SETUP = (
    AT_REST
    + """
%load_ext flyte_notebook
import collections, ctypes, gc, os, re, sys, threading, time
import flyte, psutil
base = 7
SAVING = "-journal", "profile_default"  # what the shell's history has open while it saves a cell

def saving():
    return sys.platform == "linux" and any(name.endswith(SAVING) for name in targets())

def targets():
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink("/proc/self/fd/" + number)
        except OSError:
            pass  # the one that lists them

def opened():
    "What this kernel has open, counted: descriptors by what they point at, threads by name, children."
    rest()
    until_s = time.monotonic() + 5
    while saving() and time.monotonic() < until_s:
        time.sleep(0.05)  # a cell that ended is being written to the history
    process = psutil.Process()
    found = collections.Counter(re.sub(r"[0-9]+", "", thread.name) for thread in threading.enumerate())
    # The pool of an event loop has one more when two things were asked of it at the same time, up to a bound.
    assert found["asyncio_"] <= min(32, os.cpu_count() + 4)
    found["asyncio_"] = min(1, found["asyncio_"])
    found["child"] = sum(not stands_ready(child) for child in process.children(recursive=True))
    if sys.platform != "linux":
        found["descriptor"] = process.num_fds()
        return dict(found)
    found.update(re.sub(r"\\[[0-9]+\\]", "", name) for name in targets() if "-journal" not in name)
    return dict(found)

def stands_ready(child):
    "Whether a process is a spare, of which there are more after a busy moment, or is gone."
    try:
        return child.name() == "fnb-spare"
    except psutil.NoSuchProcess:
        return True

def resident():
    "Resident memory of this kernel, in bytes, less what the allocator has free."
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss
"""
)

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


def settled(kernel: Kernel, before: dict[str, int]) -> dict[str, int]:
    """Return what a kernel has open as soon as that is what it had before, else after a while whatever it is."""
    until_s = time.monotonic() + SETTLE_S
    while (found := kernel.value("opened()")) != before and time.monotonic() < until_s:
        time.sleep(0.2)  # it also saves the cell that looks
    return dict(found)


def test_many_cells_leave_the_kernel_as_it_was() -> None:
    """Processes, descriptors, threads and groups are the same in number; memory grows by 40 KiB a cell at most.

    Resident, not what is the kernel's alone: a library's pages are that or not as other programs on the machine come
    and go, by 40 MiB within one run.
    """
    with started() as kernel:
        kernel.run(SETUP).ok()
        run_cells(kernel, range(WARM_UP))
        kernel.value("(opened(), resident())")
        time.sleep(0.5)  # what the last cell opened for a moment is closed
        opened = kernel.value("opened()")
        before = leaks.Snapshot.take()
        memory_bytes = [kernel.value("resident()")]
        for begin in range(WARM_UP, WARM_UP + CELLS, CELLS // PARTS):
            run_cells(kernel, range(begin, begin + CELLS // PARTS))
            memory_bytes.append(kernel.value("(rest(), resident())")[1])
        assert [] == leaks.settle(before)
        assert opened == settled(kernel, opened)
        grown = [(after - before) / (CELLS // PARTS) for before, after in itertools.pairwise(memory_bytes)]
        assert min(grown) < GROWTH_BYTES, f"{[f'{one / 1024:.0f} KiB' for one in grown]} more for each cell"
        ran = WARM_UP + CELLS
        assert str(min(ran, 200)) == kernel.run("import flyte_notebook as fn\nlen(fn.runs)").result


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

VALUE_BYTES = 9_000_000
ROUNDS = 5
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

        def rounds(count: int) -> int:
            for number in range(count):
                for cell in WITH_VALUES:
                    kernel.run(f"ballast = bytes([1 + {number}]) * {VALUE_BYTES}").ok()
                    kernel.run(cell).events.clear()
            kernel.run("ballast = given = run = None\nfor number in range(3):\n    flyte.run(in_sync, number)").ok()
            return int(kernel.value("resident()"))

        first_bytes = rounds(1)
        kernel.value("opened()")
        time.sleep(1.0)  # what the last run and its cell opened for a moment is closed
        opened = kernel.value("opened()")
        second_bytes = rounds(ROUNDS)
        # One value that stayed in each round would be half as much again; the allocator's own holes are up to 20 MiB.
        grown_bytes = second_bytes - first_bytes
        assert grown_bytes < ROUNDS * VALUE_BYTES * 2 // 3, f"{grown_bytes >> 20} MiB more"
        assert opened == settled(kernel, opened)
