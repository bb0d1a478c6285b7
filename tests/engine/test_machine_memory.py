"""A machine that runs short takes the task and not the notebook, and the error says which of the two it was.

A group of our own stands for the machine: the script is inside of it, with everything that it starts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from small_machine import SmallMachine, small_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.cgroup

MACHINE_BYTES = 420 << 20

PROGRAM = """
import asyncio, json, os, subprocess, sys, time
import flyte, flyte.errors
import flyte_notebook as fn
from flyte_notebook.errors import UnschedulableError

env = flyte.TaskEnvironment(name="machine")
small = flyte.Resources(memory=("40Mi", "400Mi"))  # a request: four of them are admitted at a time

@env.task
def eat(mebibytes: int) -> int:
    held = []
    for _ in range(mebibytes):
        held.append(bytearray(1 << 20))
    return len(held)

@env.task
def eat_in_a_child() -> int:
    program = "held = [bytearray(1 << 20) for _ in range(2000)]"
    subprocess.run([sys.executable, "-c", program])
    time.sleep(60)
    return 0

@env.task
async def one_of_two(mebibytes: int) -> int:
    some = eat.override(resources=small)
    return sum(await asyncio.gather(some.aio(10), some.aio(mebibytes)))

@env.task
def scores() -> list[int]:
    child = [sys.executable, "-c", "print(open('/proc/self/oom_score_adj').read())"]
    own = int(open("/proc/self/oom_score_adj").read())
    return [own, int(subprocess.run(child, capture_output=True, text=True).stdout)]

def limited(memory):
    return eat.override(resources=flyte.Resources(memory=memory))

def facts_of(task, *arguments):
    try:
        return {"outputs": [str(value) for value in flyte.run(task, *arguments).outputs()]}
    except flyte.errors.BaseRuntimeError as error:
        failure = error.failure
        peak = failure.report.trace.peak_bytes
        return {
            "error": type(error).__name__, "code": error.code, "kind": error.kind, "message": str(error),
            "reason": failure.reason, "headline": failure.headline, "suggestions": len(failure.suggestions),
            "peak_mib": peak and peak >> 20, "task": failure.task_name, "tail": failure.output_tail,
        }

flyte.init()
with fn.enable():
    held = list(range(100_000))  # the notebook's variables
    before = open("/proc/self/oom_score_adj").read()
    facts = BODY
    assert held[-1] == 99_999
    assert open("/proc/self/oom_score_adj").read() == before
print("FACTS " + json.dumps(facts))
"""


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    """Give a small machine."""
    with small_machine(MACHINE_BYTES) as machine:
        yield machine


@pytest.fixture
def in_machine(machine: SmallMachine, tmp_path: Path) -> Callable[[str], Any]:
    """Return a function that runs an expression of `PROGRAM` inside that machine."""
    return lambda body: machine.facts_of(PROGRAM.replace("BODY", body), tmp_path / "script.py")


def assert_was_the_machine(facts: dict[str, Any]) -> None:
    assert ("OOMError", "OOMKilled", "user") == (facts["error"], facts["code"], facts["kind"])
    assert "machine_memory" == facts["reason"]
    assert facts["headline"].startswith("killed after ")
    assert "Reason [OOMKilled]" in facts["message"]
    assert facts["message"].endswith("the machine ran out of memory; this was not a limit of the task")
    assert 0 == facts["suggestions"]


def test_a_task_without_a_limit_dies_of_the_machine_and_the_notebook_lives(in_machine: Callable[[str], Any]) -> None:
    """A task with no limit that eats everything: OOMError that names the machine; the script goes on, twice."""
    facts = in_machine("[facts_of(eat, 2000), facts_of(eat, 2000), facts_of(eat, 10)]")
    assert_was_the_machine(facts[0])
    assert_was_the_machine(facts[1])
    assert facts[0]["peak_mib"] > 150
    assert {"outputs": ["10"]} == facts[2]


def test_the_kernel_never_has_to_choose_between_task_and_notebook(
    in_machine: Callable[[str], Any], machine: SmallMachine, tmp_path: Path
) -> None:
    """Tasks together stop short of what the group above has left: that one never runs out.

    When it does, the kernel may take the notebook: a victim with several threads that is just giving its memory back
    is no candidate any more, and the next larger process is.
    """
    # What is read from disk first inside of the group is page cache of that group: the kernel drops it where tasks want
    # its room, and counts that as it counts a shortage. So all files are read outside before.
    outside = replace(machine, group=replace(machine.group, words=()))
    both = 'facts_of(one_of_two.override(resources=small), 10), facts_of(limited("150Mi"), 2000)'
    outside.facts_of(PROGRAM.replace("BODY", both), tmp_path / "outside.py")
    assert_was_the_machine(in_machine("facts_of(one_of_two.override(resources=small), 2000)"))
    assert MACHINE_BYTES * 0.9 < machine.group.peak_bytes < MACHINE_BYTES
    assert 0 == machine.group.refusals


def test_a_limit_above_what_is_left_is_not_blamed(in_machine: Callable[[str], Any]) -> None:
    """A limit that the machine cannot honour is admitted by its request; when it runs short, it was the machine."""
    facts = in_machine('facts_of(limited(("200Mi", "390Mi")), 2000)')
    assert_was_the_machine(facts)
    assert "below the task's limit of 390 MiB" in facts["headline"]
    assert facts["peak_mib"] < 390


def test_a_limit_that_the_task_reaches_first_is_its_own(in_machine: Callable[[str], Any]) -> None:
    """On the same machine a task that reaches its own limit is told so, with a suggestion."""
    facts = in_machine('facts_of(limited("150Mi"), 2000)')
    assert ("OOMError", "memory", 150, 1) == tuple(facts[key] for key in ("error", "reason", "peak_mib", "suggestions"))
    assert facts["headline"].startswith("ran out of memory (limit 150 MiB)")


def test_a_limit_above_the_machine_is_refused_before_it_runs(in_machine: Callable[[str], Any]) -> None:
    """More than the group above us allows can never be had, whatever memory the hardware has."""
    facts = in_machine('facts_of(limited("500Mi"), 1)')
    assert ("UnschedulableError", "never_fits") == (facts["error"], facts["reason"])
    assert "needs 500 MiB of memory, this machine has 420 MiB in all" == facts["headline"]


def test_a_child_process_that_eats_takes_its_task_with_it(in_machine: Callable[[str], Any]) -> None:
    """A process that the task started is the victim: the whole task ends, as OOM of the machine."""
    assert_was_the_machine(in_machine("facts_of(eat_in_a_child)"))


def test_in_a_nested_run_the_error_is_that_of_the_eater(in_machine: Callable[[str], Any]) -> None:
    """One child of a gather dies of the machine: what reaches the caller is an error of that kind, with its task.

    The kernel may take the waiting parent as well while the child gives its memory back.
    """
    facts = in_machine("facts_of(one_of_two.override(resources=small), 2000)")
    assert_was_the_machine(facts)
    assert facts["task"] in {"machine.eat", "machine.one_of_two"}


def test_workers_offer_themselves_to_the_oom_killer(in_machine: Callable[[str], Any]) -> None:
    """A worker and what it starts have oom_score_adj 1000; the notebook's own is as it was."""
    assert {"outputs": ["[1000, 1000]"]} == in_machine("facts_of(scores)")
