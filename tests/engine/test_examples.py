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
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.cgroup

EXAMPLES = Path(__file__).parent / "examples"
BOUND_S = 100.0

RUNNER = """
import json, pathlib, runpy, sys
import flyte_notebook as fn

enforced, facts, programs = sys.argv[1] == "enforced", pathlib.Path(sys.argv[2]), sys.argv[3:]
found, kernel = {}, False
if enforced:
    fn.enable()
try:
    for program in programs:
        print(f"\\n== {program}", flush=True)
        before = len(fn.runs)
        try:
            runpy.run_path(program, run_name="__main__")
        finally:
            found[program] = [
                {
                    "task": action.task_name,
                    "parent": action.parent,
                    "limit_mib": (action.limits.memory_bytes or 0) >> 20,
                    "peaks_mib": [(attempt.trace.peak_bytes or 0) >> 20 for attempt in action.attempts],
                    "errors": [type(getattr(attempt.outcome, "error", None)).__name__ for attempt in action.attempts],
                }
                for run in list(fn.runs)[before:]
                for action in run.actions
            ]
finally:
    if enforced:
        from flyte_notebook.sdk import enforcement
        kernel = enforcement.current().engine.enforcement.kernel_memory
        fn.disable()
    facts.write_text(json.dumps({"actions": found, "kernel": kernel}))
"""

ACTIONS = {
    "fanout": 24,
    "types_io": 15,
    "files": 13,
    "tracing": 9,
    "mapping": 21,
    "by_name": 6,
    "cached_calls": 11,
}
"""The programs that run to their end, and how many actions each of them has."""


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
def started(names: Iterable[str], mode: str, place: Path) -> Iterator[subprocess.Popen[str]]:
    """Run programs one after the other in a directory of their own, with their temporary files there."""
    place.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RUNNER,
            mode,
            str(place / "facts.json"),
            *(str(EXAMPLES / f"{one}.py") for one in names),
        ],
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


def ended(process: subprocess.Popen[str], place: Path) -> dict[str, Ended]:
    """Return how each program ended that was begun, by its name; the status and the errors are those of all."""
    out, err = process.communicate(timeout=BOUND_S)
    assert [] == [path for path in place.iterdir() if path.name.startswith("fnb-")]
    assert (place / "facts.json").exists(), err
    found = json.loads((place / "facts.json").read_text())
    programs = {}
    for part in out.split("\n== ")[1:]:
        path, _, text = part.partition("\n")
        lines = dict(line[2:].split(" ", 1) for line in text.splitlines() if line.startswith("> "))
        programs[Path(path).stem] = Ended(
            lines, text, err, process.returncode, found["actions"][path], kernel_memory=found["kernel"]
        )
    return programs


def run(name: str, directory: Path) -> Ended:
    """Run one program with limits."""
    with started([name], "enforced", directory / "enforced") as process:
        return ended(process, directory / "enforced")[name]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Ended], dict[str, Ended]]:
    """Return how each program ended by the SDK alone, and with limits."""
    place = tmp_path_factory.mktemp("ran")
    alone, enforced = place / "alone", place / "enforced"
    with started(ACTIONS, "alone", alone) as without, started(ACTIONS, "enforced", enforced) as within:
        return ended(without, alone), ended(within, enforced)


@pytest.mark.parametrize(("name", "actions"), ACTIONS.items())
def test_a_program_gives_what_the_sdk_alone_gives(
    ran: tuple[dict[str, Ended], dict[str, Ended]], name: str, actions: int
) -> None:
    """The same program prints the same with limits and without, and every action had a process and a limit."""
    alone, enforced = ran[0][name], ran[1][name]
    assert 0 == alone.status, alone.stderr
    assert 0 == enforced.status, enforced.stderr
    assert len(alone.lines) >= 4
    lines = dict(enforced.lines)
    if name == "mapping":  # the SDK alone runs a map one by one, whatever its concurrency
        assert ("1", "2") == (alone.lines["most_at_a_time"], lines["most_at_a_time"])
        lines["most_at_a_time"] = "1"
    if name == "cached_calls":  # a function keeps its file here, whichever release of cloudpickle ships it
        files = ["file_of_an_argument", "file_of_a_result"]
        assert ["cached_calls.py", "2 cached_calls.py"] == [lines[file] for file in files]
        lines |= {file: alone.lines[file] for file in files}
    assert alone.lines == lines
    assert actions == len(enforced.actions), enforced.actions
    assert all(action["limit_mib"] >= 300 and min(action["peaks_mib"]) > 20 for action in enforced.actions)


def test_a_program_that_recovers_does_so(tmp_path: Path) -> None:
    """Retries, backoff, timeouts, custom codes, tiers of memory and cancelled siblings: as on a cluster."""
    done = run("recovery", tmp_path)
    assert 0 == done.status, done.stderr
    expected = {
        "flaky": "2",
        "hopeless": "RuntimeUserError NonRecoverableError",
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
    done = run("error_handling", tmp_path)
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
