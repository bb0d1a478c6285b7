"""What isolation costs: an enforced no-op action against the SDK alone and against bare interpreters, in one run.

Machines are noisy: numbers are medians, and what counts is the ratio to an interpreter that imports the same.
``--break`` makes the enforced action slower on purpose by a tenth of a second, to see that the benchmark notices.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import flyte

import flyte_notebook as fn

if TYPE_CHECKING:
    from collections.abc import Callable

env = flyte.TaskEnvironment(name="bench", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
async def nothing(wait_s: float) -> float:
    """Do nothing, or wait a while."""
    time.sleep(wait_s)  # noqa: ASYNC251 - the broken variant is to be slow, however
    return wait_s


def timed(call: Callable[[], object]) -> float:
    """Return how long a call takes, in milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def python(program: str) -> None:
    """Run a program in a fresh interpreter."""
    subprocess.run([sys.executable, "-c", program], check=True)


def main() -> None:
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--break", dest="broken", action="store_true", help="slow the enforced action down by 0.1 s")
    options = parser.parse_args()
    wait_s = 0.1 if options.broken else 0.0
    flyte.init()

    def enforced() -> None:
        assert flyte.run(nothing, wait_s).outputs()[0] == wait_s

    columns: dict[str, list[float]] = {
        "SDK alone": [],
        "python -c pass": [],
        "python, import flyte": [],
        "enforced": [],
    }
    for _ in range(options.rounds):
        columns["SDK alone"].append(timed(lambda: flyte.run(nothing, 0.0)))
        columns["python -c pass"].append(timed(lambda: python("pass")))
        columns["python, import flyte"].append(timed(lambda: python("import flyte_notebook.sdk.inside")))
    with fn.enable():
        enforced()
        columns["enforced"] = [timed(enforced) for _ in range(options.rounds)]
    base = statistics.median(columns["python, import flyte"])
    print(f"{'a no-op action, median of ' + str(options.rounds):<34}{'ms':>8}{'x interpreter with flyte':>28}")
    for name, values in columns.items():
        median = statistics.median(values)
        print(f"{name:<34}{median:>8.1f}{median / base:>28.2f}")


if __name__ == "__main__":
    main()
