"""Code of cells keeps its file, its lines and its text in a task, whatever release of cloudpickle ships it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

TASKS = """
import inspect, time, traceback, uuid
env = flyte.TaskEnvironment(name="code", resources=flyte.Resources(cpu=1, memory="200Mi"))
cached = env.clone_with(name="code_cached", cache="auto")
salt = uuid.uuid4().hex
@cached.task
async def when(salt: str) -> float: return time.time()
@cached.task
def tenfold(x: int) -> int: return 10 * x
def half(x): return 1 / x
def grow(kept):
    while True:
        kept.append(bytearray(1 << 20))  # grows
@env.task
async def calls_cached(salt: str) -> bool: return await when(salt) == await when(salt) != await when(salt + "x")
@env.task
def maps_cached(n: int) -> list[int]: return list(flyte.map(tenfold, range(n)))
@env.task
def grows() -> None: grow([])
@env.task
def fails() -> None: half(0)
@env.task
def reads_source() -> str: return inspect.getsource(half)
"""


def test_cached_tasks_are_known_inside_of_a_task(kernel: Kernel) -> None:
    """A task of a cell that calls a cached one, or maps over it, finds its version; equal calls hit, others do not."""
    kernel.run(TASKS).ok()
    assert kernel.value("flyte.run(calls_cached, salt).outputs()[0]") is True
    assert [0, 10, 20] == kernel.value("flyte.run(maps_cached, 3).outputs()[0]")


def test_a_task_reads_the_text_of_a_cell(kernel: Kernel) -> None:
    """`inspect.getsource` gives the cell's text, and the traceback of an error has the helper's line."""
    kernel.run(TASKS).ok()
    assert "def half(x): return 1 / x\n" == kernel.value("flyte.run(reads_source).outputs()[0]")
    reply = kernel.run("flyte.run(fails)")
    assert "def half(x): return 1 / x" in reply.failure["traceback"]
    assert "def half(x): return 1 / x" == reply.failure["line"]["text"]


@pytest.mark.parametrize("cell", ["flyte.run(grows)", "%%flyte_task --memory 200Mi\ngrow([])"])
def test_the_line_and_the_growth_of_a_helper(kernel: Kernel, cell: str) -> None:
    """A helper of another cell that runs out of memory is named by its line, first in the table of growth too."""
    kernel.run(TASKS).ok()
    reply = kernel.run(cell)
    assert "OOMError" == reply.ename
    assert reply.failure["line"]["text"].endswith("# grows")
    assert kernel.value("fn.last_failure.report.grew[0].line.text").endswith("# grows")


def test_functions_keep_their_file_as_values(kernel: Kernel) -> None:
    """A function that goes into a cell and one that comes out of it keep the files that they were written in."""
    kernel.run(TASKS).ok()
    kernel.run("%%flyte_task\ngiven = half.__code__.co_filename\ndef made(x):\n    return x").ok()
    assert kernel.value("given == half.__code__.co_filename")
    assert kernel.value("made.__code__.co_filename").startswith("Cell In[")
