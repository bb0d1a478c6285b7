"""What the chart of a card costs: a trace of 2,000 points drawn to SVG, against an empty figure with axes, in one run.

Machines are noisy: numbers are medians, and what counts is the ratio to the empty figure, which the plotting library
takes for itself. The bar is `BAR_MS` of the drawing thread's own time, after the library was loaded in the background:
what other processes take meanwhile is not the card's. ``--break`` draws forty times as many points and thins nothing
out, to see that the benchmark notices.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from io import BytesIO
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.views.charts import chart

if TYPE_CHECKING:
    from collections.abc import Callable

BAR_MS = 150.0
MI = 2**20


def trace(points: int) -> MemoryTrace:
    """Return memory that goes up and down, as a task with epochs does."""
    times = [index * 0.015 for index in range(points)]
    memory = [int((200 + 150 * math.sin(time / 2) + index % 7) * MI) for index, time in enumerate(times)]
    return MemoryTrace(
        times_s=times,
        memory_bytes=memory,
        limit_bytes=400 * MI,
        baseline_bytes=36 * MI,
        peak_bytes=400 * MI,
        peak_source="kernel counter",
    )


def empty() -> None:
    """Draw axes with nothing in them."""
    figure = Figure(figsize=(chart.WIDTH / 72, chart.HEIGHT / 72))
    figure.add_axes((0.1, 0.2, 0.7, 0.6))
    figure.savefig(BytesIO(), format="svg")


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return how long a call takes, and how much of that this thread ran, in milliseconds."""
    began, ran = time.perf_counter(), time.thread_time()
    call()
    return (time.perf_counter() - began) * 1000, (time.thread_time() - ran) * 1000


def main() -> None:
    """Print a table of medians and ratios, and whether the bar was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--break", dest="broken", action="store_true", help="draw forty times as many points")
    options = parser.parse_args()
    if options.broken:
        chart.POINTS = 80_000  # type: ignore[misc] # broken on purpose
    points = 80_000 if options.broken else 2_000
    first = chart.Line(label="attempt 1", trace=trace(points), killed=True, passed=False)
    rerun = chart.Line(label="rerun 1 (1Gi)", trace=trace(points), killed=False, passed=True)
    loading_ms, _ = timed(chart.warm)
    columns: dict[str, list[tuple[float, float]]] = {"empty figure": [], "one attempt": [], "attempt and rerun": []}
    for _ in range(options.rounds):
        columns["empty figure"].append(timed(empty))
        columns["one attempt"].append(timed(lambda: chart.memory_data_uri([first])))
        columns["attempt and rerun"].append(timed(lambda: chart.memory_data_uri([first, rerun])))
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in columns.items()
    }
    print(f"{'a chart of 2,000 points, median of ' + str(options.rounds):<38}{'ms':>8}{'ms run':>8}{'x empty':>9}")
    for name, (passed_ms, ran_ms) in medians.items():
        print(f"{name:<38}{passed_ms:>8.1f}{ran_ms:>8.1f}{ran_ms / medians['empty figure'][1]:>9.2f}")
    print(f"loading the library, once, in the background: {loading_ms:.0f} ms")
    print(f"size of the picture: {len(chart.memory_svg([first, rerun])) / 1024:.0f} KiB")
    kept = medians["attempt and rerun"][1] < BAR_MS
    print(f"bar of {BAR_MS:.0f} ms: {'kept' if kept else 'MISSED'}")


if __name__ == "__main__":
    main()
