"""A fork bomb in a task stays inside of it: the notebook and other tasks can still start processes, and it is ended.

A group of our own stands for the machine, so that the real one does not run out of process numbers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import facts_of, until

from flyte_notebook.engine.link import WORKERS_VARIABLE
from flyte_notebook.limiters.control_groups import clear, own

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cgroup_v1

MACHINE_PROCESSES = 600
BOMB = "bomb.override(resources=flyte.Resources(memory='2Gi'))"
"""With memory for all processes that it may have."""

PROGRAM = """
@env.task(timeout=TIMEOUT)
def bomb() -> int:
    "Fork until it is refused, and go on with that; children do the same. Return how often the first one could."
    count = 0
    while True:
        try:
            if os.fork() == 0:
                count = -1_000_000
            count += 1
        except OSError:
            if count > 0 and TIMEOUT is None:
                return count
            time.sleep(0.01)

@env.task
def one_too_many() -> int:
    children = []
    while True:
        children.append(subprocess.Popen(["sleep", "60"]))

def forks(seconds):
    "How often this process could start another one, and how often it could not; a few times at least."
    done, refused, until_s = 0, 0, time.monotonic() + seconds
    while time.monotonic() < until_s or (seconds and done + refused < 4):
        try:
            done += 1
            subprocess.run(["true"], check=True)
        except OSError:
            refused += 1
        time.sleep(0.05)
    return done, refused

with fn.enable():
    enforcement.current().engine.wait_until_proven()
    found = []
    thread = threading.Thread(target=lambda: found.extend([facts_of(TASK)]))
    thread.start()
    done, refused = forks(SECONDS)
    beside = facts_of(add, 1, 2)
    thread.join()
    facts(bomb=found[0], done=done, refused=refused, beside=beside, after=facts_of(add, 3, 4))
"""


@pytest.fixture
def machine() -> Iterator[Path]:
    """Give a group that has few process numbers; nobody may be left inside at the end."""
    found = own("pids")
    if found is None or not os.access(found[0], os.W_OK):
        pytest.skip("no pids hierarchy of version 1 that may be written")
    group = Path(found[0], f"fnb-machine-{os.getpid()}")
    group.mkdir()
    (group / "pids.max").write_text(str(MACHINE_PROCESSES))
    try:
        yield group
        until(lambda: not (group / "cgroup.procs").read_text(), 30)  # hundreds were killed
    finally:
        clear(str(group))  # a bomb that was not ended must not go on when the test is over


def program(task: str, *, timeout: str = "None", seconds: float = 2) -> str:
    return PROGRAM.replace("TIMEOUT", timeout).replace("TASK", task).replace("SECONDS", str(seconds))


@pytest.mark.alone
def test_a_fork_bomb_is_held_and_ended_at_its_max_runtime(machine: Path, tmp_path: Path) -> None:
    """It never ends by itself: MaxRuntimeExceededError; meanwhile the notebook starts processes and runs a task."""
    facts = facts_of(program(BOMB, timeout="3"), tmp_path, group=machine)
    assert "MaxRuntimeExceededError" == facts["bomb"]["error"]
    assert (0, {"outputs": ["3"]}, {"outputs": ["7"]}) == (facts["refused"], facts["beside"], facts["after"])
    assert facts["done"] > 3


def test_one_process_too_many_is_an_error_of_the_task(machine: Path, tmp_path: Path) -> None:
    """What it starts beyond its share is refused, and the task says so; all of it is gone, and the next run works."""
    facts = facts_of(program("one_too_many.override(resources=flyte.Resources(memory='1Gi'))"), tmp_path, group=machine)
    assert ("RuntimeUserError", "BlockingIOError") == (facts["bomb"]["error"], facts["bomb"]["code"])
    assert "Resource temporarily unavailable" in facts["bomb"]["message"]
    assert (0, {"outputs": ["3"]}, {"outputs": ["7"]}) == (facts["refused"], facts["beside"], facts["after"])


@pytest.mark.alone
def test_without_a_limit_on_processes_the_bound_in_time_ends_it(machine: Path, tmp_path: Path) -> None:
    """Where no group may be written nothing holds a fork bomb but its max_runtime: all of it is killed then."""
    environ = {"FLYTE_NOTEBOOK_LIMITER": "watchdog"}
    text = program(BOMB, timeout="2", seconds=0).replace("beside = facts_of(add, 1, 2)", "beside = None")
    facts = facts_of(text, tmp_path, group=machine, environ=environ)
    assert "MaxRuntimeExceededError" == facts["bomb"]["error"]
    assert {"outputs": ["7"]} == facts["after"]


def test_a_worker_that_cannot_have_its_threads_says_so(machine: Path, tmp_path: Path) -> None:
    """However few processes are left to the machine, the error names that, or there is a result; then all is well."""
    most = machine / "pids.max"
    program = f"""
def bounded(room):
    taken = Path({str(machine)!r}, "pids.current").read_text()
    Path({str(most)!r}).write_text(str(int(taken) + room))

with fn.enable():
    enforcement.current().engine.wait_until_proven()
    found = []
    for room in range(5):
        bounded(room)
        found.append(facts_of(add, 1, 2))
    Path({str(most)!r}).write_text("{MACHINE_PROCESSES}")
    facts(found=found, after=facts_of(add, 3, 4))
"""
    facts = facts_of(program, tmp_path, group=machine, environ={WORKERS_VARIABLE: "fresh"})
    failed = [found for found in facts["found"] if "error" in found]
    assert 1 <= len(failed)
    for found in failed:
        assert "RuntimeSystemError" == found["error"]
        for said in (found["message"], found["headline"]):
            assert "can't start new thread" in said or "Resource temporarily unavailable" in said
    assert {"outputs": ["7"]} == facts["after"]
