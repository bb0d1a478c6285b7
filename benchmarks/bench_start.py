"""What it costs to start a task: forked workers against fresh interpreters against the SDK alone, in one run.

Machines are noisy: numbers are medians of the same run, and what counts is the ratio. The table goes to stdout and to
``build/bench/start.md``, a plot of it to ``build/bench/start.png``. ``--break`` makes forked tasks slower on purpose by
a tenth of a second, to see that the benchmark notices. ``--quick`` makes everything ten times shorter.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import psutil
from jupyter_client import KernelManager

import flyte_notebook as fn
from flyte_notebook.engine.link import WORKERS_VARIABLE
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT = Path("build", "bench")
PATIENCE_S = 300
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure of the table, and its bar; ``higher`` when more is better."""

    name: str
    unit: str
    bar: float | None = None
    higher: bool = False


ROWS = {
    "nested": Row(name="nested no-op, spares ready, median", unit="ms", bar=12),
    "row": Row(name="nested no-op, 40 in a row, median", unit="ms", bar=30),
    "row_mean": Row(name="nested no-op, 40 in a row, mean", unit="ms", bar=30),
    "gather": Row(name="gather of 32 no-ops", unit="s", bar=1.0),
    "map": Row(name="map over no-ops", unit="per s", bar=40, higher=True),
    "growth": Row(name="growth of the kernel's memory over that map", unit="MiB", bar=10),
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
    """Return the resident memory of this process."""
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
    return {**found, "growth": rss_mib() - before_mib}


class Kernel:
    """A real kernel, for the time from execute request to idle."""

    def __init__(self, workers: str) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env={**os.environ, WORKERS_VARIABLE: workers})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)

    def close(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def took_ms(self, source: str) -> float:
        """Run a cell and return the milliseconds until the kernel is idle again."""
        began_s = time.perf_counter()
        asked = self.client.execute(source)
        while True:
            event = self.client.get_iopub_msg(timeout=PATIENCE_S)
            if event["parent_header"].get("msg_id") != asked:
                continue
            if event["msg_type"] == "error":
                raise RuntimeError("\n".join(event["content"]["traceback"]))
            if event["msg_type"] == "status" and event["content"]["execution_state"] == "idle":
                break
        took_ms = (time.perf_counter() - began_s) * 1000
        self.client.get_shell_msg(timeout=PATIENCE_S)
        return took_ms


def cell_ms(workers: str, rounds: int, wait_s: float) -> float:
    """Return the median of a cell with ``pass`` in a kernel of its own."""
    kernel = Kernel(workers)
    body = f"import time; time.sleep({wait_s})" if wait_s else "pass"
    try:
        kernel.took_ms("%load_ext flyte_notebook")
        kernel.took_ms("import flyte_notebook; flyte_notebook.doctor()")
        kernel.took_ms("%%flyte_task --memory 250Mi\npass")
        took = []
        for _ in range(rounds):
            time.sleep(SPARES_READY_S)
            took.append(kernel.took_ms(f"%%flyte_task --memory 250Mi\n{body}"))
        return statistics.median(took)
    finally:
        kernel.close()


def table(columns: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines of a Markdown table with ratios to the fresh interpreter."""
    heads = ["what", "bar", *columns, "fresh / forked", "forked / SDK"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key, row in ROWS.items():
        values = {name: column.get(key) for name, column in columns.items()}
        cells = ["-" if value is None else f"{value:.3g} {row.unit}" for value in values.values()]
        forked, fresh, alone = values["forked"], values["fresh"], values["SDK alone"]
        pairs = ((fresh, forked), (forked, alone))
        ratios = ["-" if not (a and b) or key == "growth" else f"{a / b:.3g}" for a, b in pairs]
        bar, verdict = "-", ""
        if row.bar is not None and forked is not None:
            met = forked >= row.bar if row.higher else forked <= row.bar
            bar, verdict = f"{'>=' if row.higher else '<='} {row.bar:g} {row.unit}", "" if met else " (missed)"
        lines.append("| " + " | ".join([row.name + verdict, bar, *cells, *ratios]) + " |")
    return lines


def plot(columns: dict[str, dict[str, float]], path: Path) -> None:
    """Draw what takes time, on a logarithmic scale, with the bars."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only needed here

    keys = [key for key, row in ROWS.items() if row.unit in {"ms", "s"}]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(columns)
    for place, (name, column) in enumerate(columns.items()):
        at = [index + place * height for index, key in enumerate(keys) if key in column]
        milliseconds = [column[key] * (1000 if ROWS[key].unit == "s" else 1) for key in keys if key in column]
        axes.barh(at, milliseconds, height=height, label=name)
    for index, key in enumerate(keys):
        bar = ROWS[key].bar
        if bar is not None:
            x = bar * (1000 if ROWS[key].unit == "s" else 1)
            axes.plot([x, x], [index - height / 2, index + 0.8 - height / 2], color="black")
    axes.set(xscale="log", xlabel="milliseconds; black: the bar")
    axes.set_yticks([index + height for index in range(len(keys))], [ROWS[key].name for key in keys])
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and write the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten times shorter")
    parser.add_argument("--break", dest="broken", action="store_true", help="slow forked tasks down by 0.1 s")
    options = parser.parse_args()
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
    lines = table(columns)
    print("\n".join(lines))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "start.md").write_text("\n".join(lines) + "\n")
    plot(columns, OUT / "start.png")


if __name__ == "__main__":
    main()
