"""The day's clock may jump: only clocks that never go back decide anything.

A ``sitecustomize`` that stands on the path of every Python gives kernel, supervisor and workers a day's clock that
jumps by a year, back and forth, each time that it is read. The machine's own clock is left alone.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from programs import facts_of

import flyte_notebook

pytestmark = pytest.mark.cgroup

JUMPY = """
import time

_real, _jumps = time.time, [0]

def _jumping():
    _jumps[0] += 1
    return _real() + 365 * 86_400 * (-1) ** _jumps[0]

time.time = _jumping
time.time_ns = lambda: int(_jumping() * 10**9)
"""

PROGRAM = """
from datetime import timedelta

assert abs(time.time() - time.time()) > 10**6, "the clock does not jump"

@env.task(timeout=flyte.Timeout(max_runtime=2, deadline=60))
def sleeps(seconds: float) -> float:
    began = time.monotonic()
    time.sleep(seconds)
    return float(round(abs(time.time() - time.time())) // 10**6)

@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=timedelta(seconds=0.5))))
def fails() -> None:
    raise ValueError("again")

with fn.enable():
    enforcement.current().engine.wait_until_proven()
    began = time.monotonic()
    short, failed = facts_of(sleeps, 0.5), facts_of(fails)
    attempts = fn.last_run.actions[0].attempts
    long = facts_of(sleeps, 60.0)
    report = fn.last_failure.report
    facts(short=short, failed=failed, attempts=len(attempts), long=long, took_s=time.monotonic() - began,
          ran_s=report.ran_s, duration_s=report.duration_s, times_s=list(report.trace.times_s)[-1])
"""

WALL_CLOCKS = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "CLOCK_REALTIME"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
}


def test_no_bound_cares_about_the_days_clock(tmp_path: Path) -> None:
    """With a clock that jumps by a year a task returns, a retry comes, and max_runtime ends a long one in time."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(JUMPY)
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    facts = facts_of(PROGRAM, tmp_path, environ={"PYTHONPATH": path})
    assert {"outputs": ["63.0"]} == facts["short"]  # the worker's clock jumps as well
    assert ("ValueError", 2) == (facts["failed"]["code"], facts["attempts"])
    assert "MaxRuntimeExceededError" == facts["long"]["error"]
    assert 2 <= facts["ran_s"] < 10
    assert 2 <= facts["times_s"] <= facts["duration_s"] < facts["took_s"] < 90


def test_nothing_of_ours_reads_the_days_clock() -> None:
    """No module of the package asks a clock that can be set, but for the date of a saved run and the age of a file."""
    package = Path(flyte_notebook.__file__).parent
    found = [
        (str(path.relative_to(package)), name)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in _clocks_in(node)
    ]
    of_files = ("limiters/shared_memory.py", "time_ns")  # a wrong one costs a look
    of_pods = ("sdk/cluster/usage.py", "clock_s")  # the time of a sample, beside those that the cluster tells
    assert {("core/bound.py", "CLOCK_REALTIME"), ("storage/store.py", "clock_s"), of_files, of_pods} == set(found)


def _clocks_in(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names if "clock_s" == alias.name]
    if not isinstance(node, ast.Attribute):
        return []
    owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
    return [node.attr] if (owner, node.attr) in WALL_CLOCKS or "clock_s" == node.attr else []
