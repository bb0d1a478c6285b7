"""The stations of the three journeys of ARCHITECTURE.md, counted on runs that are traced: ``python stations.py``.

A station is a function that a function of another module calls and to which the data are given: the text of the cell,
its options, its task, the run, the job, the report, the outcome, a rerun, or an object that was made of one of them. A
function counts once, and one that only reads (an attribute, a word for a message) is no station: it must call on. Only
what happens in the notebook's kernel is seen. Another version is counted with ``PYTHONPATH``.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell

if TYPE_CHECKING:
    from types import FrameType

DATA = {
    *("CellOptions", "CellParts", "CellSource", "CellTask", "CellRun", "Cell", "CellOutcome", "Run", "Job", "Origin"),
    *("Request", "WorkerReport", "Failure", "Success", "Attempt", "AttemptInWorker", "Rerun", "Repeat", "Override"),
    *("Card", "FormData", "ReturnedValues"),
}
SETUP = """%load_ext flyte_notebook
import asyncio, flyte
from flyte_notebook.sdk import enforcement
enforcement.current().engine.wait_until_proven()
x = 5
env = flyte.TaskEnvironment(name="e", resources=flyte.Resources(memory="250Mi"))
@env.task
async def child(x: int) -> int:
    return x + 1
@env.task
async def parent(x: int) -> int:
    return await child(x)
"""
JOURNEYS = {
    "from a cell to its card": "%%flyte_task oomer --memory 250Mi\nsize = len([0] * 100_000_000 * x)\nsize",
    "a nested call": "flyte.run(parent, 1)",
    "a rerun": "%flyte rerun --memory 1Gi",
}


class Trace:
    """What was called, in order: module and function."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.begin("")

    def begin(self, cell: str) -> None:
        """Start anew; without a cell nothing is looked at."""
        self.cell = cell
        self.found: dict[str, None] = {}
        self.calls: set[str] = set()

    @property
    def stations(self) -> list[str]:
        """The functions that called on. Of the views only the first one: the others write down what it was given."""
        found = [name for name in self.found if name in self.calls]
        views = [name for name in found if name.startswith("views")]
        return [name for name in found if name not in views[1:]]

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Take one event, as ``sys.setprofile`` gives it."""
        if (
            not self.cell
            or event != "call"
            or not frame.f_code.co_filename.startswith(self.root)
            or frame.f_back is None
        ):
            return
        here, caller = self.name(frame), self.caller(frame)
        if caller is None or here.partition(":")[0] == caller.partition(":")[0]:
            return
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[:count]]
        if any(type(value).__name__ in DATA or (type(value) is str and self.cell in value) for value in given):
            self.found.setdefault(here)
            self.calls.add(caller)

    def caller(self, frame: FrameType) -> str | None:
        """Return the function of the package that called, whatever of others stands between."""
        above = frame.f_back
        while above is not None and not above.f_code.co_filename.startswith(self.root):
            above = above.f_back
        return None if above is None else self.name(above)

    def name(self, frame: FrameType) -> str:
        """Return module and function."""
        module = os.path.relpath(frame.f_code.co_filename, self.root).removesuffix(".py")
        return f"{module}:{getattr(frame.f_code, 'co_qualname', frame.f_code.co_name)}"


def main() -> None:
    """Run and print."""
    import flyte_notebook  # noqa: PLC0415 - after the path is known

    root = str(Path(str(flyte_notebook.__file__)).parent)
    trace = Trace(root)
    threading.setprofile(trace)  # of threads that begin from now on
    shell: Any = InteractiveShell.instance()
    shell.run_cell(SETUP)
    for journey, cell in JOURNEYS.items():
        trace.begin(cell.partition("\n")[2] or cell)
        sys.setprofile(trace)
        shell.run_cell(cell)
        sys.setprofile(None)
        stations = trace.stations
        trace.begin("")
        print(f"\n{journey}: {len(stations)} stations in {len({name.partition(':')[0] for name in stations})} modules")
        print("\n".join(f"  {name}" for name in stations))
    shell.run_cell("%unload_ext flyte_notebook")


if __name__ == "__main__":
    main()
