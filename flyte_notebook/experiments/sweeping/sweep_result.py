"""The results of a sweep: its points, the smallest passing limit, and how memory grows with an input."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from flyte_notebook.core.units import format_memory
from flyte_notebook.experiments.sweeping.trend import Trend, trend_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flyte_notebook.experiments.sweeping.plan import Plan, Spacing

PointEnd: TypeAlias = Literal["passed", "OOM", "timeout", "error"]
"""``OOM`` is a kill at the swept limit, ``timeout`` any time limit, ``error`` any other failure."""

ENDS: Final[tuple[PointEnd, ...]] = ("passed", "OOM", "timeout", "error")
_SHOWN_VALUE: Final = 24
_PLAIN: Final = (int, float, str, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run of a sweep.

    ``limit_bytes`` is its memory limit, ``None`` without one; ``value`` that of the swept input, ``None`` without one.
    ``duration_s`` is from the start of its worker to its end. ``peak_bytes`` is its peak, with page cache, and
    ``counted_bytes`` the smallest limit for this peak; ``None`` where nothing was measured. ``words`` describe its
    failure and ``code`` is the code of the error; both are empty when it passed.
    """

    number: int
    limit_bytes: int | None
    value: Any
    outcome: PointEnd
    duration_s: float
    peak_bytes: int | None = None
    counted_bytes: int | None = None
    words: str = ""
    code: str = ""


