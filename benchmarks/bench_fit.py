"""Whether a fitted limit is the edge: programs of known need, fitted, then run at the limit and below it.

Each program is fitted; then it runs ten times under the limit that was found, which has to pass each time, and three
times at 95% of it, which has to be killed. The table goes to stdout and to ``build/bench/fit.md``. ``--rounds`` changes
the ten; ``--only WORD`` takes the programs whose name contains a word; ``--break`` fits 4% too low on purpose, to see
that the benchmark notices.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors

import flyte_notebook as fn

if TYPE_CHECKING:
    from typing import BinaryIO

    from flyte_notebook.fitting import Fit

OUT = Path("build", "bench")
MIB = 1 << 20
MOST_RUNS = 3


def uncached(path: str) -> BinaryIO:
    """Open a file of which nothing is in the page cache, so that its pages are charged to whoever reads it."""
    file = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


env = flyte.TaskEnvironment(name="bench_fit", resources=flyte.Resources(cpu=1, memory="1Gi"))


@env.task
def list_of_ints(count: int) -> int:
    """Hold distinct ints: 8 bytes of list and 32 of int for each."""
    return len(list(range(1_000, 1_000 + count)))


@env.task
def numpy_arrays(count: int) -> float:
    """Hold three arrays at one time."""
    import numpy as np  # noqa: PLC0415 - what the worker loads counts

    ones = np.ones(count)
    return float((ones * 2 + ones).sum())


@env.task
def pandas_groupby(rows: int) -> int:
    """Group a frame by an integer key."""
    import numpy as np  # noqa: PLC0415 - as above
    import pandas as pd  # noqa: PLC0415 - as above

    frame = pd.DataFrame({"key": np.arange(rows) % 1_000, "value": np.arange(rows, dtype=float)})
    return len(frame.groupby("key").agg(["sum", "mean", "std"]))


@env.task
def strings(count: int) -> int:
    """Hold distinct strings, and all of them joined."""
    words = [f"word number {number}" for number in range(count)]
    return len(" ".join(words))


@env.task
def child_process(size_mib: int) -> int:
    """Have another process allocate."""
    code = f"print(len(bytearray({size_mib} << 20)))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


@env.task
def mmap_of_a_file(path: str, own_mib: int) -> int:
    """Read a file of 300 MiB through a map, and hold some memory of its own."""
    import mmap  # noqa: PLC0415 - as above

    own = bytearray(own_mib << 20)
    with uncached(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return sum(mapped[at] for at in range(0, len(mapped), 4096)) + len(own)


@env.task
def gradual_leak(steps: int) -> int:
    """Grow by 1 MiB every 3 ms, and keep all of it."""
    held = []
    for _ in range(steps):
        held.append(bytearray(MIB))
        time.sleep(0.003)
    return len(held)


@env.task
def one_big_allocation(size_mib: int) -> int:
    """Allocate once, and give it back at once."""
    return len(bytearray(size_mib << 20))


@env.task
def fragmented(count: int) -> int:
    """Free every second of many small objects, then hold larger ones that do not fit into the holes."""
    small = [bytes(200 + number % 300) for number in range(count)]
    del small[::2]
    large = [bytes(900) for _ in range(count // 4)]
    return len(small) + len(large)


@env.task
def threads(count: int) -> int:
    """Allocate in four threads at one time."""
    held: list[list[bytes]] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        held.append([bytes(100) for _ in range(count)])
        barrier.wait()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(held)


@env.task
def recursion(depth: int) -> int:
    """Hold memory in each of many frames."""
    sys.setrecursionlimit(10 * depth)

    def down(left: int) -> int:
        held = bytearray(100_000)
        return len(held) + (down(left - 1) if left else 0)

    return down(depth)


@env.task
def frees_before_it_ends(size_mib: int) -> int:
    """Hold much for 20 ms, then work on with little: samples at its end see nothing of it."""
    held = bytearray(size_mib << 20)
    time.sleep(0.02)
    size = len(held)
    del held
    time.sleep(0.5)
    return size


@env.task
def reads_a_large_file(path: str, own_mib: int) -> int:
    """Read 300 MiB in pieces: nearly all of the kernel's peak is page cache."""
    own, size = bytearray(own_mib << 20), 0
    with uncached(path) as file:
        while piece := file.read(MIB):
            size += len(piece)
    return size + len(own)


