"""A run from its facts: every field comes back, nothing that is not one is believed, and nothing is executed."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import pytest
from ran import FAILURE, SECRET, full_run, small_run

from flyte_notebook import errors
from flyte_notebook.core.outcome import Failure, Success
from flyte_notebook.storage import FactsError, run_from

if TYPE_CHECKING:
    from flyte_notebook.history import Run

NOT_KEPT = {
    ("Run", "outputs"): "values of the notebook",
    ("Run", "returned"): "values of the notebook",
    ("Run", "saved_s"): "the file says it",
    ("Run", "_frames_gone"): "of this kernel",
    ("Run", "_by_name"): "made from the actions",
    ("Failure", "error"): "an object; the test below has its class and its text",
    ("Success", "answer"): "a value",
    ("Suggestion", "limits"): "only the memory is suggested",
    ("WorkerReport", "answer"): "a value",
    ("WorkerReport", "raised"): "it may hold a pickle; what it means is in the failure",
    ("WorkerReport", "tripped"): "what it means is the failure's reason",
    ("WorkerReport", "tripped_detail"): "as above",
    ("WorkerReport", "unanswered"): "as above",
    ("WorkerReport", "left"): "what it means is in the failure's note",
    ("WorkerReport", "limit_reached"): "as above",
    ("WorkerReport", "machine_short"): "as above",
}
"""What a run has and its facts have not, by class and field, with the reason."""

OF_A_SUCCESS = {"trace", "enforcement", "queued_for_s", "duration_s"}
"""What is kept of the report of an attempt that passed."""


def again(run: Run) -> Run:
    """Return a run as it is after it was written and read."""
    return run_from(json.loads(run.to_json()))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every plain value in a tree of dataclasses by its path, but for those that are not kept."""
    if is_dataclass(value) and not isinstance(value, type):
        kind, found = type(value).__name__, {}
        for field in fields(value):
            if (kind, field.name) in NOT_KEPT or (path.endswith("Success.report") and field.name not in OF_A_SUCCESS):
                continue
            found |= leaves(getattr(value, field.name), f"{path}/{kind}.{field.name}")
        return found
    if isinstance(value, (list, tuple)) or type(value).__name__ == "array":
        return {key: leaf for at, one in enumerate(value) for key, leaf in leaves(one, f"{path}[{at}]").items()}
    return {path: value}


def test_every_field_of_a_run_comes_back() -> None:
    """But for those that have a reason not to; a field that is added is kept, or gets a reason."""
    before, after = leaves(full_run()), leaves(again(full_run()))
    assert before == after
    assert len(before) > 150
    untouched = {type(default).__name__ for default in before.values()}
    assert {"str", "int", "float", "bool"} <= untouched


def test_the_facts_of_a_run_that_was_read_are_the_same() -> None:
    """But for the names of outputs, whose values are gone."""
    facts = full_run().to_dict()
    assert facts | {"outputs": []} == again(full_run()).to_dict()


def test_an_error_is_of_its_class_and_carries_its_failure() -> None:
    """A class of Flyte is the real one; `explain` finds the failure; caller and callee share it as before."""
    run = again(full_run())
    failure = run.failure
    assert failure is not None
    assert isinstance(failure.error, errors.OOMError)
    assert (FAILURE.message, "OOMKilled", "user") == (str(failure.error), failure.error.code, failure.error.kind)
    assert failure is errors.failure_in(failure.error)
    assert failure is run.actions[0].attempts[0].outcome
    assert failure is run.actions[1].attempts[0].outcome
    assert isinstance(run.actions[1].attempts[1].outcome, Success)


@pytest.mark.parametrize(
    ("name", "base"),
    [("ValueError", ValueError), ("MyOwnError", Exception), ("print", Exception), ("subprocess:Popen", Exception)],
)
def test_other_errors_get_a_class_that_stands_in(name: str, base: type[BaseException]) -> None:
    """Of the same name, Python's own where it is one; nothing else that a name means is touched."""
    facts = full_run().to_dict()
    facts["failure"]["error"] = name
    failure = run_from(facts).failure
    assert failure is not None
    assert (name, FAILURE.message) == (type(failure.error).__name__, str(failure.error))
    assert isinstance(failure.error, base)


