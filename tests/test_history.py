"""Tests of the history: what ran is found again, in order, and a bounded number of runs is kept."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import ClassVar

import pytest

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Failure, Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import (
    Action,
    Attempt,
    Call,
    Cell,
    FitTrial,
    Grown,
    History,
    Purpose,
    Rerun,
    Run,
    Runs,
    SweepPoint,
    purpose_of,
)


def _attempt(number: int) -> Attempt:
    report = WorkerReport(answer=b"x")
    trace = MemoryTrace(peak_bytes=1_000)
    success = Success(answer=b"x", report=report)
    return Attempt(
        number=number, worker=f"r-a0-{number}", limits=Limits(), outcome=success, trace=trace, duration_s=0.12345
    )


def _failure() -> Failure:
    return Failure(
        error=ValueError("x"),
        kind="user",
        code="ValueError",
        worker="r-a0-1",
        message="x",
        reason="raised",
        headline="raised ValueError: x",
        task_name="t",
        attempt=0,
        max_attempts=2,
        limits=Limits(),
        report=WorkerReport(),
    )


def _raised(size: int) -> Failure:
    """Return a failure whose error was raised through a frame that holds something of that size."""
    held = Held(size)
    try:
        try:
            raise KeyError(held.size)  # noqa: TRY301 - raised here, so that its frame holds something
        except KeyError as first:
            raise ValueError("x") from first
    except ValueError as error:
        return replace(_failure(), error=error)


class Held:
    living: ClassVar[int] = 0

    def __init__(self, size: int) -> None:
        self.size = size
        Held.living += 1

    def __del__(self) -> None:
        Held.living -= 1


def test_frames_of_failures_go_with_the_run_after_the_next() -> None:
    """The last two runs keep the tracebacks of their errors; older ones hold no variable of anybody any more."""
    history = History()
    errors = []
    for number in range(5):
        action = history.begin(f"r{number}", "t").begin_action("a0", "t", None, Limits())
        action.attempts.append(replace(_attempt(1), outcome=_raised(number)))
        errors.append(action.attempts[0].outcome.error)
    assert [True, True, True, False, False] == [error.__traceback__ is None for error in errors]
    assert [True, True, True, False, False] == [error.__cause__.__traceback__ is None for error in errors]
    assert 2 == Held.living


def test_a_run_begins_once() -> None:
    """Beginning a run that is known gives the same run, not a second one."""
    history = History()
    run = history.begin("r1", "oomer")
    assert run is history.begin("r1", "oomer")
    assert len(history) == 1


def test_the_last_run_is_the_one_that_began_last() -> None:
    """The last run is that of the latest beginning, and None before the first."""
    history = History()
    assert history.last_run is None
    history.begin("r1", "first")
    second = history.begin("r2", "second")
    history.begin("r1", "first")
    assert second is history.last_run
    assert second is history[-1]
    assert ["r1", "r2"] == [run.name for run in history]


def test_only_so_many_runs_are_kept() -> None:
    """The oldest runs go when there are too many, and are not found any more."""
    history = History(kept=3)
    for number in range(5):
        history.begin(f"r{number}", "task")
    assert ["r2", "r3", "r4"] == [run.name for run in history]
    assert history.find("r0") is None
    assert history.find("r4") is history.last_run


def test_runs_may_begin_while_others_look() -> None:
    """Going through the runs is not disturbed by a run that begins meanwhile."""
    history = History()
    history.begin("r0", "task")
    seen = []
    for run in history:
        seen.append(run.name)
        history.begin("r1", "task")
    assert ["r0"] == seen


def test_the_outcome_of_an_action_is_that_of_its_last_attempt() -> None:
    """An action without an attempt has no outcome; with attempts it has the last one's."""
    action = Action(name="a0", task_name="oomer", parent=None, limits=Limits())
    assert action.outcome is None
    action.attempts += [_attempt(1), _attempt(2)]
    assert action.attempts[1].outcome is action.outcome


def test_an_action_begins_once_however_often_it_is_tried() -> None:
    """A retry of an action finds the action that began; a name that never began is not found."""
    run = Run(name="r", task_name="t")
    action = run.begin_action("a1", "oomer", "a0", Limits(memory_bytes=5_000))
    assert action is run.begin_action("a1", "oomer", "a0", Limits(memory_bytes=5_000))
    assert action is run.action("a1")
    assert [action] == run.actions
    assert run.action("a2") is None


def test_actions_stand_in_the_order_in_which_they_began() -> None:
    """The actions of a run are listed in start order, whatever their names."""
    run = Run(name="r", task_name="t")
    for name in ("a2", "a0", "a1"):
        run.begin_action(name, "oomer", None, Limits())
    assert ["a2", "a0", "a1"] == [action.name for action in run.actions]