@env.task
def by_chance(most_mib: int) -> int:
    """Need half of a size, or more by chance, up to all of it."""
    return len(bytearray(random.Random(os.urandom(8)).randint(most_mib // 2, most_mib) << 20))  # noqa: S311 - no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A task with inputs; ``certain`` when each run of it needs the same."""

    task: Any
    inputs: dict[str, Any]
    certain: bool = True


@dataclass(slots=True, kw_only=True)
class Row:
    """What became of one program: its fit, and how often it passed at the limit and below."""

    fit: Fit
    passed: int = 0
    killed: int = 0


def programs(file: str) -> list[Program]:
    """Return what is fitted; ``file`` has 300 MiB."""
    return [
        Program(task=list_of_ints, inputs={"count": 4_000_000}),
        Program(task=numpy_arrays, inputs={"count": 8_000_000}),
        Program(task=pandas_groupby, inputs={"rows": 2_000_000}),
        Program(task=strings, inputs={"count": 1_500_000}),
        Program(task=child_process, inputs={"size_mib": 150}),
        Program(task=mmap_of_a_file, inputs={"path": file, "own_mib": 80}),
        Program(task=gradual_leak, inputs={"steps": 200}),
        Program(task=one_big_allocation, inputs={"size_mib": 400}),
        Program(task=fragmented, inputs={"count": 400_000}),
        Program(task=threads, inputs={"count": 300_000}),
        Program(task=recursion, inputs={"depth": 900}),
        Program(task=frees_before_it_ends, inputs={"size_mib": 250}),
        Program(task=reads_a_large_file, inputs={"path": file, "own_mib": 80}),
        Program(task=by_chance, inputs={"most_mib": 200}, certain=False),
    ]


def passes(program: Program, memory_bytes: int) -> bool:
    """Run once under a limit; return whether it passed. Raises what it failed with, except for memory."""
    limited = program.task.override(resources=flyte.Resources(cpu=1, memory=str(memory_bytes)))
    try:
        flyte.run(limited, **program.inputs)
    except flyte.errors.OOMError:
        return False
    return True


def measured(program: Program, rounds: int, share: float) -> Row:
    """Fit a program, and see whether the limit is the edge. ``share`` spoils it."""
    row = Row(fit=fn.fit(program.task, **program.inputs))
    memory_bytes = int((row.fit.memory_bytes or 0) * share)
    row.passed = sum(passes(program, memory_bytes) for _ in range(rounds))
    row.killed = sum(not passes(program, int(0.95 * memory_bytes)) for _ in range(max(1, rounds // 3)))
    return row


def cells(program: Program, row: Row, rounds: int) -> tuple[list[str], bool]:
    """Return a row of the table, and whether everything held."""
    below = max(1, rounds // 3)
    good = row.passed == rounds and row.killed == below and len(row.fit.runs) <= MOST_RUNS
    task = row.fit.task
    verdict = ("held" if good else "MISSED") if program.certain else "by chance"
    return [
        program.task.short_name,
        f"{(task.peak_bytes or 0) / MIB:.1f}",
        f"{(task.counted_bytes or 0) / MIB:.1f}",
        str(row.fit.memory),
        f"{(task.recommended_bytes or 0) // MIB}Mi",
        str(len(row.fit.runs)),
        f"{row.passed} of {rounds}",
        f"{row.killed} of {below}",
        verdict,
    ], good or not program.certain


def main() -> None:
    """Fit, check, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="how often the limit has to pass")
    parser.add_argument("--only", default="", help="take the programs whose name contains this")
    parser.add_argument("--break", dest="broken", action="store_true", help="take 4%% less than was found")
    options = parser.parse_args()
    flyte.init()
    head = ["program", "peak MiB", "that counts", "fitted", "keep", "runs", "passes", "killed at 95%", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    all_good = True
    with tempfile.TemporaryDirectory() as place, fn.enable():
        file = Path(place, "large")
        file.write_bytes(os.urandom(MIB) * 300)
        os.sync()  # dirty pages stay in the cache whatever is asked
        for program in programs(str(file)):
            if options.only not in program.task.short_name:
                continue
            row, good = cells(
                program, measured(program, options.rounds, 0.96 if options.broken else 1.0), options.rounds
            )
            all_good = all_good and good
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    print("\n".join(lines))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "fit.md").write_text("\n".join(lines) + "\n")
    sys.exit(0 if all_good else 1)


if __name__ == "__main__":
    main()
