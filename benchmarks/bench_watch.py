"""What it costs to watch a busy task, and what is left of the trace of a long one.

A cell computes, in one variant with memory that stands still and in one with memory that moves, which is sampled
densest. *CPU*: the time that the kernel, the supervisor and everything beside the worker itself take while the cell
runs, start and end left out. *Slow-down*: the same code in a cell, and before and after it in a bare interpreter; the
table says how much those two differ, and below that nothing can be seen. The slow-down in CPU time of the task leaves
out what other programs of the machine take. No ``--cpu`` is given: a quota is a limit, and no supervision. *Trace*: the
recorder is given the samples of 24 hours, with the highest one alone.

The table goes to stdout and to ``build/bench/watch.md``, a plot of it to ``build/bench/watch.png``. ``--quick`` runs
shorter, ``--break`` updates the live line two hundred times a second, gives the cell a tenth more to do, and keeps more
and lower points, to see that the benchmark notices.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import budget
import psutil
from budget import Row
from kernels import Kernel

from flyte_notebook.core.trace import TraceRecorder
from flyte_notebook.worker.process import watched

MIB = 1 << 20
DAY_S = 24 * 3600
BURST_EVERY_S = 600
BURST_S = 5
ENDLESS_S = 3600
STARTED_S = 1.5
"""How long a cell runs before its CPU is measured: the worker started, the live line is shown."""
SHARES = (
    "the supervisor's samples and reports are about half of it, reading where the task stands among them; the rest is "
    "the kernel, which hears them, waits for its cell and shows the live line"
)

BUSY = """
import time
def busy(turns, moving, most_s):
    began_s, began_cpu_s = time.perf_counter(), time.thread_time()
    for turn in range(turns):
        if time.perf_counter() - began_s > most_s:
            break
        total = 0
        for number in range(20_000):
            total += number * number % 7
        if moving and not turn % 10:
            held = bytearray((1 + turn // 10 % 8) << 21)
    return time.perf_counter() - began_s, time.thread_time() - began_cpu_s
"""
VARIANTS = {"still": "memory stands still", "moving": "memory moves"}


def bare_s(turns: int, *, moving: bool) -> tuple[float, float]:
    """Return how long it takes in an interpreter that nobody watches: time passed, and CPU time."""
    program = f"{BUSY}\nprint(*busy({turns}, {moving}, {ENDLESS_S}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    passed_s, cpu_s = map(float, done.stdout.split())
    return passed_s, cpu_s


def cell_source(turns: int, *, moving: bool, most_s: float = ENDLESS_S) -> str:
    """Return the cell that does the same in a task, for so long at most."""
    body = f"import os\n{BUSY}\npid = os.getpid()\ntook_s = busy({turns}, {moving}, {most_s})"
    return f"%%flyte_task --memory 1Gi -o took_s,pid\n{body}"


def slowdown(kernel: Kernel, turns: int, rounds: int, *, moving: bool, share: float) -> dict[str, float]:
    """Return by how much a task is slower, in percent: in time passed, in CPU time, and the bare runs themselves."""
    found: dict[str, list[float]] = {"slow": [], "slow cpu": [], "noise": []}
    for _ in range(rounds):
        before = bare_s(turns, moving=moving)
        kernel.run(cell_source(int(turns * share), moving=moving))
        after = bare_s(turns, moving=moving)
        for place, key in enumerate(("slow", "slow cpu")):
            took_s = kernel.number(f"took_s[{place}]")
            found[key].append(100 * (2 * took_s / (before[place] + after[place]) - 1))
        found["noise"].append(100 * abs(after[0] / before[0] - 1))
    return {key: statistics.median(values) for key, values in found.items()}


def cpu_percent(kernel: Kernel, seconds: float, *, moving: bool) -> float:
    """Return what a cell costs beside its worker, in percent of one core."""
    top = psutil.Process(int(kernel.number("__import__('os').getpid()")))
    asked = kernel.begin(cell_source(10**9, moving=moving, most_s=STARTED_S + seconds + 1))
    time.sleep(STARTED_S)
    before, began_s = _cpu_times(top), time.monotonic()
    time.sleep(seconds)
    after, passed_s = _cpu_times(top), time.monotonic() - began_s
    kernel.finish(asked)
    worker = int(kernel.number("pid"))
    assert worker in before, "it was not there yet"
    assert worker in after, "it was over too soon"
    others = sum(used_s - before.get(pid, 0.0) for pid, used_s in after.items() if pid != worker)
    return 100 * others / passed_s


def _cpu_times(top: psutil.Process) -> dict[int, float]:
    found = {}
    for process in (top, *top.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def day(peak_at_s: float, *, broken: bool) -> tuple[int, float, int]:
    """Return points kept, MiB of the peak lost, and samples given, for a task of 24 hours.

    Samples come as the supervisor takes them: dense in the first second and while memory moves, else four a second.
    """
    recorder = TraceRecorder(max_points=5_000) if broken else TraceRecorder()
    time_s, samples, peak_bytes, before = 0.0, 0, 900 * MIB, False
    while time_s < DAY_S:
        moves = time_s % BURST_EVERY_S < BURST_S or abs(time_s - peak_at_s) < 1
        used = (100 + samples % 97 if moves else 100) * MIB
        if not before and time_s >= peak_at_s:
            before, used = True, peak_bytes - (MIB if broken else 0)
        recorder.add(time_s, used)
        samples += 1
        time_s += watched.DENSE_S if moves or time_s < watched.DENSE_FOR_S else watched.SPARSE_S
    times = [time for time, _ in recorder.points]
    assert times == sorted(times)
    assert times[-1] > DAY_S * 0.99
    return len(times), (peak_bytes - max(used for _, used in recorder.points)) / MIB, samples


def trace_rows(*, broken: bool) -> tuple[dict[str, Row], dict[str, float], str]:
    """Return what is left of traces whose peak is early, in the middle, and late."""
    found = [day(peak_at_s, broken=broken) for peak_at_s in (0.5, DAY_S / 3 + 0.123, DAY_S - 1)]
    rows = {
        "points": Row(name="trace of 24 h: points", unit="", bar=2000),
        "lost": Row(name="trace of 24 h: lost of its peak", unit="MiB", bar=0),
    }
    values = {"points": max(points for points, _, _ in found), "lost": max(lost for _, lost, _ in found)}
    return rows, values, f"the trace: the worst of {len(found)}, each of {found[0][2]:,} samples"


def main() -> None:
    """Measure and report."""
    options = budget.options(__doc__, "a busier live line, a slower task, a worse trace")
    rounds, busy_s, watched_s = (2, 0.7, 3.0) if options.quick else (8, 1.2, 10.0)
    rows: dict[str, Row] = {}
    values: dict[str, float] = {}
    with Kernel() as kernel:
        kernel.load()
        kernel.run("from flyte_notebook.notebook import liveline")
        if options.broken:
            kernel.run("liveline.INTERVAL_S = 0.005")
        for key, words in VARIANTS.items():
            moving = key == "moving"
            turns = int(busy_s * 300 / bare_s(300, moving=moving)[0])
            kernel.run(cell_source(10**9, moving=moving, most_s=2))  # what is loaded once: the line, the chart
            values[f"cpu {key}"] = cpu_percent(kernel, watched_s, moving=moving)
            share = 1.1 if options.broken else 1.0
            slower = slowdown(kernel, turns, rounds, moving=moving, share=share)
            values |= {f"{name} {key}": value for name, value in slower.items()}
            rows |= {
                f"cpu {key}": Row(name=f"{words}: CPU of all but the worker", unit="% of a core", bar=2, why=SHARES),
                f"slow {key}": Row(name=f"{words}: slow-down of the task", unit="%", bar=2),
                f"slow cpu {key}": Row(name=f"{words}: the same in its CPU time", unit="%"),
                f"noise {key}": Row(name=f"{words}: bare runs differ by", unit="%"),
            }
    more_rows, more_values, note = trace_rows(broken=options.broken)
    notes = (f"CPU over {watched_s:g} s; slow-down: median of {rounds} times {busy_s:g} s", note)
    budget.report("watch", rows | more_rows, {"measured": values | more_values}, notes)


if __name__ == "__main__":
    main()
