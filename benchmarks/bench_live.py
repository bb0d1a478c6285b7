"""What the live line costs: CPU time of a notebook's kernel while a task runs, with the line and without, in one run.

Both are measured in the same kernel, in turn; what counts is the difference, in percent of one core. ``--actions`` has
the task call so many others at once, ``--break`` updates the line fifty times a second, to see that the benchmark
notices.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from typing import Any

from jupyter_client import KernelManager

BOUND_S = 300

SETUP = """
%load_ext flyte_notebook
import asyncio, contextlib, time
import flyte
from flyte_notebook.notebook import liveline
flyte.init()
env = flyte.TaskEnvironment(name="bench", resources=flyte.Resources(memory=("16Mi", "250Mi")))

@env.task
def wait(seconds: float) -> None:
    time.sleep(seconds)

@env.task
async def call(count: int, seconds: float) -> None:
    calls = [asyncio.ensure_future(wait.aio(seconds)) for _ in range(count)]
    await asyncio.sleep(seconds)
    for call in calls:
        call.cancel()

def measured(count, seconds, context):
    began, began_cpu = time.perf_counter(), time.process_time()
    with context:
        flyte.run(call, count, seconds) if count else flyte.run(wait, seconds)
    return 100 * (time.process_time() - began_cpu) / (time.perf_counter() - began)

measured(0, 1.0, contextlib.nullcontext())
"""


class Kernel:
    """A kernel, and how many messages of each kind its last cell sent."""

    def __init__(self) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(stderr=subprocess.DEVNULL)
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=BOUND_S)
        self.sent: dict[str, int] = {}

    def run(self, source: str) -> str:
        """Run a cell and return what it prints."""
        self.sent, printed = {}, []

        def hear(message: dict[str, Any]) -> None:
            self.sent[message["msg_type"]] = self.sent.get(message["msg_type"], 0) + 1
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self._client.execute_interactive(source, output_hook=hear, timeout=BOUND_S)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed)

    def close(self) -> None:
        """End it."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def main() -> None:
    """Print a table of medians, and their difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--actions", type=int, default=0)
    parser.add_argument("--break", dest="broken", action="store_true", help="update the line every 20 ms")
    options = parser.parse_args()
    contexts = {"without the live line": "liveline.hushed()", "with the live line": "contextlib.nullcontext()"}
    columns: dict[str, list[float]] = {name: [] for name in contexts}
    kernel = Kernel()
    try:
        kernel.run(SETUP)
        if options.broken:
            kernel.run("liveline.INTERVAL_S = 0.02")
        for _ in range(options.rounds):
            for name, context in contexts.items():
                printed = kernel.run(f"print(measured({options.actions}, {options.seconds}, {context}))")
                columns[name].append(float(printed.split()[-1]))
                assert bool(kernel.sent.get("comm_msg")) == (name == "with the live line"), kernel.sent
        updates = kernel.sent["comm_msg"] / options.seconds
    finally:
        kernel.close()
    without, with_line = map(statistics.median, columns.values())
    what = f"{options.actions or 'no'} nested actions, {options.seconds:g} s, median of {options.rounds}"
    print(f"{what:<48}{'% of one core':>14}")
    for name, values in columns.items():
        print(f"{name:<48}{statistics.median(values):>14.2f}")
    print(
        f"{'the line itself':<48}{with_line - without:>14.2f}   {with_line / without:.2f} x, {updates:.1f} messages/s"
    )


if __name__ == "__main__":
    main()
