"""A large array into a ``%%flyte_task`` cell and out of one, and what the kernel holds meanwhile, beside Ray.

Into a task: from the execute request until the body of the cell begins. Out of it: from the moment the array is made
until the kernel is idle. Ray, where it is installed, does the same with a function of its own in the same run; it reads
in place what lies in its store. The kernel's peak is ``VmHWM`` after a reset through ``/proc/self/clear_refs``.

A virtual machine often gets its memory from its host only when it is first touched, at a tenth of the speed, and gives
back what is free for a while: so as much as a pass needs is touched, in huge pages, right before each (`warming`).

The table goes to stdout and to ``build/bench/data.md``, a plot of it to ``build/bench/data.png``. ``--quick`` sends
256 MiB a few times, ``--break`` sends arrays whose memory is not in one piece, to see that the benchmark notices.
"""

from __future__ import annotations

import statistics

import budget
import pools
import warming
from budget import Row
from kernels import Kernel, Passage, pass_array

GIB = 1 << 30
IN_PLACE = (
    "Ray's task reads shared memory in place, which no limit counts; ours gets memory of its own, which counts. Where "
    "Ray is given the array as a plain argument (bench_beside), it copies as well"
)


def through_cells(size: int, rounds: int, *, broken: bool) -> list[Passage]:
    """Send the array through cells; the first time does not count."""
    with Kernel() as kernel:
        kernel.load()
        return [pass_array(kernel, size, strided=broken) for _ in range(rounds + 1)][1:]


def main() -> None:
    """Measure and report."""
    options = budget.options(__doc__, "send arrays whose memory is not in one piece")
    size, rounds = (GIB // 4, 3) if options.quick else (GIB, 4)
    passages = through_cells(size, rounds, broken=options.broken)
    in_s, out_s = (statistics.median(getattr(one, name) for one in passages) for name in ("in_s", "out_s"))
    growth = {
        f"{way} peak": 100 * max(getattr(one, f"{way}_growth_bytes") for one in passages) / size
        for way in ("in", "out")
    }
    ours = {"in": size / GIB / in_s, "out": size / GIB / out_s, **growth}
    beside = pools.in_a_process("ray", "array", size, rounds)
    ray: dict[str, float | str] = {}
    if "in_s" in beside:
        ray = {"in": size / GIB / beside["in_s"], "out": size / GIB / beside["out_s"]}
        ours |= {"in ratio": in_s / beside["in_s"], "out ratio": out_s / beside["out_s"]}
    else:
        ray = dict.fromkeys(("in", "out"), str(beside["failed"]))
    what = f"{size >> 20} MiB"
    rows = {
        "in": Row(name=f"{what} into a cell's task", unit="GiB/s", bar=1, higher=True),
        "out": Row(name=f"{what} out of it", unit="GiB/s", bar=1, higher=True),
        "in ratio": Row(name="in: time against Ray's", unit="x", bar=2, why=IN_PLACE),
        "out ratio": Row(name="out: time against Ray's", unit="x", bar=2, why=IN_PLACE),
        "in peak": Row(name="in: the kernel's peak above what it had, of the array", unit="%", bar=5),
        "out peak": Row(name="out: the kernel's peak above what it had, of the array", unit="%", bar=105),
    }
    notes = (f"medians of {rounds}, the highest of the peaks; one round before them does not count", warming.NOTE)
    budget.report("data", rows, {"%%flyte_task": ours, "Ray": ray}, notes)


if __name__ == "__main__":
    main()
