"""Programs as Flyte's own guide and examples write them, unchanged: limits change nothing but what they limit.

Each program in ``examples/`` is a script that prints lines of ``>``, a name and a value. It is run as it is, by the SDK
alone and with limits enforced.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cgroup

EXAMPLES = Path(__file__).parent / "examples"
BOUND_S = 100.0

RUNNER = """
import json, runpy, sys
import flyte_notebook as fn

program, enforced, facts = sys.argv[1], sys.argv[2] == "enforced", sys.argv[3]
if enforced:
    fn.enable()
try:
    runpy.run_path(program, run_name="__main__")
finally:
    if enforced:
        from flyte_notebook.sdk import enforcement
        kernel = enforcement.current().engine.enforcement.kernel_memory
        fn.disable()
        actions = [
            {
                "task": action.task_name,
                "parent": action.parent,
                "limit_mib": (action.limits.memory_bytes or 0) >> 20,
                "peaks_mib": [(attempt.trace.peak_bytes or 0) >> 20 for attempt in action.attempts],
                "errors": [type(getattr(attempt.outcome, "error", None)).__name__ for attempt in action.attempts],
            }
            for run in fn.runs
            for action in run.actions
        ]
        open(facts, "w").write(json.dumps({"actions": actions, "kernel": kernel}))
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended. ``actions`` is what the history says, empty for the SDK alone."""

    lines: dict[str, str]
    stdout: str
    stderr: str
    status: int
    actions: list[dict[str, Any]]
    kernel_memory: bool


@contextmanager
def started(name: str, mode: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a directory of its own, with its temporary files there."""
    place = directory / mode
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(EXAMPLES / f"{name}.py"), mode, str(place / "facts.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env={**os.environ, "TMPDIR": str(place)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], place: Path) -> Ended:
    out, err = process.communicate(timeout=BOUND_S)
    lines = dict(line[2:].split(" ", 1) for line in out.splitlines() if line.startswith("> "))
    facts = place / "facts.json"
    found = json.loads(facts.read_text()) if facts.exists() else {"actions": [], "kernel": False}
    assert [] == [path for path in place.iterdir() if path.name.startswith("fnb-")]
    return Ended(lines, out, err, process.returncode, found["actions"], found["kernel"])


def run(name: str, mode: str, directory: Path) -> Ended:
    with started(name, mode, directory) as process:
        return ended(process, directory / mode)


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("fanout", 24),
        ("types_io", 15),
        ("files", 13),
        ("tracing", 9),
        ("mapping", 21),
        ("by_name", 6),
        ("cached_calls", 11),
    ],
)
def test_a_program_gives_what_the_sdk_alone_gives(name: str, actions: int, tmp_path: Path) -> None:
    """The same program prints the same with limits and without, and every action had a process and a limit."""
    with started(name, "alone", tmp_path) as without, started(name, "enforced", tmp_path) as within:
        alone, enforced = ended(without, tmp_path / "alone"), ended(within, tmp_path / "enforced")
    assert 0 == alone.status, alone.stderr
    assert 0 == enforced.status, enforced.stderr
    assert len(alone.lines) >= 4
    if name == "mapping":  # the SDK alone runs a map one by one, whatever its concurrency
        assert ("1", "2") == (alone.lines.pop("most_at_a_time"), enforced.lines.pop("most_at_a_time"))
    if name == "cached_calls":  # a function keeps its file here, whichever release of cloudpickle ships it
        of_argument, of_result = enforced.lines.pop("file_of_an_argument"), enforced.lines.pop("file_of_a_result")
        assert ("cached_calls.py", "2 cached_calls.py") == (of_argument, of_result)
        del alone.lines["file_of_an_argument"], alone.lines["file_of_a_result"]
    assert alone.lines == enforced.lines
    assert actions == len(enforced.actions), enforced.actions
    assert all(action["limit_mib"] >= 300 and min(action["peaks_mib"]) > 20 for action in enforced.actions)


def test_a_program_that_recovers_does_so(tmp_path: Path) -> None:
    """Retries, backoff, timeouts, custom codes, tiers of memory and cancelled siblings: as on a cluster."""
    done = run("recovery", "enforced", tmp_path)
    assert 0 == done.status, done.stderr
    expected = {
        "flaky": "2",
        "hopeless": "NonRecoverableError NonRecoverableError",
        "slow": "MaxRuntimeExceededError MaxRuntimeExceededError",
        "in_time": "done",
        "fussy": "RuntimeUserError TooSmall",
        "tiers": "['100Mi', '400Mi', '400Mi', 'too large']",
        "cancels": "TooSmall ['CancelledError', 'CancelledError']",
        "soon": "True",
    }
    assert expected == {name: done.lines[name] for name in expected}
    assert [3, 3, 1] == [done.stdout.count(f"OOMKilled at {memory}\n") for memory in ("100Mi", "200Mi", "400Mi")]
    logged = " ".join(done.stdout.split())  # the SDK's log breaks its lines
    assert "failed on attempt 1/4; retrying in 0.10s" in logged
    assert "failed on attempt 2/4; retrying in 0.20s" in logged
    hogs = [action for action in done.actions if action["task"] == "recovery.hog"]
    assert [100] * 4 + [200] * 3 + [400] * 3 == [action["limit_mib"] for action in hogs]


def test_the_program_of_the_guide_does_what_the_guide_says(tmp_path: Path) -> None:
    """Both "Failed with" lines, `finally` runs, OOMError is raised; both peaks are what was allowed."""
    done = run("error_handling", "enforced", tmp_path)
    assert 0 != done.status
    first, second = (line for line in done.stdout.splitlines() if line.startswith("Failed with"))
    assert first.startswith("Failed with oom trying with more resources: Pod failed.")
    assert second.startswith("Failed with OOM Again giving up: Pod failed.")
    assert 2 == done.stdout.count("Reason [OOMKilled]. Message: , of type <class 'flyte.errors.OOMError'>, OOMKilled")
    assert "OOMError: Pod failed." in done.stdout + done.stderr  # the SDK shortens tracebacks, and prints them
    root, small, large, last = done.actions
    assert "failure_handling.error_handling" == root["task"]
    assert [("failure_handling.oomer", 250), ("failure_handling.oomer", 1024)] == [
        (action["task"], action["limit_mib"]) for action in (small, large)
    ]
    if done.kernel_memory:
        assert [[250], [1024]] == [small["peaks_mib"], large["peaks_mib"]]
    assert ("failure_handling.always_succeeds", ["NoneType"]) == (last["task"], last["errors"])
