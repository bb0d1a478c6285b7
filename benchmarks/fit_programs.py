"""Programs whose memory is known, as Flyte tasks: what is fitted by `bench_fit`.

Nothing of ours is imported here, so that a plain interpreter and the entry point of a Flyte pod load no more than they
would of somebody else's tasks.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import flyte

if TYPE_CHECKING:
    from typing import BinaryIO

MIB = 1 << 20


def uncached(path: str) -> BinaryIO:
    """Open a file of which nothing is in the page cache, so that its pages are charged to whoever reads it."""
    file = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


env = flyte.TaskEnvironment(name="programs", resources=flyte.Resources(cpu=1, memory="1Gi"))


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
def next_to_nothing(size_mib: int) -> int:
    """Hold less than the interpreter itself."""
    return len(bytearray(size_mib << 20))


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