def test_a_failure_is_found_by_its_worker() -> None:
    """The failure of an attempt is found by the attempt's worker name; a success or a stranger gives None."""
    run = Run(name="r", task_name="t")
    action = run.begin_action("a0", "t", None, Limits())
    action.attempts += [replace(_attempt(1), outcome=_failure()), _attempt(2)]
    assert action.attempts[0].outcome is run.failure_of("r-a0-1")
    assert run.failure_of("r-a0-2") is None
    assert run.failure_of("r-a9-1") is None


def test_a_failed_attempt_is_exported_with_its_error() -> None:
    """The exported attempt names the class of its error."""
    run = Run(name="r", task_name="t")
    run.begin_action("a0", "t", None, Limits()).attempts.append(replace(_attempt(1), outcome=_failure()))
    assert "ValueError" == run.to_dict()["actions"][0]["attempts"][0]["error"]


def test_a_run_tells_tools_names_and_numbers_but_no_values() -> None:
    """The exported run names its outputs without their values and gives each attempt's peak and duration."""
    run = Run(name="r", task_name="t", outputs={"secret": "do not tell"})
    run.begin_action("a0", "t", None, Limits(memory_bytes=5_000)).attempts.append(_attempt(1))
    text = json.dumps(run.to_dict())
    assert "do not tell" not in text
    (action,) = run.to_dict()["actions"]
    (attempt,) = action["attempts"]
    assert ("a0", "t", None, 5_000) == tuple(
        action[name] for name in ("name", "task_name", "parent", "memory_limit_bytes")
    )
    assert (1, "r-a0-1", None, 1_000, 0.123) == tuple(
        attempt[name] for name in ("number", "worker", "error", "peak_bytes", "duration_s")
    )
    assert ["secret"] == run.to_dict()["outputs"]


def test_only_the_run_that_gave_outputs_last_has_them() -> None:
    """The outputs of earlier runs are let go; outputs of a run that is not known change nothing."""
    history = History()
    first, second = history.begin("r1", "first"), history.begin("r2", "second")
    history.keep_outputs("r1", {"x": 1})
    assert ({"x": 1}, {}) == (first.outputs, second.outputs)
    history.keep_outputs("r2", {"y": 2})
    history.keep_outputs("unknown", {"z": 3})
    assert ({}, {"y": 2}) == (first.outputs, second.outputs)


def test_a_run_that_never_started_can_be_forgotten() -> None:
    """It is gone, the others stay in order, and the number of kept runs is as before."""
    history = History(kept=2)
    history.begin("r1", "first")
    history.begin("r2", "second")
    history.forget("r2")
    history.forget("unknown")
    assert ["r1"] == [run.name for run in history]
    for name in ("r3", "r4"):
        history.begin(name, "later")
    assert ["r3", "r4"] == [run.name for run in history]


def test_a_run_is_shown_in_one_line() -> None:
    """Its name, its task, how many actions it has, and why it failed."""
    run = Run(name="r1", task_name="oomer")
    run.begin_action("a0", "oomer", None, Limits())
    assert "<Run r1 of oomer: 1 action>" == repr(run)
    run.begin_action("a1", "other", "a0", Limits())
    run.failure = _failure()
    assert "<Run r1 of oomer: 2 actions, ValueError>" == repr(run)


def _ran(history: History, name: str, *, attempts: int = 1, rerun_of: str | None = None, using: str = "") -> Run:
    """Add a run of one action with some failed attempts."""
    run = history.begin(name, "oomer", Call() if rerun_of is None else Rerun(of=rerun_of, changed=using))
    action = run.begin_action("a0", "oomer", None, Limits())
    for number in range(attempts):
        worker = f"{name}-a0-{number}"
        failure = replace(_failure(), worker=worker)
        action.attempts.append(replace(_attempt(number + 1), worker=worker, outcome=failure))
    return run


def _told(history: History, worker: str) -> list[tuple[str, str]]:
    return [(label, attempt.worker) for label, attempt in history.story(worker)]


def test_a_story_is_every_attempt_in_order() -> None:
    """The first run's attempts, then those of its reruns, each with what tells it from the others."""
    history = History()
    _ran(history, "r1")
    assert [("attempt 1", "r1-a0-0")] == _told(history, "r1-a0-0")
    _ran(history, "other")
    _ran(history, "r2", rerun_of="r1-a0-0", using="1Gi")
    _ran(history, "r3", rerun_of="r1-a0-0")
    expected = [("attempt 1", "r1-a0-0"), ("rerun 1 (1Gi)", "r2-a0-0"), ("rerun 2", "r3-a0-0")]
    for worker in ("r1-a0-0", "r2-a0-0", "r3-a0-0"):
        assert expected == _told(history, worker)


