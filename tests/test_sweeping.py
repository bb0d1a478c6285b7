"""What a sweep is to run, and what its points say together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.experiments import sweeping
from flyte_notebook.experiments.sweeping import Over, Plan, Point, Sweep, SweepError, parse_over, parse_range, trend_of

if TYPE_CHECKING:
    from collections.abc import Callable

MI = 1 << 20


def mib(text: str) -> list[int]:
    """Return the limits of a range in MiB."""
    return [limit // MI for limit in parse_range(text).limits]


def swept(
    memory: str | None = None,
    over: str | None = None,
    *,
    need_mi: Callable[[Any], float] = lambda _: 300,
    ends: Callable[[Any, int], tuple[Any, str] | None] = lambda _value, _limit: None,
    stop: int | None = None,
) -> Sweep:
    """Return a sweep of a task that needs so much, or that ends otherwise where ``ends`` says so."""
    limits = None if memory is None else parse_range(memory)
    plan = Plan(limits=() if limits is None else limits.limits, over=None if over is None else parse_over(over))
    points = []
    for number, limit_bytes, value in list(plan)[:stop]:
        needed = int(need_mi(value) * MI)
        oom = limit_bytes is not None and limit_bytes < needed
        outcome, words = ends(value, (limit_bytes or 0) // MI) or ("OOM" if oom else "passed", "too much" * oom)
        peak = min(needed, limit_bytes or needed)
        points.append(
            Point(
                number=number,
                limit_bytes=limit_bytes,
                value=value,
                outcome=outcome,
                duration_s=0.5,
                peak_bytes=peak,
                counted_bytes=peak,
                words=words,
                code=words,
            )
        )
    return Sweep(task_name="t", points=tuple(points), enforced="kernel (x)", **sweeping.plan_facts(plan))


def test_a_range_has_its_ends_and_equal_steps() -> None:
    """Linear limits are at equal distances, logarithmic ones grow by the same factor; both ends are exact."""
    assert [128, 256, 384, 512, 640, 768, 896, 1024] == mib("128Mi:1Gi:8")
    assert [64, 128, 256, 512] == mib("64Mi:512Mi:4:log")
    assert mib("128Mi:1Gi:8") == mib("128Mi:1Gi:8:linear")
    assert [128_000_000, 1 << 30] == list(parse_range("128M:1Gi:2").limits)


def test_limits_that_are_close_stay_apart() -> None:
    """Where whole MiB would coincide, limits are whole pages, or bytes."""
    assert 9 == len(set(parse_range("100Mi:102Mi:9").limits))
    assert 5 == len(set(parse_range("1000:1010:5").limits))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1Gi:128Mi:8", "write 128Mi:1Gi:8"),
        ("1Gi:128Mi:8:log", "write 128Mi:1Gi:8:log"),
        ("128Mi:1Gi", "write from:to:how many, for example 128Mi:1Gi:8"),
        ("128Mi:1Gi:1", "1 limit, no sweep; write 128Mi:1Gi:8, or one limit: 128Mi"),
        ("128Mi:1Gi:0", "0 limits, no sweep"),
        ("1Gi:1Gi:4", "the same limit twice"),
        ("128MB:1Gi:4", "write 128M (10^6) or 128Mi (2^20)"),
        ("128Mi:1Gi:many", "write for example 128Mi:1Gi:8"),
        ("128Mi:1Gi:4:exp", "exp is neither linear nor log; write for example 128Mi:1Gi:4:log"),
        ("128Mi:1Gi:99999", "10,000 at most"),
        ("1:3:8", "and different ones"),
        (":1Gi:8", "no range of limits"),
        (f"1Mi:2Mi:{'9' * 5_000}", "not how many"),
    ],
)
def test_a_wrong_range_says_what_is_right(text: str, words: str) -> None:
    """One line, with what was wrong and a right range."""
    with pytest.raises(SweepError) as caught:
        parse_range(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_python_literals() -> None:
    """Numbers, texts, lists and None; a line is drawn through numbers only."""
    assert Over(name="x", values=(1, -2.5, 4)) == parse_over("x=1,-2.5,4")
    assert ("a,b", "c") == parse_over("kind='a,b','c'").values
    assert ([1, 2], None) == parse_over("x=[1,2],None").values
    assert parse_over("x=1,2.5").numbers
    assert not parse_over("x=1,'2'").numbers
    assert not parse_over("x=True,False").numbers
    assert not Over(name="x", values=(1, 10**400)).numbers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "names no input"),
        ("=1,2", "names no input"),
        ("1x=1,2", "names no input"),
        ("class=1,2", "names no input"),
        ("x=", "x has no values"),
        ("x=1", "x has 1 value, which is no sweep; write for example x=1,2,4,8"),
        ("x=1,2,", "ends with a comma"),
        ("x=1,2,1", "x has 1 twice"),
        ("x=1,1.0", "x has 1.0 twice"),
        ("x=a,b", "no Python literal; write numbers, or texts in quotes, for example x=1,2,4,8 or x='a','b'"),
        ("x=1,,2", "no Python literal"),
        ("x=__import__('os'),2", "no Python literal"),
    ],
)
def test_wrong_values_say_what_is_right(text: str, words: str) -> None:
    """One line that shows how values are written; nothing is evaluated."""
    with pytest.raises(SweepError) as caught:
        parse_over(text)
    assert words in str(caught.value)


def test_a_plan_has_every_pair_once() -> None:
    """All limits of the first value, then of the next; what is not swept is one run with nothing of it."""
    plan = Plan(limits=(1, 2), over=Over(name="x", values=("a", "b")))
    assert [(0, 1, "a"), (1, 2, "a"), (2, 1, "b"), (3, 2, "b")] == list(plan)
    assert 4 == plan.count
    assert [(0, None, 5), (1, None, 6)] == list(Plan(over=Over(name="x", values=(5, 6))))


def test_many_runs_are_asked_for_with_their_time() -> None:
    """A hundred runs start unasked; a thousand say how long they take at least, and how to go on."""

    def ask(count: int, known_s: float | None) -> None:
        plan = Plan(limits=tuple(range(1, count + 1)))
        sweeping.check_size(plan, side_by_side=4, known_s=known_s, go_on="--yes")

    ask(100, 60.0)
    with pytest.raises(
        SweepError, match=r"1,000 runs, 4 at a time: at least 8 min 20 s by the shortest .* write --yes"
    ):
        ask(1_000, 2.0)
    with pytest.raises(SweepError, match="at least 5 s for starting them alone; nothing has run"):
        ask(1_000, None)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (swept("128Mi:512Mi:4"), "passes from 384 MiB on, and not at 256 MiB (OOM); 4 runs"),
        (swept("512Mi:1Gi:3"), "passed at every limit, from 512 MiB on; 3 runs"),
        (swept("128Mi:256Mi:3"), "OOM at every limit: it needs more than 256 MiB; 3 runs"),
        (
            swept("128Mi:512Mi:4", ends=lambda _v, _l: ("error", "ValueError: no")),
            "failed at every limit, for another reason: ValueError: no; 4 runs",
        ),
        (
            swept("128Mi:512Mi:4", ends=lambda _v, limit: ("error", f"E{limit}")),
            "failed at every limit, for another reason: 4 different errors, the first one: E128; 4 runs",
        ),
        (
            swept("128Mi:512Mi:4", ends=lambda _v, _l: ("timeout", "ran longer than 1 s")),
            "too slow at every limit: ran longer than 1 s; 4 runs",
        ),
        (
            swept("128Mi:512Mi:4", ends=lambda _v, limit: ("timeout", "slow") if limit > 256 else None),
            "passed at no limit: 2 OOM, 2 timeout; 4 runs",
        ),
        (
            swept("128Mi:512Mi:4", stop=3),
            "passes from 384 MiB on, and not at 256 MiB (OOM); interrupted after 3 of 4 runs",
        ),
        (swept("128Mi:512Mi:4", stop=0), "interrupted after 0 of 4 runs"),
        (swept(None, "kind='a','b'"), "2 of 2 runs passed"),
        (
            swept("128Mi:512Mi:4", "x=1,2", ends=lambda _v, _l: ("error", "no")),
            "failed at every limit and every value of x, for another reason: no; 8 runs",
        ),
    ],
)
def test_the_headline_says_where_it_passes(found: Sweep, words: str) -> None:
    """The cliff where there is one; that memory is not the matter where it is not; how many runs it took."""
    assert words == found.headline


def test_memory_over_an_input_is_a_line_with_a_prediction() -> None:
    """The line goes through the peaks of what passed, says how good it is, and what it says of the next value."""
    found = swept("128Mi:1Gi:8", "x=1,2,4,8", need_mi=lambda x: 38 + 76 * x)
    line = found.trend
    assert line is not None
    assert (38, 76) == (round(line.base_bytes / MI), round(line.slope_bytes / MI))
    assert (16, 38 + 76 * 16) == (line.next_value, round((line.next_bytes or 0) / MI))
    assert [128 * MI, 256 * MI, 384 * MI, 768 * MI] == [need.passing_bytes for need in found.frontier]
    assert "memory = 38 MiB + 76 MiB × x; 24 of 32 runs passed" == found.headline
    assert "Prediction, not measured: 1.2 GiB for x = 16." in found.notes
    assert "R² 1" in found.notes[0]


def test_what_no_limit_held_is_not_in_the_line() -> None:
    """A value that was killed at every limit has no peak: it does not pull the line down."""
    found = swept("128Mi:512Mi:4", "x=1,2,4,8", need_mi=lambda x: 38 + 76 * x)
    assert found.frontier[-1].peak_bytes is None
    assert found.trend is not None
    assert (3, 76) == (found.trend.count, round(found.trend.slope_bytes / MI))
    assert "Prediction, not measured: 646 MiB for x = 8." in found.notes


@pytest.mark.parametrize(
    ("values", "following"),
    [((1, 2, 4, 8), 16), ((1, 2, 3), 4), ((10, 100, 1000), 10_000), ((1, 2, 7), 14), ((5, 6), 12), ((-2, -1, 0), 1)],
)
def test_the_next_value_follows_the_series(values: tuple[float, ...], following: float) -> None:
    """By the same factor or step where there is one, else twice the largest."""
    line = trend_of([(value, 1_000 * MI + int(value * MI)) for value in values], values)
    assert line is not None
    assert following == line.next_value
    assert isinstance(line.next_value, int)


def test_a_bad_line_predicts_nothing() -> None:
    """Where a straight line does not describe the peaks that is said, and no value is predicted."""
    found = swept(None, "x=1,2,3,4,5,6,7", need_mi=lambda x: 50 + 100 * abs(x - 4))
    assert found.trend is not None
    assert found.trend.next_bytes is None
    assert "x" not in found.headline.partition(";")[0]
    assert any("nothing is predicted" in note for note in found.notes)


def test_two_points_do_not_say_how_good_a_line_is() -> None:
    """Through two values any line fits; it is drawn, and that is said."""
    found = swept(None, "x=1,2", need_mi=lambda x: 50 * x)
    assert found.trend is not None
    assert found.trend.r_squared is None
    assert "two points fit any line" in found.notes[0]


def test_memory_that_does_not_depend_on_the_input() -> None:
    """Peaks that differ by little are no slope."""
    found = swept(None, "x=1,2,3", need_mi=lambda x: 70 + x / 10)
    assert "memory does not depend on x: 70.2 MiB; 3 of 3 runs passed" == found.headline


def test_categories_have_no_line() -> None:
    """Values that are no numbers are compared, and nothing is fitted."""
    assert swept(None, "kind='a','b','c'").trend is None


def test_one_value_that_fails_for_a_reason_of_its_own_is_named() -> None:
    """Which value, that memory is not the matter, and why; the line goes through the others."""
    found = swept(
        "128Mi:512Mi:3", "x=1,2,4", need_mi=lambda x: 50 * x, ends=lambda x, _l: ("error", "boom") if x == 2 else None
    )
    assert "x = 2 failed at every limit, for another reason: boom." in found.notes
    assert found.trend is not None
    assert 2 == found.trend.count


def test_chance_is_told() -> None:
    """An OOM above a limit that passed is no cliff."""
    found = swept("128Mi:512Mi:4", ends=lambda _v, limit: ("OOM", "") if limit == 512 else ("passed", ""))
    assert "passed at 128 MiB and not at 512 MiB (OOM); 4 runs" == found.headline
    assert any(note.startswith("Chance decides") for note in found.notes)


def test_a_sweep_for_tools_is_plain() -> None:
    """Everything in it can be written as JSON; a value that cannot is its repr."""
    found = swept("128Mi:512Mi:2", "x=[1],'b'")
    said = found.to_dict()
    assert ["[1]", "[1]", "b", "b"] == [point["value"] for point in said["points"]]
    assert ["OOM", "passed", "OOM", "passed"] == [point["outcome"] for point in said["points"]]
    assert replace(found, points=found.points[:1]).to_dict()["interrupted"]
