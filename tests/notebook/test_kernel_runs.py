"""Flyte's own program in a cell, and output of runs that overlap, in a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import started

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

GUIDE = Path(__file__).parent.parent / "engine" / "examples" / "error_handling.py"

PEAKS = """
import flyte_notebook as fn
from flyte_notebook.sdk import enforcement
oomers = [action for action in fn.last_run.actions if action.task_name.endswith("oomer")]
kernel_memory = enforcement.current().engine.enforcement.kernel_memory
facts = [(action.limits.memory_bytes >> 20, action.attempts[0].trace.peak_bytes >> 20) for action in oomers]
"""

TALKER = """
%load_ext flyte_notebook
import asyncio, time
import flyte
flyte.init()
env = flyte.TaskEnvironment(name="talk", resources=flyte.Resources(cpu=1, memory="250Mi"))

@env.task
def talk(name: str, lines: int) -> str:
    for number in range(lines):
        print(name, number)
        time.sleep(0.02)
    return name

@env.task
async def two(name: str) -> list[str]:
    print(name, "begins")
    return list(await asyncio.gather(talk.aio(name + "-x", 10), talk.aio(name + "-y", 10)))
"""


def test_the_program_of_the_guide_runs_as_a_cell() -> None:
    """As one cell: both "Failed with" lines, `finally` runs, OOMError is raised, peaks from the kernel."""
    program = GUIDE.read_text()
    with started() as kernel:
        kernel.run("%load_ext flyte_notebook").ok()
        reply = kernel.run(program)
        assert "OOMError" == reply.ename
        assert ("OOMError", "user", "OOMKilled") == tuple(reply.failure[key] for key in ("error", "kind", "code"))
        first, second = (line for line in reply.stdout.splitlines() if line.startswith("Failed with"))
        assert first.startswith("Failed with oom trying with more resources: Pod failed.")
        assert second.startswith("Failed with OOM Again giving up: Pod failed.")
        assert 2 == reply.stdout.count("of type <class 'flyte.errors.OOMError'>, OOMKilled")
        kernel.run(PEAKS).ok()
        facts = kernel.value("facts")
        assert [250, 1024] == [limit for limit, _ in facts]
        if kernel.value("kernel_memory"):
            assert [250, 1024] == [peak for _, peak in facts]
        assert "failure_handling.always_succeeds" == kernel.value("fn.last_run.actions[-1].task_name")
        assert "Success" == kernel.value("type(fn.last_run.actions[-1].outcome).__name__")
        # The learner's next step: more memory, in the next cell, with the same task.
        again = kernel.run("await oomer.override(resources=flyte.Resources(cpu=1, memory='2Gi'))(1)").ok()
        assert "100000000\n" == again.stdout


def lines_of(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name)]


def test_output_of_runs_that_overlap_is_under_the_cell_that_began_them() -> None:
    """A run goes on behind a cell that is over; its lines stay under that cell, the next cell's under the next."""
    with started() as kernel:
        kernel.run(TALKER).ok()
        first = kernel.run(
            "behind = asyncio.ensure_future(flyte.run.aio(two, 'behind'))\nawait asyncio.sleep(0.01)"
        ).ok()
        second = kernel.run("flyte.run(two, 'before').outputs()").ok()
        third = kernel.run("print((await behind).outputs()[0])").ok()
        assert "['behind-x', 'behind-y']\n" == third.stdout
        for reply, name in ((first, "behind"), (second, "before")):
            assert 21 == len(reply.stdout.splitlines()), reply.stdout
            assert 21 == len(lines_of(reply.stdout, name))
            for child in ("x", "y"):
                expected = [f"{name}-{child} {number}" for number in range(10)]
                assert expected == lines_of(reply.stdout, f"{name}-{child}")


def test_two_runs_of_one_cell_are_in_that_cell() -> None:
    """asyncio.gather of two runs in one cell: the lines of both, each in order; a %%flyte_task cell beside them."""
    with started() as kernel:
        kernel.run(TALKER).ok()
        reply = kernel.run("runs = await asyncio.gather(*(flyte.run.aio(talk, name, 10) for name in 'ab'))").ok()
        for name in "ab":
            assert [f"{name} {number}" for number in range(10)] == lines_of(reply.stdout, name)
        cell = kernel.run(
            "%%flyte_task\nimport os\nprint('from the task')\nos.system('echo from the shell')\n1 + 1"
        ).ok()
        assert ["from the task", "from the shell"] == cell.stdout.splitlines()
        assert "2" == cell.result
