"""What it costs to start a task: forked workers against fresh interpreters against the SDK alone, in one run.

Machines are noisy: numbers are medians of the same run, and what counts is the ratio. The table goes to stdout and to
``build/bench/start.md``, a plot of it to ``build/bench/start.png``. ``--break`` makes forked tasks slower on purpose by
a tenth of a second, to see that the benchmark notices. ``--quick`` makes everything ten times shorter.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import budget
import flyte
import psutil
from budget import Column, Row
from kernels import Kernel

import flyte_notebook as fn
from flyte_notebook.engine.link import WORKERS_VARIABLE
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

SPARES_READY_S = 0.15
"""How long to leave between two tasks for the spare that was taken to be replaced."""

env = flyte.TaskEnvironment(name="bench_start", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
async def nothing(wait_s: float) -> float:
    """Do nothing, or wait a while."""
    time.sleep(wait_s)  # noqa: ASYNC251 - the broken variant is to be slow, however
    return wait_s


@env.task
async def one_by_one(count: int, pause_s: float, wait_s: float) -> list[float]:
    """Return how long each of so many nested calls takes, in milliseconds."""
    took_ms = []
    for _ in range(count):
        await asyncio.sleep(pause_s)
        began_s = time.perf_counter()
        await nothing(wait_s)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return took_ms


@env.task
async def together(count: int, wait_s: float) -> float:
    """Return how long a gather of so many takes, in milliseconds."""
    began_s = time.perf_counter()
    await asyncio.gather(*(nothing(wait_s) for _ in range(count)))
    return (time.perf_counter() - began_s) * 1000


@env.task
def mapped(count: int, wait_s: float) -> float:
    """Return how long a map over so many takes, in milliseconds."""
    began_s = time.perf_counter()
    assert sum(1 for _ in flyte.map(nothing, [wait_s] * count)) == count
    return (time.perf_counter() - began_s) * 1000


ROWS = {
    "nested": Row(
        name="nested no-op, spares ready, median",
        unit="ms",
        bar=12,
        why="the call goes through four processes and back: parent, kernel, supervisor, worker",
    ),
    "row": Row(name="nested no-op, 40 in a row, median", unit="ms", bar=30),
    "row_mean": Row(name="nested no-op, 40 in a row, mean", unit="ms", bar=30),
    "gather": Row(name="gather of 32 no-ops", unit="s", bar=1.0),
    "map": Row(
        name="map over no-ops",
        unit="per s",
        bar=40,
        higher=True,
        why="two cores copy the pages of each worker, some 40 MiB that a fresh interpreter would have as well",
    ),
    "growth": Row(
        name="growth of the kernel's memory over that map",
        unit="MiB",
        bar=10,
        why="all items wait in the kernel at once, each with its payload of 3 KB, its message and its coroutines; the "
        "next row says how much of it stays",
    ),
    "again": Row(name="growth over a second such map", unit="MiB", bar=10),
    "cell": Row(name="%%flyte_task with pass, request to idle, median", unit="ms", bar=60),
}


def outputs(task: Any, *arguments: float) -> Any:  # noqa: ANN401 - any task
    """Run a task and return what it returned."""
    return flyte.run(task, *arguments).outputs()[0]


@contextlib.contextmanager
def enforced(workers: str) -> Iterator[None]:
    """Enforce limits; ``workers`` is empty or ``fresh``."""
    os.environ[WORKERS_VARIABLE] = workers
    with fn.enable():
        session = enforcement.current()
        assert session is not None
        session.engine.wait_until_proven()
        how = session.engine.workers()
        assert how.forked == (not workers), how.why
        outputs(nothing, 0.0)
        yield
    del os.environ[WORKERS_VARIABLE]


def rss_mib() -> float:
    """Return the resident memory of this process, without what only waits for a collection."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / (1 << 20)


def measured(share: float, wait_s: float, *, nested_pause_s: float, map_items: int) -> dict[str, float]:
    """Measure tasks as they run now."""
    in_a_row = max(4, int(40 * share))
    found = {"nested": statistics.median(outputs(one_by_one, max(4, int(20 * share)), nested_pause_s, wait_s))}
    row = outputs(one_by_one, in_a_row, 0.0, wait_s)
    found |= {"row": statistics.median(row), "row_mean": statistics.mean(row)}
    found["gather"] = statistics.median(outputs(together, 32, wait_s) for _ in range(max(1, int(5 * share)))) / 1000
    before_mib = rss_mib()
    found["map"] = map_items / (outputs(mapped, map_items, wait_s) / 1000)
    found["growth"] = rss_mib() - before_mib
    before_mib = rss_mib()
    outputs(mapped, map_items, wait_s)
    return {**found, "again": rss_mib() - before_mib}


def cell_ms(workers: str, rounds: int, wait_s: float) -> float:
    """Return the median of a cell with ``pass`` in a kernel of its own."""
    body = f"import time; time.sleep({wait_s})" if wait_s else "pass"
    with Kernel(workers) as kernel:
        kernel.load()
        took = []
        for _ in range(rounds):
            time.sleep(SPARES_READY_S)
            took.append(kernel.run(f"%%flyte_task --memory 250Mi\n{body}").took_ms)
        return statistics.median(took)


def ratios(columns: dict[str, dict[str, float]], above: str, below: str) -> dict[str, float | str]:
    """Return how many times one column is another, by row."""
    pairs = {key: (columns[above].get(key), columns[below].get(key)) for key in ROWS if key not in {"growth", "again"}}
    return {key: f"{a / b:.3g}" for key, (a, b) in pairs.items() if a and b}


def main() -> None:
    """Measure, print and write the table, and draw it."""
    options = budget.options(__doc__, "slow forked tasks down by 0.1 s")
    share, wait_s = (0.1 if options.quick else 1.0), (0.1 if options.broken else 0.0)
    flyte.init()
    columns = {}
    with enforced(""):
        items = max(50, int(1000 * share))
        columns["forked"] = measured(share, wait_s, nested_pause_s=SPARES_READY_S, map_items=items)
    columns["forked"]["cell"] = cell_ms("", max(3, int(15 * share)), wait_s)
    with enforced("fresh"):
        items = max(20, int(100 * share))
        columns["fresh"] = measured(share, 0.0, nested_pause_s=0.0, map_items=items)
    columns["fresh"]["cell"] = cell_ms("fresh", max(3, int(10 * share)), 0.0)
    columns["SDK alone"] = measured(share, 0.0, nested_pause_s=0.0, map_items=max(50, int(1000 * share)))
    shown: dict[str, Column] = {**columns}
    shown |= {f"{a} / {b}": ratios(columns, a, b) for a, b in (("fresh", "forked"), ("forked", "SDK alone"))}
    budget.report("start", ROWS, shown)


if __name__ == "__main__":
    main()
