"""What it costs to send a large value to a cluster and to get one back: beside plain HTTP with the same bytes.

``python benchmarks/bench_cluster.py`` starts the control plane of the tests on loopback, a real kernel, and runs cells
with ``--remote``. Time is told as a ratio to a PUT and a GET of the same bytes in the same run, memory as the growth of
the kernel's peak in sizes of the value.
"""

from __future__ import annotations

import statistics
import sys
import time
import urllib.request
from pathlib import Path

from kernels import Kernel

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from loopback.bucket import ACCESS_KEY, NAME
from loopback.fixtures import DOMAIN, PROJECT
from loopback.handle import Plane

ROUNDS = 3
SIZE_MIB = 100
BOUND_RATIO = 2.0
BOUND_SIZES = 1.2
IMAGE = "example/bench:1"

SETUP = """%load_ext flyte_notebook
import os, resource
import flyte, flyte.storage
keys = flyte.storage.S3(**{keys!r})
flyte.init(endpoint={endpoint!r}, insecure=True, project={project!r}, domain={domain!r}, storage=keys)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
EMPTY = f"%%flyte_task --remote --image {IMAGE}\n1"
SENDS = f"%%flyte_task --remote --image {IMAGE}\nlen(value)"
RETURNS = f"%%flyte_task --remote --image {IMAGE} -o made\nmade = b'x' * ({SIZE_MIB} << 20)"
MAKE = f"value = os.urandom({SIZE_MIB} << 20)\nbefore = peak()"


def main() -> None:
    """Run and print; exit with 1 where a bound is missed."""
    missed = False
    with Plane() as plane, Kernel() as kernel:
        settings = {"endpoint": plane.endpoint, "project": PROJECT, "domain": DOMAIN, "keys": plane.bucket_settings}
        kernel.run(SETUP.format(**settings))
        kernel.run(EMPTY)
        empty_s = statistics.median(kernel.run(EMPTY).took_ms for _ in range(ROUNDS)) / 1000
        print(f"an empty cell {empty_s:5.2f} s")
        plain_s = statistics.median(_put_and_get(plane) for _ in range(ROUNDS))
        print(f"plain HTTP, PUT and GET of {SIZE_MIB} MiB: {plain_s:5.2f} s")
        for what, cell in (("in", SENDS), ("out", RETURNS)):
            took_s, grown = [], []
            for _ in range(ROUNDS):
                kernel.run("made = value = None")
                kernel.run(MAKE if what == "in" else "before = peak()")
                took_s.append(kernel.run(cell).took_ms / 1000 - empty_s)
                grown.append(float(kernel.run(f"print((peak() - before) / 1024 / {SIZE_MIB})").printed))
            ratio, sizes = statistics.median(took_s) / plain_s, max(grown)
            print(f"{what:>3}: {statistics.median(took_s):5.2f} s more, {ratio:4.1f} of plain (at most {BOUND_RATIO}),")
            print(f"     the kernel grows by {sizes:4.2f} of the value (at most {BOUND_SIZES})")
            missed = missed or ratio > BOUND_RATIO or sizes > BOUND_SIZES
    if missed:
        raise SystemExit(1)


def _put_and_get(plane: Plane) -> float:
    """Return the seconds of a PUT and a GET of the same size, straight to the bucket."""
    data = bytes(SIZE_MIB << 20)
    url, owner = f"{plane.bucket_endpoint}/{NAME}/bench", {"Authorization": f"Credential={ACCESS_KEY}/"}
    began_s = time.monotonic()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=owner, method="PUT")):  # noqa: S310 - loopback
        pass
    with urllib.request.urlopen(urllib.request.Request(url, headers=owner)) as answer:  # noqa: S310 - loopback
        while answer.read(1 << 20):
            pass
    return time.monotonic() - began_s


if __name__ == "__main__":
    main()