def test_attempts_of_one_rerun_are_told_apart() -> None:
    """By their numbers, as soon as two would have the same words."""
    history = History()
    _ran(history, "r1", attempts=2)
    _ran(history, "r2", attempts=2, rerun_of="r1-a0-1", using="1Gi, 1 retry")
    assert [
        ("attempt 1", "r1-a0-0"),
        ("attempt 2", "r1-a0-1"),
        ("rerun 1 (1Gi, 1 retry), attempt 1", "r2-a0-0"),
        ("rerun 1 (1Gi, 1 retry), attempt 2", "r2-a0-1"),
    ] == _told(history, "r2-a0-1")


def test_a_rerun_of_a_rerun_belongs_to_the_first_failure() -> None:
    """However long the chain, its origin is the worker that failed first."""
    history = History()
    _ran(history, "r1")
    worker = "r1-a0-0"
    for name in ("r2", "r3", "r4"):
        _ran(history, name, rerun_of=history.origin_of(worker))
        worker = f"{name}-a0-0"
    assert "r1-a0-0" == history.origin_of(worker)
    assert "unknown" == history.origin_of("unknown")
    assert 4 == len(history.story(worker))


def test_runs_that_are_forgotten_are_left_out_of_a_story() -> None:
    """What is left is told, with the numbers that are left; of nothing there is no story."""
    history = History(kept=2)
    _ran(history, "r1")
    _ran(history, "r2", rerun_of="r1-a0-0", using="1Gi")
    _ran(history, "r3", rerun_of="r1-a0-0", using="2Gi")
    assert [("rerun 1 (1Gi)", "r2-a0-0"), ("rerun 2 (2Gi)", "r3-a0-0")] == _told(history, "r3-a0-0")
    assert [] == _told(history, "unknown")
    assert (None, history.last_run) == (history.run_of("r1-a0-0"), history.run_of("r3-a0-0"))


def test_a_rerun_that_has_not_begun_is_not_told() -> None:
    """It stands in the history before its first attempt."""
    history = History()
    _ran(history, "r1")
    history.begin("r2", "oomer", Rerun(of="r1-a0-0"))
    assert ["r1-a0-0"] == [worker for _, worker in _told(history, "r1-a0-0")]


def test_who_failed_by_itself_is_told_from_who_was_failed() -> None:
    """A caller whose callee failed has the callee's failure."""
    run = _ran(History(), "r1", attempts=2)
    caller = run.begin_action("a1", "outer", None, Limits())
    failure = run.failure_of("r1-a0-1")
    assert failure is not None
    caller.attempts.append(replace(_attempt(1), worker="r1-a1-0", outcome=failure))
    assert {"r1-a0-0", "r1-a0-1"} == run.failed_workers


