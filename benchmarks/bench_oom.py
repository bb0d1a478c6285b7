"""From the kernel's kill of a task that needs too much memory to the exception in whoever awaits it.

A task takes memory in steps of 64 KiB and notes the time of each in a file, so that its last step is known when it is
dead. Until the killed process is gone the kernel takes its memory back; how long that takes is measured in the same run
by hand: the same steps in a bare interpreter, in a control group of its own, up to the return of ``waitpid``. The table
goes to stdout and to ``build/bench/oom.md``, a plot of it to ``build/bench/oom.png``. ``--quick`` does fewer rounds,
``--break`` slows the diagnosis down by a tenth of a second, to see that the benchmark notices.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import budget
import flyte
import flyte.errors
import pool_work
from budget import Row
from pool_work import MIB

import flyte_notebook as fn
from flyte_notebook.core.diagnosis import diagnose
from flyte_notebook.core.limits import Limits
from flyte_notebook.engine import engine as engine_module
from flyte_notebook.limiters import affinity, selection
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.limiters.base import Limiter

BAR_MS = 30.0
BAR_OVER_TEARDOWN_MS = 15.0
SIZES_MIB = (250, 1024)
"""The bar is a number for the first; for the other it is what it takes beyond the kernel's own work."""

env = flyte.TaskEnvironment(name="bench_oom", resources=flyte.Resources(memory="250Mi"))


@env.task
def grows(place: str, limit_mib: int) -> int:
    """Take more than the limit."""
    return pool_work.grow(place, limit_mib * MIB, 2 * limit_mib * MIB, 0.0)


@env.task
async def awaits(place: str, limit_mib: int) -> float:
    """Return when the exception of a nested task was here."""
    task = grows.override(resources=flyte.Resources(memory=f"{limit_mib}Mi"))
    try:
        await task.aio(place, limit_mib)
    except flyte.errors.OOMError:
        return time.monotonic()
    raise AssertionError("it was not killed")


def nested_ms(place: Path, limit_mib: int) -> float:
    """Return how late a parent in a worker hears of it."""
    pool_work.lay_out(place)
    heard_s: float = flyte.run(awaits, str(place), limit_mib).outputs()[0]
    return (heard_s - pool_work.noted(place).last_s) * 1000


def direct_ms(place: Path, limit_mib: int) -> float:
    """Return how late the caller of ``flyte.run`` hears of it."""
    pool_work.lay_out(place)
    try:
        flyte.run(grows.override(resources=flyte.Resources(memory=f"{limit_mib}Mi")), str(place), limit_mib)
    except flyte.errors.OOMError:
        return (time.monotonic() - pool_work.noted(place).last_s) * 1000
    raise AssertionError("it was not killed")


def teardown_ms(limiter: Limiter, place: Path, limit_mib: int) -> float:
    """Return how long the kernel takes until a bare interpreter that it killed is gone."""
    pool_work.lay_out(place)
    group = limiter.group(f"teardown-{os.urandom(4).hex()}", Limits(memory_bytes=limit_mib * MIB))
    program = "import sys, pool_work; pool_work.grow(sys.argv[1], *map(int, sys.argv[2:]), 0.0)"
    arguments = [str(place), str(limit_mib * MIB), str(2 * limit_mib * MIB)]
    try:
        process = subprocess.Popen(  # it joins the group before exec, as a worker does
            [sys.executable, "-c", program, *arguments],
            cwd=Path(__file__).parent,
            preexec_fn=lambda: affinity.join(group.procs_files, group.cpus),  # noqa: PLW1509 - this thread holds no lock
        )
        process.wait()
        gone_s = time.monotonic()
        assert group.counters().oom_kills, "the kernel did not kill it"
    finally:
        group.remove()
    return (gone_s - pool_work.noted(place).last_s) * 1000


@contextmanager
def by_hand() -> Iterator[Limiter]:
    """Give a limiter with a session of its own, beside that of the tasks."""
    limiter = selection.choose(session=selection.session_name(os.getpid()))
    try:
        yield limiter
    finally:
        limiter.close()


@contextmanager
def slowed(wait_s: float) -> Iterator[None]:
    """Have each diagnosis take longer."""
    if not wait_s:
        yield
        return

    def slow(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as what it stands for
        time.sleep(wait_s)
        return diagnose(*args, **kwargs)

    with mock.patch.object(engine_module, "diagnose", slow):
        yield


def measured(rounds: int, wait_s: float) -> dict[str, list[float]]:
    """Return all times, in turn; empty where no limit of the kernel's can be set."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, by_hand() as limiter, fn.enable(), slowed(wait_s):
        if limiter.enforcement.memory == "watchdog":
            return {}
        session = enforcement.current()
        assert session is not None
        session.engine.wait_until_proven()
        place = Path(directory, "growth")
        for count in range(rounds + 1):
            for size in SIZES_MIB:
                times = {
                    f"nested {size}": nested_ms(place, size),
                    f"direct {size}": direct_ms(place, size),
                    f"teardown {size}": teardown_ms(limiter, place, size),
                }
                if count:  # the first round loads and warms
                    for key, value in times.items():
                        found.setdefault(key, []).append(value)
    return found


def main() -> None:
    """Measure and report."""
    options = budget.options(__doc__, "slow the diagnosis down by 0.1 s")
    rounds = 3 if options.quick else 15
    flyte.init()
    found = measured(rounds, 0.1 if options.broken else 0.0)
    if not found:
        print("no memory limit of the kernel's can be set here: nothing to measure")
        return
    medians = {key: statistics.median(values) for key, values in found.items()}
    rows: dict[str, Row] = {}
    for size in SIZES_MIB:
        bar = BAR_MS
        if size != SIZES_MIB[0]:
            bar = round(medians[f"teardown {size}"] + BAR_OVER_TEARDOWN_MS, 1)
        rows |= {
            f"nested {size}": Row(name=f"{size} MiB: kill to exception in the awaiting task", unit="ms", bar=bar),
            f"direct {size}": Row(name=f"{size} MiB: kill to exception of flyte.run", unit="ms", bar=bar),
            f"teardown {size}": Row(name=f"{size} MiB: the kernel's own teardown, by hand", unit="ms"),
        }
    columns = {f"median of {rounds}": medians, "highest": {key: max(values) for key, values in found.items()}}
    beyond = f"{BAR_OVER_TEARDOWN_MS:g} ms over the kernel's own teardown of this run"
    budget.report("oom", rows, columns, (f"above {SIZES_MIB[0]} MiB the bar is {beyond}",))


if __name__ == "__main__":
    main()
