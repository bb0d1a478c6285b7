"""What it costs a hot loop of pure Python that another process reads its stack, at intervals of 2 to 100 ms.

While memory moves the supervisor looks every 2 to 20 ms, else ten times a second. The same process runs the loop with
and without being read, in turns. What counts is the processor time of the loop, as the process itself measures it, and
of all pairs of rounds the median: others use this machine too. The table goes to stdout and to ``build/bench/line.md``,
a plot of it to ``build/bench/line.png``. ``--quick`` runs shorter, ``--break`` has the process follow its own calls
meanwhile, as a profiler does, to see that the benchmark notices.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import budget
from budget import Row

from flyte_notebook.worker.process import handover, protocol

if TYPE_CHECKING:
    from flyte_notebook.worker.stacks.pystack import StackReader

INTERVALS_S = (0.002, 0.005, 0.02, 0.1)
BAR_PERCENT = 2
COUNT = 1_000_000
"""Of turns of the loop: about a tenth of a second."""

PROGRAM = """
import socket, sys, time
sys.path[:] = sys.argv[2].split(":")
from flyte_notebook.worker.process import handover
with socket.socket(fileno=int(sys.argv[1])) as sock:
    handover.send(sock, {"kind": "stack", **handover.layout_message()})
def step(n):
    return n % 7 + 1
def loop(count):
    total = 0
    for number in range(count):
        total += step(number)
    return total
for line in sys.stdin:
    count, profiled = line.split()
    sys.setprofile((lambda *_: None) if profiled == "True" else None)
    began = time.process_time()
    loop(int(count))
    print(time.process_time() - began, flush=True)
"""


def started() -> tuple[subprocess.Popen[str], StackReader]:
    """Start the process; return it and what reads it."""
    ours, theirs = socket.socketpair()
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(theirs.fileno()),
        ":".join(filter(None, [str(Path.cwd()), *sys.path])),
    ]
    process = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    theirs.close()
    with ours:
        ((message, fds),) = protocol.ControlReader(ours).read()
    reader, why = handover.received(message, fds)
    assert reader is not None, why
    return process, reader


def timed(process: subprocess.Popen[str], count: int, *, profiled: bool = False) -> float:
    """Return what the loop takes in the process, in seconds of the processor."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{count} {profiled}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


class Reading:
    """Reads the stacks of the process at an interval, in a thread, for as long as the block lasts."""

    def __init__(self, process: subprocess.Popen[str], reader: StackReader, interval_s: float) -> None:
        self._process, self._reader, self._interval_s = process, reader, interval_s
        self.reads_s: list[float] = []
        self.unknown = 0

    def __enter__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._over.wait(self._interval_s):
            began = time.perf_counter()
            stacks = [self._reader.stack(thread) for thread in self._reader.threads()]
            self.reads_s.append(time.perf_counter() - began)
            self.unknown += all(stack is None for stack in stacks)


def cost_percent(process: subprocess.Popen[str], reading: Reading, rounds: int, *, broken: bool) -> float:
    """Return by how much the loop is dearer while it is read, in percent: the median of so many pairs, in turns."""
    ratios = []
    for number in range(rounds):
        alone_s = watched_s = 0.0
        for watched in (False, True) if number % 2 else (True, False):  # what drifts does so for both
            if watched:
                with reading:
                    watched_s = timed(process, COUNT, profiled=broken)
            else:
                alone_s = timed(process, COUNT)
        ratios.append(watched_s / alone_s)
    return 100 * (statistics.median(ratios) - 1)


def noise_percent(process: subprocess.Popen[str], rounds: int) -> float:
    """Return by how much two loops differ that nobody reads, in percent: the median of so many pairs."""
    pairs = [(timed(process, COUNT), timed(process, COUNT)) for _ in range(rounds)]
    return 100 * statistics.median(abs(after / before - 1) for before, after in pairs)


def main() -> None:
    """Measure and report."""
    options = budget.options(__doc__, "have the process follow its own calls")
    rounds = 4 if options.quick else 30
    process, reader = started()
    timed(process, COUNT)
    rows: dict[str, Row] = {}
    values: dict[str, float] = {}
    for interval_s in INTERVALS_S:
        reading = Reading(process, reader, interval_s)
        name = f"read every {interval_s * 1000:g} ms"
        rows |= {
            f"cost {name}": Row(name=f"{name}: a hot loop takes longer by", unit="%", bar=BAR_PERCENT),
            f"read {name}": Row(name=f"{name}: one read", unit="ms"),
            f"unknown {name}": Row(name=f"{name}: could not be read", unit="% of reads"),
        }
        values[f"cost {name}"] = cost_percent(process, reading, rounds, broken=options.broken)
        values[f"read {name}"] = 1000 * statistics.median(reading.reads_s or [0.0])
        values[f"unknown {name}"] = 100 * reading.unknown / max(1, len(reading.reads_s))
    rows["noise"] = Row(name="two loops that nobody reads differ by", unit="%")
    values["noise"] = noise_percent(process, rounds)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    reader.close()
    notes = (f"processor time of the loop itself; median of {rounds} pairs, in turns",)
    budget.report("line", rows, {"measured": values}, notes)


if __name__ == "__main__":
    main()
