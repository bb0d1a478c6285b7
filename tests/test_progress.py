"""Tests of the tally of a run: what is counted where, and that thousands of actions are a few rows."""

from __future__ import annotations

from flyte_notebook.core.job import Job
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.progress import DEEPEST, MOST_TASKS, LiveAttempt, Tally, TaskCount, live_attempt


def job(action: str, parent: str | None = None, label: str = "square", **more: int) -> Job:
    limits = Limits(memory_bytes=100)
    return Job(label=label, run="r", action=action, entry="m:f", payload=b"", parent=parent, limits=limits, **more)


def begun(*jobs: Job) -> Tally:
    root = job("a0", label="main")
    tally = Tally(root, 10.0)
    for one in (root, *jobs):
        tally.began(one)
    return tally


def counts(tally: Tally) -> dict[str, TaskCount]:
    return {row.task_name: row for row in tally.progress((), 10.0).tasks}


def test_an_attempt_is_queued_then_starting_then_running() -> None:
    """Running time counts from where the worker was ready, attempts from 1."""
    one = job("a1", "a0", attempt=1, max_attempts=3)
    assert "queued" == live_attempt(one, now_s=5.0).state
    assert "starting" == live_attempt(one, admitted=True, usage_bytes=7, now_s=5.0).state
    expected = LiveAttempt(
        action="a1",
        parent="a0",
        task_name="square",
        attempt=2,
        max_attempts=3,
        state="running",
        running_s=1.5,
        usage_bytes=7,
        limit_bytes=100,
    )
    assert expected == live_attempt(one, admitted=True, ready_s=3.5, usage_bytes=7, now_s=5.0)


def test_a_map_over_ten_thousand_items_is_one_row_below_its_caller() -> None:
    """The root comes first; the items are counted where they stand."""
    items = [job(f"i{number}", "a0") for number in range(10_000)]
    tally = begun(*items)
    for item in items[:60]:
        tally.admitted(item)
    for item in items[:50]:
        tally.ended(item, succeeded=True)
    tally.ended(items[50], succeeded=False, code="OOMKilled")
    tasks = tally.progress((), 12.5).tasks
    expected = (
        TaskCount(task_name="main", queued=1),
        TaskCount(task_name="square", depth=1, queued=9_940, running=9, succeeded=50, failed=1),
    )
    assert expected == tasks
    assert 10_000 == tasks[1].total
    assert 2.5 == tally.progress((), 12.5).elapsed_s


def test_a_failure_is_caught_when_a_caller_of_it_succeeds() -> None:
    """While the caller runs it is failed; an error that passes through a caller is caught with it."""
    middle, leaf = job("m", "a0", label="middle"), job("l", "m", label="leaf")
    tally = begun(middle, leaf)
    tally.ended(leaf, succeeded=False, code="ValueError")
    tally.ended(middle, succeeded=False, code="ValueError")
    assert (1, 0) == (counts(tally)["leaf"].failed, counts(tally)["leaf"].caught)
    tally.ended(job("a0", label="main"), succeeded=True)
    assert {"main": 0, "middle": 1, "leaf": 1} == {name: row.caught for name, row in counts(tally).items()}
    assert 0 == sum(row.failed for row in counts(tally).values())


def test_between_two_attempts_an_action_is_retrying_and_the_code_is_known() -> None:
    """The code is there as long as something sleeps before its next attempt, and no longer."""
    tally = begun()
    tally.admitted(job("a0", label="main"))
    tally.ended(job("a0", label="main", max_attempts=3), succeeded=False, again=True, code="OOMKilled")
    progress = tally.progress((), 11.0)
    assert (1, 0, "OOMKilled") == (progress.tasks[0].retrying, progress.tasks[0].running, progress.failed_code)
    tally.began(job("a0", label="main", attempt=1, max_attempts=3))
    progress = tally.progress((), 11.0)
    assert (2, 3, None) == (progress.attempt, progress.max_attempts, progress.failed_code)
    assert TaskCount(task_name="main", queued=1) == progress.tasks[0]


def test_a_deep_recursion_and_many_tasks_stay_few_rows() -> None:
    """What is called deeper counts at the greatest depth; beyond the last row there is one for other tasks."""
    chain = [job(f"d{depth}", f"d{depth - 1}" if depth else "a0", label="again") for depth in range(500)]
    rows = begun(*chain).progress((), 10.0).tasks
    assert list(range(DEEPEST + 1)) == [row.depth for row in rows]
    assert 500 - DEEPEST + 1 == rows[-1].total
    rows = begun(*(job(f"w{number}", "a0", label=f"task{number}") for number in range(1_000))).progress((), 10.0).tasks
    assert MOST_TASKS + 1 == len(rows)
    assert ("other tasks", 1_001 - MOST_TASKS) == (rows[-1].task_name, rows[-1].total)