def test_values_and_environment_are_not_among_the_facts() -> None:
    """No output's value, no answer, no pickle: what could hold one is not written."""
    text = full_run().to_json()
    assert SECRET not in text
    assert "environ" not in text
    assert [{"name": "x", "type": "int", "size_bytes": 28}] == json.loads(text)["failure"]["inputs"]


OLD = {
    "name": "oomer-1",
    "task_name": "oomer",
    "actions": [
        {
            "name": "a0",
            "task_name": "oomer",
            "attempts": [
                {
                    "number": 1,
                    "worker": "oomer-1-a0-0",
                    "duration_s": 1.5,
                    "limits": {"memory_bytes": 1_000},
                    "memory": {"times_s": [0, 0.5], "memory_bytes": [1, 900], "peak_bytes": 950},
                }
            ],
        }
    ],
}
"""The least that says anything, without a version: what every later version has to read."""


def test_what_an_earlier_version_did_not_know_is_not_known() -> None:
    """Missing facts get the value that means so."""
    run = run_from(OLD, saved_s=5.0)
    (attempt,) = run.actions[0].attempts
    assert (5.0, None, [0, 0.5], 950, "samples") == (
        run.saved_s,
        run.failure,
        list(attempt.trace.times_s),
        attempt.trace.peak_bytes,
        attempt.trace.peak_source,
    )
    assert "none" == attempt.outcome.report.enforcement.memory


def test_what_a_later_version_adds_is_passed_over() -> None:
    """Facts that nobody here knows change nothing; a later version of those that are known is refused."""
    assert run_from(OLD).to_dict() == run_from(OLD | {"temperature": [1, 2]}).to_dict()
    with pytest.raises(FactsError, match="a later version of flyte_notebook wrote it"):
        run_from(OLD | {"version": 99})


def _set(facts: dict[str, Any], path: str, value: object) -> None:
    *way, last = path.split(".")
    place: Any = facts
    for step in way:
        place = place[int(step)] if step.isdecimal() else place[step]
    place[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", 5),
        ("name", None),
        ("cached", 1),
        ("actions", "abc"),
        ("actions", [5]),
        ("failures", {}),
        ("actions.0.attempts.0.failure", 7),
        ("actions.0.attempts.0.failure", -1),
        ("actions.0.attempts.0.duration_s", float("nan")),
        ("actions.0.attempts.0.duration_s", True),
        ("actions.0.attempts.0.number", 2**70),
        ("actions.1.attempts.0.memory.times_s", [0.0, 2.0, 1.0]),
        ("actions.1.attempts.0.memory.times_s", [0.0, float("inf"), 1.0]),
        ("actions.1.attempts.0.memory.times_s", [0.0]),
        ("actions.1.attempts.0.memory.memory_bytes", [1, 2, "3"]),
        ("actions.1.attempts.0.memory.memory_bytes", [1, 2, -3]),
        ("actions.1.attempts.0.memory.memory_bytes", [1, 2, 2**70]),
        ("actions.1.attempts.0.memory.memory_bytes", [1, 2, True]),
        ("actions.1.attempts.0.memory.peak_bytes", "many"),
        ("actions.1.attempts.0.limits.memory_bytes", -5),
        ("actions.1.attempts.0.enforcement.memory", "magic"),
        ("failures.0.reason", "because"),
        ("failures.0.stage", ""),
        ("failures.0.line.number", "4"),
        ("failures.0.error", None),
        ("failures.0.inputs", [{"name": "x"}]),
        ("failures.0.worker", ["x"]),
    ],
)
def test_what_cannot_be_is_refused(path: str, value: object) -> None:
    """With the name of the fact, never with an error of Python's own."""
    facts = full_run().to_dict()
    _set(facts, path, value)
    with pytest.raises(FactsError):
        run_from(facts)


@pytest.mark.parametrize("facts", [None, 5, [], "run"])
def test_what_is_no_run_is_refused(facts: object) -> None:
    """Anything but an object with names."""
    with pytest.raises(FactsError, match="the facts about a run are"):
        run_from(facts)


def test_a_run_that_has_not_ended_comes_back_as_it_was() -> None:
    """An action without an attempt has no outcome."""
    run = small_run("r")
    run.actions[0].attempts.clear()
    back = again(run)
    assert back.actions[0].outcome is None
    assert not isinstance(back.actions[0].outcome, Failure)
