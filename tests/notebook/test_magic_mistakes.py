"""The two classic mistakes are recognised in a kernel, and the right code is shown below the error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

TASKS = """
import flyte, flyte.errors
env = flyte.TaskEnvironment(name="mistakes", resources=flyte.Resources(cpu=1, memory="250Mi"))

@env.task
async def fails():
    raise ValueError("no")

@env.task
async def catches_nothing():
    try:
        await fails()
    except (KeyError, ValueError):
        print("never")

@env.task
async def raises_wrongly():
    raise flyte.errors.OOMError("too much")
"""


@pytest.mark.parametrize("cell", ["raise flyte.errors.OOMError('too much')", "flyte.run(raises_wrongly)"])
def test_an_error_called_with_a_message_only_gets_the_right_call(kernel: Kernel, cell: str) -> None:
    """OOMError("msg") is a TypeError; the right call stands below it, in a plain cell and from a task."""
    kernel.run(TASKS).ok()
    (note,) = kernel.run(cell).notes
    assert 'OOMError needs `code` and `message`: `OOMError("OOMKilled", "what happened")`' == note


@pytest.mark.parametrize(
    "cell",
    ["try:\n    await fails()\nexcept ValueError:\n    print('never')", "flyte.run(catches_nothing)"],
    ids=["in the cell", "in a task"],
)
def test_a_clause_that_never_fires_gets_the_right_one(kernel: Kernel, cell: str) -> None:
    """Except ValueError around an awaited task lets the error through; the clause that works stands below it."""
    kernel.run(TASKS).ok()
    reply = kernel.run(cell)
    assert "RuntimeUserError" == reply.ename
    (note,) = reply.notes
    assert note.startswith("`except ValueError` never fires around a task")
    assert "except flyte.errors.RuntimeUserError as error:" in note


def test_other_errors_get_no_hint(kernel: Kernel) -> None:
    """An error outside of any such clause, or in one that names another class, is left alone."""
    kernel.run(TASKS).ok()
    assert [] == kernel.run("flyte.run(fails)").notes
    assert [] == kernel.run("try:\n    await fails()\nexcept KeyError:\n    pass").notes
    assert [] == kernel.run("int('x' * 3)").notes


@pytest.mark.parametrize("first", ["", "%%flyte_task\n"], ids=["a plain cell", "a task cell"])
def test_a_name_of_the_guide_that_moved_gets_todays(kernel: Kernel, first: str) -> None:
    """The guide's own line fails in today's SDK, and today's name stands below it."""
    reply = kernel.run(f"{first}import flyte\nflyte.init_auto_from_config('./config.yaml')")
    assert ["`flyte.init_auto_from_config` is called `flyte.init_from_config` in today's SDK"] == reply.notes


def test_a_file_is_made_in_a_task_without_init(kernel: Kernel) -> None:
    """As in a pod, the SDK is initialised there; in the notebook's own process it says what to call."""
    cell = "from flyte.io import File\nwith open('a.txt', 'w') as file:\n    _ = file.write('hi')\n"
    made = kernel.run(f"%%flyte_task\n{cell}made = await File.from_local('a.txt')\nopen(made.path).read()").ok()
    assert "'hi'" == made.result
    reply = kernel.run("import flyte_notebook as fn\nprint(fn.explain('InitializationError'))").ok()
    assert "call `flyte.init()` first" in " ".join(reply.stdout.split())
