"""What it costs a hot loop of pure Python that another process reads its stack, at intervals of 2 to 100 ms.

While memory moves the supervisor looks every 2 to 20 ms, else ten times a second. The same process runs the loop with
and without being read, in turns. What counts is the processor time of the loop, as the process itself measures it, and
of all pairs of rounds the median: others use this machine too. ``--break`` has the process follow its own calls
meanwhile, as a profiler does, to see that the benchmark notices.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.worker import handover, protocol

if TYPE_CHECKING:
    from flyte_notebook.worker.pystack import StackReader

PROGRAM = """
import socket, sys, time
sys.path[:] = sys.argv[2].split(":")
from flyte_notebook.worker import handover
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


def main() -> None:
    """Print a table of intervals, costs and what was read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--break", dest="broken", action="store_true", help="have the process follow its own calls")
    options = parser.parse_args()
    process, reader = started()
    timed(process, options.count)
    print(f"{'every':>8}{'loop, s':>10}{'read, s':>10}{'cost':>8}{'a read, ms':>12}{'unknown':>10}")
    for interval_s in (0.002, 0.005, 0.02, 0.1):
        alone: list[float] = []
        watched: list[float] = []
        reading = Reading(process, reader, interval_s)
        for _ in range(options.rounds):
            alone.append(timed(process, options.count))
            with reading:
                watched.append(timed(process, options.count, profiled=options.broken))
        base, watching = statistics.median(alone), statistics.median(watched)
        cost = statistics.median(after / before for before, after in zip(alone, watched, strict=True)) - 1
        share = f"{reading.unknown / max(1, len(reading.reads_s)):.1%}"
        print(
            f"{interval_s * 1000:>5.0f} ms{base:>10.3f}{watching:>10.3f}{cost:>8.1%}"
            f"{statistics.median(reading.reads_s or [0.0]) * 1000:>12.3f}{share:>10}"
        )
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    reader.close()


if __name__ == "__main__":
    main()