class Need(NamedTuple):
    """The result for one value of the input (``None`` without one).

    ``passing_bytes`` is the smallest limit that passed, ``peak_bytes`` the highest peak of the passed runs, less page
    cache; ``None`` where none passed. ``points`` are its runs, the smallest limit first.
    """

    value: Any
    passing_bytes: int | None
    peak_bytes: int | None
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Sweep:
    """The result of `flyte_notebook.sweep`.

    ``points`` are the measured runs, in the order of the plan: limits within values. ``planned`` is the planned number;
    there are fewer ``points`` when it was interrupted. ``input_name`` is the swept input, ``None`` without one,
    ``limits`` and ``values`` are those that were tried. ``headline`` is the result in one sentence.
    """

    task_name: str
    points: tuple[Point, ...]
    planned: int
    limits: tuple[int, ...] = ()
    spacing: Spacing = "linear"
    input_name: str | None = None
    values: tuple[Any, ...] = ()
    numbers: bool = False
    side_by_side: int = 1
    enforced: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether it ended before its last point."""
        return len(self.points) < self.planned

    @property
    def frontier(self) -> tuple[Need, ...]:
        """The needs of each value, in the order of the plan; one row without an input."""
        rows = []
        for value in self.values or (None,):
            of_it = tuple(point for point in self.points if _same(point.value, value))
            passed = [point for point in of_it if point.outcome == "passed"]
            limits = [point.limit_bytes for point in passed if point.limit_bytes is not None]
            peaks = [point.counted_bytes for point in passed if point.counted_bytes is not None]
            rows.append(Need(value, min(limits, default=None), max(peaks, default=None), of_it))
        return tuple(rows)

    @property
    def trend(self) -> Trend | None:
        """The line through the peaks of passed runs, ``None`` for an input that is not a number."""
        if self.input_name is None or not self.numbers:
            return None
        known = [(need.value, need.peak_bytes) for need in self.frontier if need.peak_bytes is not None]
        return trend_of(known, self.values)

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        return headline(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """Further notes, as sentences."""
        return tuple(_notes(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the sweep for tools: plain values; other values of the input as their ``repr``."""
        line = self.trend
        return {
            "task_name": self.task_name,
            "headline": self.headline,
            "notes": list(self.notes),
            "input_name": self.input_name,
            "spacing": self.spacing,
            "planned": self.planned,
            "interrupted": self.interrupted,
            "points": [
                {
                    "limit_bytes": point.limit_bytes,
                    "value": _plain(point.value),
                    "outcome": point.outcome,
                    "duration_s": round(point.duration_s, 4),
                    "peak_bytes": point.peak_bytes,
                    "counted_bytes": point.counted_bytes,
                    "words": point.words,
                    "code": point.code,
                }
                for point in self.points
            ],
            "frontier": [
                {"value": _plain(need.value), "passing_bytes": need.passing_bytes, "peak_bytes": need.peak_bytes}
                for need in self.frontier
            ],
            "trend": None
            if line is None
            else {
                "base_bytes": line.base_bytes,
                "slope_bytes": line.slope_bytes,
                "r_squared": line.r_squared,
                "next_value": line.next_value,
                "predicted_bytes": line.next_bytes,
            },
        }


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return the fields of a `Sweep` about its plan, by name."""
    over = plan.over
    return {
        "planned": plan.count,
        "limits": plan.limits,
        "spacing": plan.spacing,
        "input_name": None if over is None else over.name,
        "values": () if over is None else over.values,
        "numbers": over is not None and over.numbers,
    }


def value_words(value: Any) -> str:  # noqa: ANN401 - any value of an input
    """Return a value as a person writes it, cut if it is long."""
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= _SHOWN_VALUE else f"{text[: _SHOWN_VALUE - 1]}…"


def counted(count: int) -> str:
    """Return the number of runs as text."""
    return f"{count:,} run{'' if count == 1 else 's'}"


def headline(sweep: Sweep) -> str:
    """Return a sentence with the result of a sweep, and the number of runs."""
    ran = counted(len(sweep.points))
    if sweep.interrupted:
        ran = f"interrupted after {len(sweep.points):,} of {counted(sweep.planned)}"
    if not sweep.points:
        return ran
    ends = Counter(point.outcome for point in sweep.points)
    if len(ends) == 1 and "passed" not in ends:
        return f"{_nowhere(sweep, next(iter(ends)))}; {ran}"
    if sweep.input_name is None:
        return f"{_cliff(sweep.frontier[0].points)}; {ran}"
    line = sweep.trend
    said = f"{ends['passed']:,} of {counted(len(sweep.points))} passed"
    if line is not None and line.next_bytes is not None:
        said = f"{formula(line, sweep.input_name)}; {said}"
    return f"{said}; {ran}" if sweep.interrupted else said


def formula(line: Trend, name: str) -> str:
    """Return a fitted line as text: ``memory = 38 MiB + 76.3 MiB × x``."""
    if line.flat:
        return f"memory does not depend on {name}: {format_memory(line.at(line.next_value))}"
    sign, slope = ("+", line.slope_bytes) if line.slope_bytes >= 0 else ("-", -line.slope_bytes)
    each = f"{slope:.2g} B" if slope < 1 else format_memory(slope)
    return f"memory = {format_memory(line.base_bytes)} {sign} {each} × {name}"


def _nowhere(sweep: Sweep, ended: PointEnd) -> str:
    """Return a note for the case that every point failed in the same way."""
    where = ["limit"] if len(sweep.limits) > 1 else []
    where += [f"value of {sweep.input_name}"] if sweep.input_name is not None else []
    every = " and every ".join(where)
    if ended == "OOM":
        above = max((point.limit_bytes or 0 for point in sweep.points), default=0)
        return f"OOM at every {every}: it needs more than {format_memory(above)}"
    if ended == "timeout":
        return f"too slow at every {every}: {sweep.points[0].words}"
    reasons = Counter(point.code for point in sweep.points)
    first = sweep.points[0].words
    said = first if len(reasons) == 1 else f"{len(reasons)} different errors, the first one: {first}"
    return f"failed at every {every}, for another reason: {said}"


def _cliff(points: Sequence[Point]) -> str:
    """Return from which limit on a task passes, the points in the order of their limits."""
    passed = [point for point in points if point.outcome == "passed"]
    failed = [point for point in points if point.outcome != "passed"]
    if not passed:
        kinds = Counter(point.outcome for point in points)
        return "passed at no limit: " + ", ".join(f"{kinds[end]} {end}" for end in ENDS if kinds[end])
    least, most = passed[0].limit_bytes or 0, failed[-1].limit_bytes or 0 if failed else 0
    if not failed:
        return f"passed at every limit, from {format_memory(least)} on"
    if most > least:
        return f"passed at {format_memory(least)} and not at {format_memory(most)} ({failed[-1].outcome})"
    return f"passes from {format_memory(least)} on, and not at {format_memory(most)} ({failed[-1].outcome})"


def _notes(sweep: Sweep) -> Iterator[str]:
    ends = Counter(point.outcome for point in sweep.points)
    line, name = sweep.trend, sweep.input_name or ""
    if line is not None:
        yield from _trend_notes(line, name)
    if len(ends) > 1 and ends["error"]:
        yield from _error_notes(sweep)
    if any(_turns(need.points) for need in sweep.frontier):
        yield "Chance decides: there was an OOM at a larger limit than one that passed."
    if any((point.peak_bytes or 0) - (point.counted_bytes or 0) > 1 << 20 for point in sweep.points):
        yield "Peaks leave out the file cache, which the system can free."
    if sweep.enforced and not sweep.enforced.startswith("kernel"):
        yield f"Limits are {sweep.enforced} here, so the result is no more exact than that."


def _trend_notes(line: Trend, name: str) -> Iterator[str]:
    said = f"Fitted line: {formula(line, name)}, through {line.count} peaks"
    if line.flat:
        yield f"The peaks of {line.count} values of {name} are no more than {format_memory(line.apart_bytes)} apart."
    elif line.r_squared is None:
        yield f"{said}; two points fit any line, so how good it is is not known."
    else:
        yield f"{said}; R² {_r_squared(line.r_squared)}, off by {format_memory(line.worst_bytes)} at most."
    if line.next_bytes is None:
        yield f"A straight line does not describe these peaks, so nothing is predicted for another {name}."
    else:
        predicted = format_memory(line.next_bytes)
        yield f"Prediction, not measured: {predicted} for {name} = {value_words(line.next_value)}."


def _r_squared(r_squared: float) -> str:
    """Return R² without rounding up to a perfect 1."""
    return f"{int(max(r_squared, 0) * 10_000) / 10_000:g}"


def _error_notes(sweep: Sweep) -> Iterator[str]:
    """Yield texts about the points that failed for other reasons."""
    failed = [point for point in sweep.points if point.outcome == "error"]
    whole = [need for need in sweep.frontier if need.points and all(point.outcome == "error" for point in need.points)]
    told = 0
    for need in whole if sweep.input_name is not None else ():
        told += len(need.points)
        every = " at every limit" if len(sweep.limits) > 1 else ""
        which = f"{sweep.input_name} = {value_words(need.value)}"
        yield f"{which} failed{every}, for another reason: {need.points[0].words}."
    if len(failed) > told:
        words = next(point.words for point in failed if all(point not in need.points for need in whole))
        left = len(failed) - told
        yield f"{counted(left)} failed for {'a reason' if left == 1 else 'reasons'} other than this limit: {words}."


def _turns(points: Sequence[Point]) -> bool:
    """Whether a larger limit failed where a smaller one passed."""
    passed = [point.limit_bytes or 0 for point in points if point.outcome == "passed"]
    failed = [point.limit_bytes or 0 for point in points if point.outcome == "OOM"]
    return bool(passed and failed) and max(failed) > min(passed)


def _same(one: object, other: object) -> bool:
    return one is other or (isinstance(one, _PLAIN) and type(one) is type(other) and one == other)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of an input
    return value if isinstance(value, _PLAIN) else repr(value)
