"""What ``%load_ext flyte_notebook`` costs in a kernel that has imported flyte, each time in a new kernel.

``import flyte`` alone loads little: the SDK loads most of itself when something is first run. So there are two rows
with the bar, after the import alone and after a first local run without us.

The table goes to stdout and to ``build/bench/load.md``, a plot of it to ``build/bench/load.png``. ``--quick`` starts
fewer kernels, ``--break`` slows the import of the extension down by a fifth of a second, to see that the benchmark
notices.
"""

from __future__ import annotations

import statistics

import budget
from budget import Row
from kernels import Kernel

ROWS = {
    "load": Row(
        name="%load_ext, after import flyte",
        unit="ms",
        bar=150,
        why="half of it are modules of the SDK, which its first run would load; what is left stands in the next row",
    ),
    "load after run": Row(
        name="%load_ext, after import flyte and a local run of its own",
        unit="ms",
        bar=150,
        why="some 170 modules of ours, those of the card and the chart among them",
    ),
    "flyte": Row(name="import flyte", unit="ms"),
    "run": Row(name="the SDK's first local run of a no-op, after that", unit="ms"),
    "proven": Row(name="until a worker is proven, right after", unit="ms"),
    "cell": Row(name="first %%flyte_task with pass, after that", unit="ms"),
    "second": Row(name="second %%flyte_task with pass", unit="ms"),
}
SLOW = """
import sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == "flyte_notebook.notebook.extension":
            time.sleep(0.2)
sys.meta_path.insert(0, Slow())
"""
LOCAL_RUN = """
env = flyte.TaskEnvironment(name="bench_load")
@env.task
def nothing() -> None:
    pass
flyte.init()
flyte.run(nothing)
"""
LOAD = "%load_ext flyte_notebook"
TASK = "%%flyte_task --memory 250Mi\npass"
ALONE = {
    "flyte": "import flyte",
    "load": LOAD,
    "proven": "import flyte_notebook; flyte_notebook.doctor()",
    "cell": TASK,
    "second": TASK,
}
AFTER_RUN = {"again": "import flyte", "run": LOCAL_RUN, "load after run": LOAD}


def measured(*, broken: bool) -> dict[str, float]:
    """Return what two new kernels took."""
    times: dict[str, float] = {}
    for steps in (ALONE, AFTER_RUN):
        with Kernel() as kernel:
            kernel.run(SLOW if broken else "pass")
            times |= {key: kernel.run(source).took_ms for key, source in steps.items()}
    return times


def main() -> None:
    """Measure and report."""
    options = budget.options(__doc__, "slow the import of the extension down by 0.2 s")
    rounds = 3 if options.quick else 10
    measured(broken=False)  # what is compiled and cached now is the same for all that follow
    found = [measured(broken=options.broken) for _ in range(rounds)]
    columns = {
        f"median of {rounds}": {key: statistics.median(times[key] for times in found) for key in ROWS},
        "highest": {key: max(times[key] for times in found) for key in ROWS},
    }
    budget.report("load", ROWS, columns, ("from execute request to idle",))


if __name__ == "__main__":
    main()