def test_runs_may_begin_and_be_forgotten_in_many_threads() -> None:
    """None is lost."""
    history = History(kept=1000)

    def work(first: str) -> None:
        for number in range(100):
            history.begin(f"{first}{number}", "t")
            history.begin(f"{first}{number}-gone", "t")
            history.forget(f"{first}{number}-gone")

    threads = [threading.Thread(target=work, args=(first,)) for first in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 300 == len(history)


def test_a_run_is_exported_as_json() -> None:
    """The same as the dictionary, versioned; an attempt finds its failure among those of the run."""
    run = _ran(History(), "r1", attempts=2)
    facts = json.loads(run.to_json())
    assert run.to_dict() == facts
    assert 1 == facts["version"]
    assert [0, 1] == [attempt["failure"] for attempt in facts["actions"][0]["attempts"]]
    assert ["r1-a0-0", "r1-a0-1"] == [failure["worker"] for failure in facts["failures"]]
    assert [1_000, 1_000] == [attempt["memory"]["peak_bytes"] for attempt in facts["actions"][0]["attempts"]]


def test_a_failure_that_went_up_is_exported_once() -> None:
    """The attempt of the caller points to the same one as that of the callee."""
    run = _ran(History(), "r1")
    failure = run.failure_of("r1-a0-0")
    assert failure is not None
    run.begin_action("a1", "inner", "a0", Limits()).attempts.append(replace(_attempt(1), outcome=failure))
    facts = run.to_dict()
    assert [0, 0] == [action["attempts"][0]["failure"] for action in facts["actions"]]
    assert 1 == len(facts["failures"])


def test_a_run_becomes_a_data_frame() -> None:
    """With pandas there, a row for each attempt; what is not limited or not measured is missing."""
    pandas = pytest.importorskip("pandas")
    run = _ran(History(), "r1", attempts=2)
    limited = replace(_attempt(1), limits=Limits(memory_bytes=5_000))
    run.begin_action("a1", "inner", "a0", limited.limits).attempts.append(limited)
    frame = run.to_pandas()
    assert ["oomer", "oomer", "inner"] == frame["task_name"].tolist()
    assert ["ValueError", "ValueError"] == frame["error"].tolist()[:2]
    assert [False, False, True] == frame["error"].isna().tolist()
    assert [True, True, False] == frame["memory_limit_bytes"].isna().tolist()
    assert (5_000, 1_000, "r1") == (frame["memory_limit_bytes"][2], frame["peak_bytes"][0], frame["run"][0])
    assert {"Int64"} == {str(frame[name].dtype) for name in frame if name.endswith("_bytes")}
    assert [] == Run(name="r", task_name="t").to_pandas().index.tolist()
    assert 6 == len(pandas.concat([frame, frame]))


def test_some_runs_are_found_by_number_and_by_name() -> None:
    """By the name of the run or of the task the last one; what is not there is said, with what is."""
    runs = Runs([Run(name="r1", task_name="oomer"), Run(name="r2", task_name="oomer"), Run(name="r3", task_name="x")])
    assert ("r1", "r2", "r3") == runs.names
    assert ["r1", "r3", "r1", "r2"] == [runs[which].name for which in (0, -1, "r1", "oomer")]
    assert ("r2", "r3") == runs[1:].names
    assert isinstance(runs[1:], Runs)
    assert "<3 runs: r1, r2, r3>" == repr(runs)
    with pytest.raises(LookupError, match="no run or task is called 'y' here; there are x, oomer"):
        runs["y"]
    with pytest.raises(IndexError):
        runs[3]


def test_a_loaded_run_says_when_it_was_saved() -> None:
    """In local time, to the minute; one of this kernel says nothing."""
    run = Run(name="r1", task_name="oomer", saved_s=1_800_000_000.0)
    assert f"<Run r1 of oomer: 0 actions, saved {run.saved_words}>" == repr(run)
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(1_800_000_000)) == run.saved_words
    assert not Run(name="r1", task_name="oomer").saved_words


PURPOSES = [
    Call(),
    Cell(),
    Cell(background=True),
    Rerun(of="r1-a0-0", changed="1Gi", background=True),
    Rerun(of="r1-a0-0", cell=True),
    FitTrial(),
    FitTrial(cell=True),
]


@pytest.mark.parametrize("purpose", PURPOSES, ids=repr)
def test_the_purpose_of_a_run_is_known_from_its_facts(purpose: Purpose) -> None:
    """They have flags for it, as the first version of them had."""
    facts = Run(name="r", task_name="t", purpose=purpose).to_dict()
    names = ("lands", "apart", "of_fit", "rerun_of", "rerun_with")
    assert purpose == purpose_of(**{name: facts[name] for name in names})


def test_a_run_whose_limit_grew_is_a_rerun_among_its_facts() -> None:
    """What was shown together in the notebook is not told from other reruns in a file."""
    facts = Run(name="r", task_name="t", purpose=Grown(of="r1-a0-0", limit="1Gi", cell=True)).to_dict()
    assert ("r1-a0-0", "1Gi", True) == (facts["rerun_of"], facts["rerun_with"], facts["lands"])


@pytest.mark.parametrize("purpose", [FitTrial(), SweepPoint()], ids=repr)
def test_what_fails_in_an_experiment_is_not_the_last_failure(purpose: Purpose) -> None:
    """Neither an attempt of it, nor the run itself: it was to find that out."""
    history = History()
    run = history.begin("r", "t", purpose)
    failed = _failure()
    history.record(run, run.begin_action("a0", "t", None, Limits()), replace(_attempt(1), outcome=failed))
    history.end(run, failed)
    assert (failed, None) == (run.failure, history.last_failure)


def test_a_failure_is_told_again_with_more_words() -> None:
    """In its run, and as the last one; another failure stays."""
    history = History()
    run = _ran(history, "r1")
    failure = run.failure_of("r1-a0-0")
    assert failure is not None
    history.end(run, failure)
    told = replace(failure, headline="more words")
    history.retell(failure, told)
    assert run.failure is told is history.last_failure
    history.retell(failure, replace(failure, headline="others"))
    assert run.failure is told is history.last_failure


def test_a_history_is_read_as_loaded_runs_are() -> None:
    """By number, by name or as a slice; its text has the names, and a wrong number says how many there are."""
    history = History()
    for name in ("one", "two", "three"):
        history.begin(name, f"task_{name}")
    assert "two" == history[1].name == history["task_two"].name
    assert ("two", "three") == history[1:].names
    assert "<3 runs: one, two, three>" == repr(history)
    with pytest.raises(IndexError, match="there is no run -4 here; there are 3"):
        history[-4]
