"""A real notebook kernel for benchmarks, and a large array that goes into a cell's task and comes out of it.

Times that are taken in different processes are compared: `time.monotonic` counts from the same moment in all processes
of one machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import warming
from jupyter_client import KernelManager

from flyte_notebook.engine.link import WORKERS_VARIABLE

if TYPE_CHECKING:
    from types import TracebackType

PATIENCE_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell that ran: what it printed, and when it was asked for and the kernel was idle again."""

    printed: str
    began_s: float
    idle_s: float

    @property
    def took_ms(self) -> float:
        """From the execute request to idle."""
        return (self.idle_s - self.began_s) * 1000


class Kernel:
    """A kernel of its own process, of another ``python`` if one is named; ``workers`` is empty or ``fresh``.

    It starts in an empty directory: one with a folder ``flyte_notebook`` would stand before the package that is
    installed, and workers are not forked where a fresh interpreter would import something else.
    """

    def __init__(self, workers: str = "", python: str = "") -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._manager = KernelManager(kernel_name="python3")
        if python:
            self._manager.kernel_spec.argv[0] = python
        self._manager.start_kernel(env={**os.environ, WORKERS_VARIABLE: workers}, cwd=self._directory.name)
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE_S)

    def __enter__(self) -> Kernel:  # noqa: PYI034 - Self is of Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._directory.cleanup()

    def load(self) -> None:
        """Load the extension, and wait until its workers are proven and a first task ran."""
        self.run("%load_ext flyte_notebook")
        self.run("import flyte_notebook; flyte_notebook.doctor()")
        self.run("%%flyte_task --memory 250Mi\npass")

    def begin(self, source: str) -> tuple[str, float]:
        """Ask for a cell; give what this returns to `finish`."""
        began_s = time.monotonic()
        return self._client.execute(source), began_s

    def finish(self, asked: tuple[str, float]) -> Cell:
        """Wait until the kernel is idle after a cell. Raises RuntimeError with the traceback when the cell failed."""
        identity, began_s = asked
        printed: list[str] = []
        while True:
            event = self._client.get_iopub_msg(timeout=PATIENCE_S)
            if event["parent_header"].get("msg_id") != identity:
                continue
            content = event["content"]
            if event["msg_type"] == "error":
                raise RuntimeError("\n".join([*content["traceback"], f"{content['ename']}: {content['evalue']}"]))
            if event["msg_type"] == "stream" and content["name"] == "stdout":
                printed.append(content["text"])
            if event["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        idle_s = time.monotonic()
        self._client.get_shell_msg(timeout=PATIENCE_S)
        return Cell(printed="".join(printed), began_s=began_s, idle_s=idle_s)

    def run(self, source: str) -> Cell:
        """Run a cell to its end."""
        return self.finish(self.begin(source))

    def number(self, expression: str) -> float:
        """Return the value of an expression in the kernel."""
        return float(self.run(f"print({expression})").printed)


INTO = """%%flyte_task --memory {limit_mib}Mi -i array -o started_s
import time
started_s = time.monotonic()
assert array[0] == array[-1] == 1.0
"""
OUT_OF = """%%flyte_task --memory {limit_mib}Mi -o array,done_s
import time
import numpy as np
array = {array}
done_s = time.monotonic()
"""
PEAK = """
import re
def kibibytes(key):
    with open("/proc/self/status") as status:
        return int(re.search(key + r":\\s+(\\d+)", status.read())[1])
def forget_peak():
    with open("/proc/self/clear_refs", "w") as references:
        references.write("5")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """An array on its way into a task and out of one: seconds, and the most by which the kernel grew meanwhile."""

    in_s: float
    out_s: float
    in_growth_bytes: float
    out_growth_bytes: float


def pass_array(kernel: Kernel, array_bytes: int, *, strided: bool = False) -> Passage:
    """Send an array of so many bytes through cells of a kernel that has loaded the extension.

    In: from the execute request until the body of the cell begins. Out: from the moment the task has the array until
    the kernel is idle. ``strided`` sends an array whose memory is not in one piece, which is to be slow.
    """
    items = array_bytes // 8
    array = f"np.full({items * 2}, 1.0)[::2]" if strided else f"np.full({items}, 1.0)"
    settings = {"limit_mib": (array_bytes >> 20) * 5 + 250, "array": array}
    kernel.run(f"import numpy as np\n{PEAK}\narray = {array}\nforget_peak(); before = kibibytes('VmRSS')")
    warming.touch(warming.PASSES * array_bytes)
    cell = kernel.run(INTO.format(**settings))
    in_s = kernel.number("started_s") - cell.began_s
    in_growth_bytes = kernel.number("kibibytes('VmHWM') - before") * 1024
    kernel.run("del array; forget_peak(); before = kibibytes('VmRSS')")
    warming.touch(warming.PASSES * array_bytes)
    cell = kernel.run(OUT_OF.format(**settings))
    out_s = cell.idle_s - kernel.number("done_s")
    out_growth_bytes = kernel.number("kibibytes('VmHWM') - before") * 1024
    assert kernel.number("array[0] + array[-1]") == 2.0  # noqa: PLR2004 - two ones
    kernel.run("del array")
    return Passage(in_s=in_s, out_s=out_s, in_growth_bytes=in_growth_bytes, out_growth_bytes=out_growth_bytes)
