"""What a task cell costs that does next to nothing: beside another version of the package, in the same run.

``python benchmarks/bench_noop.py OTHER_PYTHON`` takes the interpreter of an environment with the other version; without
one, this version stands on both sides, and the ratio says how much is chance. Cells alternate, so that both meet the
same load, and each begins when the workers of the one before have been replaced. Memory is told by the pages that the
worker has touched when its body runs: a control group counts in steps of 128 KiB.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time

from kernels import Kernel

ROUNDS = 60
BOUND_MS = 1.0
BOUND_KIB = 8.0
PAUSE_S = 0.15
PAGE_KIB = resource.getpagesize() // 1024

SETUP = """%load_ext flyte_notebook
import flyte_notebook as fn, random, logging, warnings
from flyte_notebook.sdk import enforcement
enforcement.current().engine.wait_until_proven()
"""
NOTHING = "%%flyte_task --memory 250Mi\n1"
PAGES = "%%flyte_task --memory 250Mi\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"


def main() -> None:
    """Run and print; exit with 1 where a bound is missed."""
    other = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    took: dict[str, list[float]] = {"other": [], "this": []}
    grown: dict[str, list[int]] = {"other": [], "this": []}
    with Kernel(python=other) as before, Kernel() as now:
        both = {"other": before, "this": now}
        for kernel in both.values():
            kernel.run(SETUP)
            for _ in range(5):
                kernel.run(NOTHING)
        for number in range(ROUNDS):
            for name, kernel in list(both.items())[:: 1 if number % 2 else -1]:
                time.sleep(PAUSE_S)
                took[name].append(kernel.run(NOTHING).took_ms)
                grown[name].append(int(kernel.run(PAGES).printed) * PAGE_KIB)
    for name in both:
        print(f"{name:>6}: {statistics.median(took[name]):6.1f} ms, {statistics.median(grown[name]):8.1f} KiB")
    more_ms = statistics.median(took["this"]) - statistics.median(took["other"])
    more_kib = statistics.median(grown["this"]) - statistics.median(grown["other"])
    print(f"  more: {more_ms:6.2f} ms (at most {BOUND_MS}), {more_kib:8.1f} KiB (at most {BOUND_KIB})")
    if more_ms > BOUND_MS or more_kib > BOUND_KIB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
