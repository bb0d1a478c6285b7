"""What failures hold has a bound, for one and for all: where they are described, on the way, and in the history."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import flyte.errors
import pytest

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import MAX_LINE_CHARS, Failure, Raised, Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.errors import MAX_FIELDS_BYTES, MAX_NAME_CHARS, MAX_TEXT_CHARS, pack, rebuild
from flyte_notebook.history import Action, Attempt, History, Run
from flyte_notebook.history.budget import KEPT_CHARS
from flyte_notebook.worker.process import raised

if TYPE_CHECKING:
    from collections.abc import Callable

MI = 2**20


class Held:
    """Counts how many of them live."""

    living: ClassVar[int] = 0

    def __init__(self) -> None:
        type(self).living += 1

    def __del__(self) -> None:
        type(self).living -= 1


def failed(number: int, *, text: str = "x", loaded_mi: int = 10, pickled: bytes | None = None) -> Attempt:
    error = flyte.errors.RuntimeUserError("ValueError", text)
    error.__cause__ = cause = ValueError(text)
    cause.held = error.own = Held()  # type: ignore[attr-defined]
    facts = Raised(
        type_name="ValueError",
        module="builtins",
        message=text,
        traceback=text,
        loaded_bytes=loaded_mi * MI,
        pickled=pickled,
    )
    report = WorkerReport(raised=facts, output_tail=text)
    failure = Failure(
        error=error,
        kind="user",
        code="ValueError",
        worker=f"r{number}-a0-0",
        message=text,
        reason="raised",
        headline="raised ValueError",
        task_name="t",
        attempt=0,
        max_attempts=1,
        limits=Limits(),
        report=report,
        traceback=text,
    )
    error.failure = failure  # type: ignore[attr-defined]
    return attempt(number, failure)


def attempt(number: int, outcome: Failure | Success) -> Attempt:
    return Attempt(
        number=1, worker=f"r{number}-a0-0", limits=Limits(), outcome=outcome, trace=MemoryTrace(), duration_s=0.1
    )


def recorded(history: History, number: int, done: Attempt) -> tuple[Run, Action]:
    run = history.begin(f"r{number}", "t")
    action = run.begin_action("a0", "t", None, Limits())
    history.record(run, action, done)
    if isinstance(done.outcome, Failure):
        run.failure = replace(done.outcome, lines=())  # as a session does, with the lines of its callers
    return run, action


def test_the_oldest_failures_lose_their_values_first() -> None:
    """So many as it takes; class, code and the ends of the texts stay, and the newest is whole."""
    history = History(kept_bytes=64 * MI)
    text = "begin" + "x" * 10_000 + "end"
    for number in range(20):
        recorded(history, number, failed(number, text=text))
    gc.collect()
    assert 20 == len(history)
    assert 6 == Held.living
    oldest, newest = history[0].failure, history[-1].failure
    assert oldest is not None
    assert newest is not None
    for told in (oldest.message, oldest.traceback, str(oldest.error)):
        assert (True, True) == (told.startswith("begin"), told.endswith("end"))
        assert len(told) < KEPT_CHARS + 20
    assert ("RuntimeUserError", "ValueError") == (type(oldest.error).__name__, oldest.code)
    assert "begin" in str(oldest.error.__cause__)
    assert text == newest.message == str(newest.error)
    assert isinstance(newest.error.__cause__, ValueError)
    assert [] == [None for run in history if run.to_dict()["failure"] is None]


def test_a_pickle_that_is_let_go_does_not_count() -> None:
    """An error is loaded from it, and then it goes: no run is forgotten for what nobody holds."""
    history = History(kept_bytes=64 * MI)
    for number in range(100):
        done = failed(number, pickled=bytes(2 * MI))
        recorded(history, number, done)
        assert isinstance(done.outcome, Failure)
        done.outcome.let_pickle_go()
    assert 100 == len(history)


def test_one_run_of_many_failures_has_a_bound_too() -> None:
    """A run is not forgotten while it goes on; its oldest failures lose what they hold."""
    history = History(kept_bytes=64 * MI)
    run = history.begin("run", "t")
    for number in range(30):
        action = run.begin_action(f"a{number}", "t", None, Limits())
        history.record(run, action, failed(number))
    gc.collect()
    assert 30 == len(run.actions)
    assert 6 == Held.living


def test_what_cannot_lose_anything_is_forgotten() -> None:
    """Where runs without values are too much, the oldest go; never the one that is recorded just now."""
    history = History(kept_bytes=100_000)
    for number in range(40):
        recorded(history, number, attempt(number, Success(answer=b"", report=WorkerReport(output_tail="x" * 8_000))))
    assert 5 < len(history) < 15
    assert "r39" == history[-1].name
    alone = History(kept_bytes=10)
    recorded(alone, 1, attempt(1, Success(answer=b"", report=WorkerReport())))
    assert ["r1"] == [run.name for run in alone]


def test_what_is_forgotten_weighs_nothing() -> None:
    """Runs that are forgotten, one after the other, leave room for as many."""
    history = History(kept_bytes=64 * MI)
    for number in range(50):
        recorded(history, number, failed(number, loaded_mi=20))
        history.forget(f"r{number}")
    recorded(history, 51, failed(51))
    recorded(history, 52, failed(52))
    gc.collect()
    assert 2 == Held.living


def test_the_pickles_of_a_failure_can_be_let_go() -> None:
    """The error was loaded from them, and nobody loads it again."""
    failure = failed(1).outcome
    assert isinstance(failure, Failure)
    assert failure.report.raised is not None
    below = replace(failure.report.raised, pickled=b"below")
    object.__setattr__(failure, "report", replace(failure.report, raised=replace(below, pickled=b"own", cause=below)))
    failure.let_pickle_go()
    assert failure.report.raised is not None
    assert failure.report.raised.cause is not None
    assert (None, None) == (failure.report.raised.pickled, failure.report.raised.cause.pickled)


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"x" * 100 * MI,
        lambda: "x" * 100 * MI,
        lambda: [f"text {number}" for number in range(1_000_000)],
        lambda: {number: {number} for number in range(300_000)},
        lambda: [[]] * 10_000_000,
    ],
    ids=["bytes", "text", "texts", "sets", "lists"],
)
def test_large_values_of_an_error_of_flyte_do_not_travel(make: Callable[[], Any]) -> None:
    """As an attribute or among its arguments; what is small beside them does, and the class."""
    large = make()
    error = flyte.errors.RuntimeUserError("Code", "message")
    error.large, error.small = large, [1, {"two": b"2"}]  # type: ignore[attr-defined]
    fields = pack(error)
    assert fields is not None
    assert {"small": [1, {"two": b"2"}]} == fields["attributes"]
    again = rebuild(fields)
    assert ("message", "Code") == (str(again), again.code)  # type: ignore[union-attr]
    error.args = (large, large)
    fields = pack(error)
    assert fields is not None
    assert len(fields["args"]) == 1
    assert len(fields["args"][0]) <= MAX_TEXT_CHARS + 50


def test_values_share_one_room() -> None:
    """A hundred attributes of a tenth of it each are not all sent."""
    error = flyte.errors.RuntimeUserError("Code" * MAX_NAME_CHARS, "message")
    for number in range(100):
        setattr(error, f"attribute{number}", bytes(MAX_FIELDS_BYTES // 10))
    fields = pack(error)
    assert fields is not None
    assert 9 == len(fields["attributes"])
    assert MAX_NAME_CHARS + 1 == len(fields["code"])


@pytest.mark.parametrize(
    "make",
    [lambda: b"x" * 5 * MI, lambda: ["x"] * 3_000_000, lambda: [set() for _ in range(200_000)]],
    ids=["bytes", "texts", "sets"],
)
def test_a_large_exception_is_described_without_itself(make: Callable[[], Any]) -> None:
    """A pickle that is too large, or that is small and grows when it is loaded."""
    error = ValueError("message")
    error.held = make()  # type: ignore[attr-defined]
    assert (None, 0) == raised.pickled(error)
    facts = raised.with_pickled(raised.describe(error), error)
    assert ("message", None, 0) == (facts.message, facts.pickled, facts.loaded_bytes)


def grown() -> bytearray:
    return bytearray(100 * MI)


class Growing(Exception):  # noqa: N818 - it says what it does
    def __reduce__(self) -> Any:
        return type(self), (), {"held": Seed()}


class Seed:
    def __reduce__(self) -> Any:
        return grown, ()


def test_an_exception_that_grows_when_it_is_loaded_stays_behind() -> None:
    """A few bytes that make a hundred MiB are found out where it was raised, not in the notebook."""
    assert (None, 0) == raised.pickled(Growing())
    data, loaded_bytes = raised.pickled(ValueError("x" * 100_000))
    assert data is not None
    assert len(data) < loaded_bytes < MI


def test_what_an_exception_was_raised_from_shares_its_room() -> None:
    """Of several that are large only the first ones travel whole."""
    error: BaseException = flyte.errors.RuntimeUserError("Code", "message")
    last = error
    for _ in range(4):
        last.__cause__ = ValueError("x" * 1_500_000)
        last = last.__cause__
    facts: Raised | None = raised.with_pickled(raised.describe(error), error)
    sizes = []
    while facts is not None:
        sizes.append(0 if facts.pickled is None else len(facts.pickled) // 1_000_000)
        facts = facts.cause
    assert [0, 1] == sizes[:2]
    assert 4 >= sum(sizes)


def test_a_line_of_any_length_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell may hold a literal of megabytes in one line."""
    source = f"x = '{'x' * 2_000_000}'; 1 / 0\n"
    monkeypatch.setitem(raised.linecache.cache, "<cell 1>", (len(source), None, [source], "<cell 1>"))
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile(source, "<cell 1>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as IPython runs a cell
    line = raised.describe(caught.value).lines[-1]
    assert MAX_LINE_CHARS == len(line.text)
