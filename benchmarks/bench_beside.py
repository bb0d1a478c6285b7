"""Side by side with the SDK alone and with pools that people know: the same tasks, in one run.

A no-op, 32 of them at once, 1 GiB into a task and out of it, and a task that takes more than the 250 MiB that it may:
who catches that, how late after it went past them, and how far past them it came. Each contestant is measured in a
process of its own (`pools`). Those that keep their workers answer faster because they isolate no task from the next.

The table goes to stdout and to ``build/bench/beside.md``, a plot of it to ``build/bench/beside.png``. ``--quick`` does
fewer rounds with a smaller array, ``--break`` slows our no-ops down by a tenth of a second, to see that the benchmark
notices.
"""

from __future__ import annotations

import budget
import pools
import warming
from budget import Row
from pool_work import MIB

GIB = 1 << 30


def column(name: str, size: int, rounds: int, wait_s: float) -> dict[str, float | str]:
    """Return the measures of one contestant."""
    tasks = pools.in_a_process(name, "tasks", 0, rounds, wait_s)
    array = pools.in_a_process(name, "array", size, max(1, rounds // 8))
    entry = pools.CONTESTANTS[name]
    values: dict[str, float | str] = {"own": "yes" if entry.own_process else "no"}
    if "failed" in tasks:
        values |= dict.fromkeys(("once", "together", "caught", "late", "over"), str(tasks["failed"]))
    else:
        values |= {
            "once": tasks["once_s"] * 1000,
            "together": tasks["together_s"],
            "caught": tasks["caught"],
            "late": "never" if tasks["late_s"] is None else tasks["late_s"] * 1000,
            "over": tasks["over_bytes"] / MIB,
        }
    if "failed" in array:
        return values | dict.fromkeys(("in", "out"), str(array["failed"]))
    return values | {"in": size / GIB / array["in_s"], "out": size / GIB / array["out_s"]}


def main() -> None:
    """Measure and report."""
    options = budget.options(__doc__, "slow our no-ops down by 0.1 s")
    size, rounds = (GIB // 4, 4) if options.quick else (GIB, 8)
    columns = {
        name: column(name, size, rounds, 0.1 if options.broken and name.startswith("flyte_notebook") else 0.0)
        for name in pools.CONTESTANTS
    }
    what = f"{size >> 20} MiB"
    rows = {
        "own": Row(name="a process of its own for each task", unit=""),
        "once": Row(name="a no-op", unit="ms"),
        "together": Row(name=f"{pools.TOGETHER} no-ops at once", unit="s", bar=1),
        "in": Row(name=f"{what} into a task", unit="GiB/s", bar=1, higher=True),
        "out": Row(name=f"{what} out of a task", unit="GiB/s", bar=1, higher=True),
        "caught": Row(name="more than 250 MiB: caught by", unit=""),
        "late": Row(name="more than 250 MiB: exception in the caller after", unit="ms", bar=30),
        "over": Row(name="more than 250 MiB: beyond them by then", unit="MiB", bar=0),
    }
    notes = (
        f"medians of {rounds} no-ops; a task that nobody stops takes {pools.MOST_BYTES // MIB} MiB",
        f"pools have {pools.CORES} workers, one for each core",
        warming.NOTE,
    )
    budget.report("beside", rows, columns, notes)


if __name__ == "__main__":
    main()
