"""Runs as text: a tree of actions, and a table of all runs."""

from __future__ import annotations

from dataclasses import replace

from failures import MI, NASTY, OOM, hostile

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Outcome, Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Attempt, Run
from flyte_notebook.views.history.run_list import MAX_ACTIONS, run_text, runs_text

LIMITS = Limits(memory_bytes=250 * MI)
DONE = Success(answer=b"", report=WorkerReport())


def attempt(outcome: Outcome, number: int = 1, worker: str = "run-a1-0") -> Attempt:
    trace = MemoryTrace(peak_bytes=100 * MI)
    return Attempt(number=number, worker=worker, limits=LIMITS, outcome=outcome, trace=trace, duration_s=1.5)


def recovered() -> Run:
    """Return a run whose first child failed, was caught, and was tried again."""
    run = Run(name="run", task_name="parent")
    root = run.begin_action("a0", "parent", None, LIMITS)
    child = run.begin_action("a1", "oomer", "a0", LIMITS)
    child.attempts += [attempt(OOM), attempt(DONE, number=2)]
    run.begin_action("a2", "after", "a0", LIMITS)
    root.attempts.append(attempt(DONE, worker="run-a0-0"))
    return run


def test_a_run_is_a_tree() -> None:
    """Children stand below their parent with every attempt, peak against limit, and why it failed."""
    lines = run_text(recovered()).split("\n")
    assert "parent · run run · succeeded · 1.5 s" == lines[0]
    assert "  ✓ parent · 1.5 s · 100 MiB of 250 MiB" == lines[1]
    assert lines[2].startswith("    ✗ oomer (attempt 1) · 1.5 s · 100 MiB of 250 MiB · OOMError: ran out of memory")
    assert "    ✓ oomer (attempt 2) · 1.5 s · 100 MiB of 250 MiB" == lines[3]
    assert "    … after · running" == lines[4]


def test_a_parent_that_let_an_error_through_does_not_repeat_it() -> None:
    """The error of a child is told once, where it happened; its parent says that it came from below."""
    run = recovered()
    run.actions[0].attempts[:] = [attempt(OOM, worker="run-a0-0")]
    run.failure = OOM
    lines = run_text(run).split("\n")
    assert "parent · run run · OOMError · 1.5 s" == lines[0]
    assert lines[1].endswith("· OOMError of a task that it called")


def test_many_actions_stay_one_screen() -> None:
    """Above a hundred actions the rest is a number."""
    run = Run(name="run", task_name="map")
    run.begin_action("a0", "map", None, LIMITS)
    for number in range(500):
        run.begin_action(f"b{number}", "item", "a0", LIMITS).attempts.append(attempt(DONE))
    lines = run_text(run).split("\n")
    assert MAX_ACTIONS + 2 == len(lines)
    assert "  [… 401 more actions …]" == lines[-1]


def test_all_runs_are_a_table() -> None:
    """One line for each run with its peak and limit, aligned; nothing yet is said in words."""
    assert "nothing has run yet" == runs_text([])
    failed = replace(recovered(), failure=OOM, name="other")
    cached = Run(name="third", task_name="cached", cached=True)
    header, *rows = runs_text([recovered(), failed, cached]).split("\n")
    assert ["run", "task", "actions", "peak", "limit", "outcome"] == header.split()
    assert ["run", "parent", "3", "100", "MiB", "250", "MiB", "succeeded"] == rows[0].split()
    assert rows[1].endswith("OOMError")
    assert rows[2].endswith("from the cache")
    assert 1 == len({row.index("parent") for row in rows[:2]} | {header.index("task")})


def test_hostile_names_cannot_break_a_line() -> None:
    """Control characters, escape codes and lone surrogates in names and headlines stay visible text."""
    run = Run(name=NASTY, task_name=NASTY)
    run.begin_action("a0", NASTY, None, LIMITS).attempts.append(attempt(hostile(NASTY)))
    for text in (run_text(run), runs_text([run])):
        text.encode()
        assert "\x1b" not in text
        assert "\x00" not in text
