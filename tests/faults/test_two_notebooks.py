"""Several notebooks on one machine: what one of them sweeps, kills and removes is never another one's."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import leaks
import pytest
from programs import facts_of, read_until, started

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

pytestmark = pytest.mark.cgroup

BOUND_S = 20.0

LIVES = """
@env.task
def sums(value: str, place: str) -> int:
    daemon = subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(600)"])
    until_s = time.monotonic() + 600
    print("runs", os.getppid(), os.getpid(), daemon.pid, flush=True)
    while not Path(place).exists() and time.monotonic() < until_s:
        time.sleep(0.01)
    return len(value)

@env.task
async def refuse(value: str) -> int:
    raise ValueError(len(value))

with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    facts_of(refuse, "x" * 500_000)  # its inputs wait in a file, for a repeat
    failed = fn.last_failure.worker
    found = facts_of(sums, "x" * 1_500_000, PLACE)
    facts(found=found, kept=len(session.repeats.find(failed).arguments()["value"]), after=facts_of(add, 1, 2))
"""

DIES = """
import signal

fn.enable()
session = enforcement.current()
flyte.run(add, 1, 2)
os.kill(session.engine.supervisor_pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""

COMES_AND_GOES = """
with fn.enable():
    facts(found=facts_of(add, 5, 6))
"""


def said_by(process: subprocess.Popen[str]) -> Any:
    return json.loads(read_until(process, "FACTS ").partition("FACTS ")[2])


def test_a_notebook_that_runs_is_left_alone(tmp_path: Path) -> None:
    """Beside one that runs a task another one dies with its supervisor, and a third sweeps up after that and goes.

    The first one's task, the daemon of it, its groups and its files stay; those of the dead one are gone.
    """
    before = leaks.Snapshot.take()
    go = tmp_path / "go"
    lives = LIVES.replace("PLACE", repr(str(go)))
    with started(lives, tmp_path) as first:
        supervisor, *task = read_until(first, "runs").partition("runs ")[2].split()
        during = leaks.Snapshot.take()
        # Those that stand ready come and go.
        lasting = {key for key in during.processes if str(key[0]) in {str(first.pid), supervisor, *task}}
        busy_groups = {group for group in during.groups if leaks.only(group, set(task))}
        assert (4, True) == (len(lasting), bool(busy_groups))
        with started(DIES, tmp_path) as second:
            assert -signal.SIGKILL == second.wait(60)
        assert [line for line in leaks.leaked(during, leaks.Snapshot.take()) if line.startswith("file")]
        for _ in range(2):
            assert {"outputs": ["11"]} == facts_of(COMES_AND_GOES, tmp_path)["found"]
        assert [] == leaks.settle(during, leave=frozenset({"descriptor", "thread"}), grace_s=BOUND_S)
        now = leaks.Snapshot.take()
        assert lasting <= set(now.processes)
        assert busy_groups == {group for group in now.groups if leaks.only(group, set(task))}
        assert set(during.files) <= set(now.files)
        go.touch()
        facts = said_by(first)
        assert {"outputs": ["1500000"]} == facts["found"]
        assert (500_000, {"outputs": ["3"]}) == (facts["kept"], facts["after"])
        assert 0 == first.wait(BOUND_S)
    assert [] == leaks.settle(before, leave=frozenset({"descriptor", "thread"}), grace_s=BOUND_S)


def test_two_notebooks_at_the_same_time_both_work(tmp_path: Path) -> None:
    """Each with a task that runs while the other's does: both have their results."""
    go = tmp_path / "go"
    lives = LIVES.replace("PLACE", repr(str(go)))
    with started(lives, tmp_path) as first, started(lives, tmp_path) as second:
        read_until(first, "runs")
        read_until(second, "runs")
        go.touch()
        for process in (first, second):
            assert {"outputs": ["1500000"]} == said_by(process)["found"]
            assert 0 == process.wait(BOUND_S)
