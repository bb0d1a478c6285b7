"""A cell with a NAME is a Flyte task of that name, and the notebook has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.quick]

DOUBLE = "%%flyte_task double --memory 150Mi\nhalf = x // 2\nx * 2"


def test_the_name_is_a_task_that_the_next_cell_can_override_and_await(kernel: Kernel) -> None:
    """``await NAME.override(...)(x=5)`` runs the cell again under other limits and gives its last value."""
    kernel.run("x = 2")
    assert "4" == kernel.run(DOUBLE).ok().result
    assert kernel.value("isinstance(double, flyte.extend.TaskTemplate)")
    again = kernel.run('await double.override(resources=flyte.Resources(memory="300Mi"))(x=5)')
    assert "10" == again.ok().result
    assert [300 << 20] == kernel.value("[action.limits.memory_bytes for action in fn.last_run.actions]")
    assert 2 == kernel.value("x")


def test_an_awaited_call_is_a_run_of_the_name_of_its_task(kernel: Kernel) -> None:
    """It can be found among the runs; the SDK itself would give it a random name."""
    kernel.run("x = 2")
    kernel.run(DOUBLE).ok()
    kernel.run("await double(x=3)").ok()
    assert re.fullmatch(r"double-\w{12}", kernel.value("fn.last_run.name"))


def test_outputs_of_a_run_are_found_by_name(kernel: Kernel) -> None:
    """After the cell, an awaited call and ``flyte.run`` the last run has ``result`` and the outputs by name."""
    kernel.run("x = 2")
    kernel.run(DOUBLE).ok()
    assert {"half": 1, "result": 4} == kernel.value("fn.last_run.outputs")
    kernel.run("await double(x=8)").ok()
    assert {"half": 4, "result": 16} == kernel.value("fn.last_run.outputs")
    assert 28 == kernel.value("flyte.run(double, x=14).outputs()[0]")
    assert {"half": 7, "result": 28} == kernel.value("fn.last_run.outputs")
    assert 1 == kernel.value("half"), "a call assigns nothing in the notebook"


def test_only_the_newest_run_keeps_its_outputs(kernel: Kernel) -> None:
    """The history does not hold on to everything that cells ever returned."""
    kernel.run("%%flyte_task\na = 1").ok()
    kernel.run("%%flyte_task\nb = 2").ok()
    assert [{}, {"b": 2}] == kernel.value("[run.outputs for run in fn.runs][-2:]")


def test_the_name_is_bound_even_if_the_run_fails(kernel: Kernel) -> None:
    """A task that died of its memory is there afterwards, and passes with more."""
    kernel.run("x = 1")
    died = kernel.run("%%flyte_task oomer --memory 60Mi\nlarge = b'x' * (x * 100_000_000)\nlen(large)")
    assert "OOMError" == died.ename
    assert "100000000" == kernel.run('await oomer.override(resources=flyte.Resources(memory="1Gi"))(x=1)').ok().result


def test_a_name_without_a_value_gives_none(kernel: Kernel) -> None:
    """A task whose cell ends in a statement returns None, and its outputs are found by name all the same."""
    kernel.run("%%flyte_task quiet_task\na = 1").ok()
    assert kernel.run("await quiet_task()").ok().result is None
    assert {"a": 1} == kernel.value("fn.last_run.outputs")


def test_running_a_named_cell_again_replaces_its_task(kernel: Kernel) -> None:
    """A NAME that holds a task may be used again."""
    kernel.run("%%flyte_task again\n1").ok()
    kernel.run("%%flyte_task again --memory 200Mi\n2").ok()
    assert "200Mi" == kernel.value("again.resources.memory")
    assert "2" == kernel.run("await again()").ok().result


def test_a_task_is_shown_in_one_line(kernel: Kernel) -> None:
    """Looking at the task shows its name, its inputs and its limits, and a run its name and size."""
    kernel.run("x = 2")
    kernel.run(DOUBLE).ok()
    shown = kernel.run("double").result or ""
    assert shown.startswith("<CellTask double(x) of Cell In[")
    assert shown.endswith("], memory='150Mi'>")
    assert (kernel.run("fn.last_run").result or "").endswith(" of double: 1 action>")


@pytest.mark.parametrize(
    ("line", "body", "said"),
    [
        ("250Mi", "1", "NAME: '250Mi' is not a Python name; write --memory 250Mi"),
        ("class", "1", "NAME: 'class' is a keyword of Python"),
        (
            "y",
            "y = 1",
            "NAME 'y' is also assigned in the cell; it will hold the task, so give one of them another name",
        ),
        ("y -o y", "1", "NAME 'y' is also an output; it will hold the task, so give one of them another name"),
        ("held", "1", "NAME 'held' would replace your variable (int); use another name or del held"),
        ("print", "1", "NAME 'print' would hide Python's own `print`; use another name"),
        ("two names", "1", "a task name is one word; write two_names"),
    ],
)
def test_a_name_that_cannot_be_is_a_clear_error(kernel: Kernel, line: str, body: str, said: str) -> None:
    """Nothing runs, nothing is lost, and one line says what to do."""
    kernel.run("held = 3")
    runs = kernel.value("len(fn.runs)")
    reply = kernel.run(f"%%flyte_task {line}\n{body}")
    assert ("error", "UsageError") == (reply.status, reply.ename)
    assert reply.stderr.startswith(f"UsageError: %%flyte_task: {said}")
    assert 1 == reply.stderr.count("\n")
    assert (3, runs) == kernel.value("(held, len(fn.runs))")
