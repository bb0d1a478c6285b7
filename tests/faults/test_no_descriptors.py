"""A process that has too many files open: the run says so, nothing stays open, and with room again the next works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from programs import facts_of

from flyte_notebook.engine.link import WORKERS_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.cgroup, pytest.mark.linux]

PROGRAM = """
def opened():
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))

def bounded(pid, most):
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))

def raised_by(task, *arguments):
    try:
        return facts_of(task, *arguments)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error), "headline": str(error)}

with fn.enable():
    engine = enforcement.current().engine
    engine.wait_until_proven()
    facts_of(add, 1, 2)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = PID
    count = len(opened())
    found = []
    for room in ROOMS:
        bounded(pid, HIGHEST + room)
        found.append(raised_by(add, 3, 4))
    bounded(pid, before[0])
    after = facts_of(add, 5, 6)
    until_s = time.monotonic() + 20
    while (len(opened()) > count or engine.active) and time.monotonic() < until_s:
        time.sleep(0.01)
    facts(found=found, after=after, more=len(opened()) - count, active=engine.active)
"""

WORDS = "Too many open files"


def test_a_notebook_without_descriptors_says_so(tmp_path: Path) -> None:
    """However few are left, it is a system error with the words of the kernel or a result; none is lost over it."""
    program = PROGRAM.replace("PID", "os.getpid()").replace("HIGHEST", "max(opened()) + 1")
    facts = facts_of(program.replace("ROOMS", "range(0, 8)"), tmp_path)
    failed = [found for found in facts["found"] if "error" in found]
    assert 4 <= len(failed)
    assert {"RuntimeSystemError"} == {found["error"] for found in failed}
    assert all(WORDS in found["message"] and WORDS in found["headline"] for found in failed)
    assert ({"outputs": ["11"]}, 0) == (facts["after"], facts["active"])
    assert facts["more"] <= 0


@pytest.mark.parametrize(("workers", "at_least"), [("fresh", 4), ("", 0)])
def test_a_supervisor_without_descriptors_says_so(tmp_path: Path, workers: str, at_least: int) -> None:
    """It refuses the attempt, with the words of the kernel, and lives; with room again the next run works.

    A worker that stands ready already has what a fresh one needs, so it may be that none is refused.
    """
    program = PROGRAM.replace("PID", "engine.supervisor_pid")
    program = program.replace("HIGHEST", "1 + max(map(int, os.listdir(f'/proc/{pid}/fd')))").replace(
        "found = []", "found = []; supervisor = pid"
    )
    program = program.replace("facts(found", "facts(same=supervisor == engine.supervisor_pid, found")
    facts = facts_of(program.replace("ROOMS", "range(0, 14)"), tmp_path, environ={WORKERS_VARIABLE: workers})
    failed = [found for found in facts["found"] if "error" in found]
    assert at_least <= len(failed) < 14
    assert {"RuntimeSystemError"} >= {found["error"] for found in failed}
    assert all("no worker could be started" in found["message"] for found in failed)
    assert all(word in found["headline"] for found in failed for word in ("no worker could be started", "open"))
    assert (True, {"outputs": ["11"]}, 0) == (facts["same"], facts["after"], facts["active"])


def test_more_tasks_than_there_are_descriptors_for_wait_in_line(tmp_path: Path) -> None:
    """With 128 of them a task calls sixty others at one time: each passes, and only so many run beside each other."""
    program = """
resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
small = flyte.TaskEnvironment(name="small", resources=flyte.Resources(memory="60Mi"))

@small.task
async def one(k: int) -> int:
    await asyncio.sleep(0.2)
    return k

@env.task
async def all(count: int) -> int:
    return sum(await asyncio.gather(*(one(k) for k in range(count))))

with fn.enable():
    facts(**facts_of(all, 60))
"""
    assert {"outputs": [str(sum(range(60)))]} == facts_of(program, tmp_path)
