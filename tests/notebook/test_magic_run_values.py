"""The value of ``flyte.run`` in a plain cell: one line about the run, in place of the SDK's object."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

TASKS = """
env = flyte.TaskEnvironment(name="shown", resources=flyte.Resources(memory="250Mi"))

@env.task
def double(x: int) -> int:
    return 2 * x

@env.task
def nothing() -> None:
    pass

@env.task
def long() -> str:
    return "word " * 100_000
"""


def test_the_value_of_a_run_is_one_line(kernel: Kernel) -> None:
    """Task, outcome, duration, peak against limit, output; its methods are those of the SDK."""
    kernel.run(TASKS).ok()
    shown = kernel.run("ran = flyte.run(double, 21)\nran").ok().result
    assert re.fullmatch(r"shown\.double succeeded in [\d.]+ m?s · peak [\d.]+ MiB of 250 MiB · output 42", shown or "")
    assert (42,) == kernel.value("tuple(ran.outputs())")


@pytest.mark.parametrize(("task", "end"), [("nothing", " · output None"), ("long", " · output 'word word ")])
def test_a_value_of_any_size_takes_one_line(kernel: Kernel, task: str, end: str) -> None:
    """What a task returns is shortened before it is written out."""
    kernel.run(TASKS).ok()
    shown = kernel.run(f"flyte.run({task})").ok().result or ""
    assert end in shown
    assert "\n" not in shown
    assert len(shown) < 400
