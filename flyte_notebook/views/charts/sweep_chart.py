"""A sweep as pictures: run time over limit, and memory over the values of an input with the line through it.

The shape and the colour of a mark show how the run ended. Predictions are dashed and labelled.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flyte_notebook.core.units import format_memory
from flyte_notebook.experiments.sweeping import Need, Point, PointEnd, Sweep, Trend, value_words
from flyte_notebook.views.charts.paper import (
    BAD,
    GRID,
    LATEST,
    SIZE,
    SOFT,
    TEXT,
    WIDTH,
    Scale,
    axes_in,
    data_uri,
    figure_of,
    memory_scale,
    our_looks,
    put_text,
    put_ticks,
    say_only,
    svg_of,
    time_scale,
)
from flyte_notebook.views.charts.placing import LINE_HEIGHT, Box, spread, text_width
from flyte_notebook.views.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flyte_notebook.views.charts.paper import Axes, Figure

    Marks = defaultdict[PointEnd, list[tuple[float, float]]]

HEIGHT: Final = 214.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 112.0, 38.0, 38.0

SLOW, OTHER = "#9a6700", "#7b3fa0"
LOOKS: Final[dict[PointEnd, tuple[str, str, float, bool]]] = {
    "passed": ("o", LATEST, 6.0, True),
    "OOM": ("x", BAD, 7.0, False),
    "timeout": ("^", SLOW, 7.0, False),
    "error": ("D", OTHER, 5.5, False),
}
"""Shape, colour and size of the mark of each ending, and whether it is filled."""

MOST_SERIES: Final = 8
"""How many values have a labelled line over the limits; if there are more, only this many are drawn."""

MOST_MARKS: Final = 800
"""With more runs only every second or third one (and so on) has a mark: a picture is stored in the notebook's file."""

FAR: Final = 3.0
"""A limit above all peaks by more than this factor is not drawn over the input, so that the peaks have room."""

WIDE: Final = 30.0
"""If the largest value is this many times the smallest, the values are on a logarithmic axis."""

_LETTERS: Final = 12
_DIGITS: Final = 6


class Spot(NamedTuple):
    """One axis: positions of values, as parts of it, and its ticks with their labels."""

    start: float
    end: float
    powers: bool
    ticks: tuple[tuple[float, str], ...]

    def part(self, value: float) -> float:
        """Return the position of a value."""
        if self.powers:
            return math.log(value / self.start) / math.log(self.end / self.start)
        return (value - self.start) / (self.end - self.start)


def sweep_figure(sweep: Sweep, *, title: str = "") -> Figure:
    """Return the picture of a sweep: memory over the input where one was swept, else run time over limit."""
    with our_looks(title, *_texts(sweep)):
        return _over_input(sweep, title) if sweep.input_name is not None else _over_limit(sweep, title)


def sweep_data_uris(sweep: Sweep) -> list[tuple[str, str]]:
    """Return the pictures of a sweep as addresses for an ``img`` element, each with its words."""
    drawn = []
    with our_looks(*_texts(sweep)):
        if sweep.input_name is not None and any(point.counted_bytes for point in sweep.points):
            words = chart_words(sweep)
            drawn.append((data_uri(svg_of(_over_input(sweep, ""), words)), words))
        if len({point.limit_bytes for point in sweep.points}) > 1:
            words = f"Run time over memory limit. {chart_words(sweep)}"
            drawn.append((data_uri(svg_of(_over_limit(sweep, ""), words)), words))
    return drawn


def chart_words(sweep: Sweep) -> str:
    """Describe the pictures as text."""
    ends = Counter(point.outcome for point in sweep.points)
    counted = ", ".join(f"{ends[end]} {end}" for end in LOOKS if ends[end])
    return f"Sweep of {sweep.task_name}: {counted}. {sweep.headline}. {' '.join(sweep.notes[:2])}".strip()


def _texts(sweep: Sweep) -> list[str]:
    return [sweep.input_name or "", *(value_words(value) for value in sweep.values[:MOST_SERIES])]


def _over_limit(sweep: Sweep, title: str) -> Figure:
    figure = figure_of(HEIGHT)
    points = [point for point in sweep.points if point.limit_bytes]
    if not points:
        return say_only(figure, "nothing was measured")
    axes = axes_in(figure, Box(LEFT, BOTTOM, WIDTH - RIGHT, HEIGHT - TOP))
    width, height = _size()
    limits = sorted(point.limit_bytes or 0 for point in points)
    places = _limit_places(sorted(set(limits)), powers=sweep.spacing == "log")
    time = time_scale(1.12 * max(0.001, *(point.duration_s for point in points)))
    _grounds(axes, places, time)
    ends: list[tuple[float, float, str]] = []
    marks: Marks = defaultdict(list)
    for need in _series(sweep):
        curve = [_at(places, time, point) for point in need.points if point.limit_bytes]
        passed = [_at(places, time, point) for point in need.points if point.outcome == "passed"]
        axes.plot(*_columns(passed), color=LATEST, linewidth=1.2, alpha=0.55, zorder=2, clip_on=False)
        if curve and sweep.input_name is not None:
            ends.append((*curve[-1], _series_name(sweep, need)))
        for point in need.points[:: -(-len(points) // MOST_MARKS)]:
            if point.limit_bytes:
                marks[point.outcome].append(_at(places, time, point))
    _put_marks(axes, marks)
    _series_words(axes, ends)
    _legend(axes, [point.outcome for point in points])
    drawn = len(_series(sweep))
    few = f" · {drawn} of {len(sweep.values)} values of {sweep.input_name}" if drawn < len(sweep.values) else ""
    put_text(axes, -LEFT + 8, height + 26, f"{title} · " * bool(title) + f"run time, {time.unit}{few}", color=SOFT)
    put_text(axes, width, -30, "memory limit", color=SOFT, ha="right")
    return figure


def _over_input(sweep: Sweep, title: str) -> Figure:
    figure = figure_of(HEIGHT)
    needs = [need for need in sweep.frontier if need.points]
    if not any(point.counted_bytes for need in needs for point in need.points):
        return say_only(figure, "no memory was measured")
    axes = axes_in(figure, Box(LEFT, BOTTOM, WIDTH - RIGHT, HEIGHT - TOP))
    width, height = _size()
    line = sweep.trend
    peaks = [need.peak_bytes for need in needs if need.peak_bytes is not None]
    said = [line.next_bytes] if line is not None and line.next_bytes is not None else []
    limits = sorted({point.limit_bytes for need in needs for point in need.points if point.limit_bytes})
    refused = max((point.limit_bytes or 0 for point in sweep.points if point.outcome == "OOM"), default=0)
    near = [limit for limit in limits if not peaks or limit <= max(FAR * max(peaks), refused)]
    memory = memory_scale(1.1 * max([*peaks, *said, *(near if len(sweep.limits) > 1 else ()), refused, 1]))
    places = _value_places(sweep, line)
    _grounds(axes, places, memory)
    at_limits: Marks = defaultdict(list)
    at_peaks: Marks = defaultdict(list)
    for need in needs:
        x = places.part(_number(sweep, need)) * width
        for point in need.points[:: -(-len(sweep.points) // MOST_MARKS)]:
            if point.limit_bytes in near and (len(sweep.limits) > 1 or point.outcome != "passed"):
                at_limits[point.outcome].append((x, min(memory.part(point.limit_bytes or 0), 1) * height))
        if need.peak_bytes is not None:
            at_peaks["passed"].append((x, memory.part(need.peak_bytes) * height))
    _put_marks(axes, at_limits, faint=True)
    _put_marks(axes, at_peaks)
    if line is not None:
        _line(axes, sweep, line, places, memory)
    _legend(axes, [point.outcome for need in needs for point in need.points], peaks=len(sweep.limits) > 1)
    left_out = "" if len(near) == len(limits) else f", limits up to {format_memory(near[-1]) if near else '-'}"
    what = "peak and limits" if len(sweep.limits) > 1 else "peak"
    put_text(axes, -LEFT + 8, height + 26, f"{title} · " * bool(title) + f"{what}, {memory.unit}{left_out}", color=SOFT)
    put_text(axes, width, -30, clean_line(str(sweep.input_name), 40), color=SOFT, ha="right")
    return figure


def _line(axes: Axes, sweep: Sweep, line: Trend, places: Spot, memory: Scale) -> None:
    """Draw the fitted line over the measured range, and dashed to the prediction."""
    width, height = _size()

    def at(value: float) -> tuple[float, float]:
        return places.part(value) * width, memory.part(line.at(value)) * height

    known = sorted(need.value for need in sweep.frontier if need.peak_bytes is not None)
    style: dict[str, Any] = {"color": TEXT, "linewidth": 1.1, "zorder": 2.5}
    axes.plot(*_columns([at(value) for value in _steps(known[0], known[-1], places)]), **style)
    if line.next_bytes is None:
        return
    axes.plot(
        *_columns([at(value) for value in _steps(known[-1], line.next_value, places)]), **style, linestyle=(0, (4, 3))
    )
    x, y = at(line.next_value)
    axes.plot([x], [y], marker="s", color=TEXT, markerfacecolor="white", markersize=6, zorder=5, clip_on=False)
    rows = ("predicted", format_memory(line.next_bytes))
    for number, row in enumerate(rows):
        middle = y + LINE_HEIGHT * SIZE * (0.5 - number)
        put_text(axes, x + 8, middle, row, weight="normal" if number else "bold")


def _steps(start: float, end: float, places: Spot) -> list[float]:
    count = 24 if places.powers else 1
    if places.powers and start > 0:
        return [start * (end / start) ** (step / count) for step in range(count + 1)]
    return [start + (end - start) * step / count for step in range(count + 1)]


def _grounds(axes: Axes, places: Spot, scale: Scale) -> None:
    """Draw both axes."""
    width, height = _size()
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    put_ticks(axes.yaxis, scale, height)
    axes.set_xticks([places.part(value) * width for value, _ in places.ticks], [words for _, words in places.ticks])
    axes.xaxis.set_tick_params(length=3, pad=3, color=SOFT, labelcolor=SOFT, labelsize=SIZE - 0.5)
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)


def _limit_places(limits: Sequence[int], *, powers: bool) -> Spot:
    """Return the axis of limits: each is a tick if there is room, written as in the range: ``1.5Gi``."""
    words = [format_memory(limit).replace(" ", "").removesuffix("B") for limit in limits]
    aside = (limits[-1] - limits[0]) * 0.04 or 1
    bare = Spot(limits[0] - aside, limits[-1] + aside, powers, ())
    if powers:
        bare = Spot(limits[0] / 1.06, limits[-1] * 1.06, powers, ())
    return bare._replace(ticks=tuple(_roomy(bare, list(zip(map(float, limits), words, strict=True)))))


def _value_places(sweep: Sweep, line: Trend | None) -> Spot:
    """Return the axis of values: numbers at their positions, all other values side by side."""
    names = [_tick_words(value) for value in sweep.values]
    if not sweep.numbers:
        places = [(float(place), name) for place, name in enumerate(names)]
        bare = Spot(-0.5, len(places) - 0.5, powers=False, ticks=())
        return bare._replace(ticks=tuple(_roomy(bare, places)))
    ticks = sorted((float(value), name) for value, name in zip(sweep.values, names, strict=True))
    if line is not None and line.next_bytes is not None and line.next_value > ticks[-1][0]:
        ticks.append((float(line.next_value), _tick_words(line.next_value)))
    low, high = ticks[0][0], ticks[-1][0]
    powers = low > 0 and high / low > WIDE
    aside = 0.05 * (high - low) or 1.0
    bare = Spot(low / 1.2, high * 1.2, powers, ()) if powers else Spot(low - aside, high + aside, powers, ())
    return bare._replace(ticks=tuple(_roomy(bare, ticks)))


def _tick_words(value: Any) -> str:  # noqa: ANN401 - any value of an input
    """Return the label below a value: a long number as ``1e+07``."""
    words = value_words(value)
    return f"{value:g}" if len(words) > _DIGITS and isinstance(value, int) else clean_line(words, _LETTERS)


def _roomy(places: Spot, ticks: list[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """Yield the ticks whose labels do not cover an earlier one; always the last one."""
    width, _ = _size()
    last_at, last_words = places.part(ticks[-1][0]) * width, ticks[-1][1]
    free = -math.inf
    for value, words in ticks:
        at, half = places.part(value) * width, text_width(words, SIZE) / 2 + 2
        is_last = value == ticks[-1][0]
        if at - half >= free and (is_last or at + half <= last_at - text_width(last_words, SIZE) / 2):
            yield value, words
            free = at + half
        elif is_last:
            yield value, words


def _series(sweep: Sweep) -> list[Need]:
    """Return the values that have a curve over the limits: the first, the last, and some between."""
    needs = [need for need in sweep.frontier if need.points]
    if len(needs) <= MOST_SERIES:
        return needs
    places = {round(step * (len(needs) - 1) / (MOST_SERIES - 1)) for step in range(MOST_SERIES)}
    return [needs[place] for place in sorted(places)]


def _series_name(sweep: Sweep, need: Need) -> str:
    """Return the label of a curve: ``x = 4``, or the value alone if that is too long."""
    value = clean_line(value_words(need.value), _LETTERS)
    named = f"{sweep.input_name} = {value}"
    return named if len(named) <= _LETTERS + 2 else value


def _series_words(axes: Axes, ends: list[tuple[float, float, str]]) -> None:
    """Write the value beside each curve."""
    width, height = _size()
    ends.sort(key=lambda end: end[1])
    heights = [LINE_HEIGHT * SIZE for _ in ends]
    for middle, (x, y, words) in zip(spread([end[1] for end in ends], heights, 0, height + SIZE), ends, strict=True):
        if abs(middle - y) > SIZE / 2 or x < width - 20:
            axes.plot([x + 5, width + 7], [y, middle], color=SOFT, linewidth=0.6, clip_on=False)
        put_text(axes, width + 9, middle, words)


def _legend(axes: Axes, outcomes: Sequence[PointEnd], *, peaks: bool = False) -> None:
    """Write above the picture the meaning of each used mark."""
    _, height = _size()
    x = -LEFT + 14
    if peaks:
        axes.plot([x], [height + 11], **_look("passed"))
        put_text(axes, x + 9, height + 11, "highest peak that passed")
        x += _legend_width("highest peak that passed")
    for end in LOOKS:
        if end not in outcomes:
            continue
        axes.plot([x], [height + 11], **_look(end, faint=peaks))
        words = f"{end} at this limit" if peaks and end == "passed" else end
        put_text(axes, x + 9, height + 11, words)
        x += _legend_width(words)


def _legend_width(words: str) -> float:
    """Return the distance to the next entry; capitals are wider than the average letter."""
    return text_width(words, SIZE) * (1.3 if words.isupper() else 0.92) + 22


def _put_marks(axes: Axes, marks: Marks, *, faint: bool = False) -> None:
    for outcome, places in marks.items():
        axes.plot(*_columns(places), **_look(outcome, faint=faint))


def _look(outcome: PointEnd, *, faint: bool = False) -> dict[str, Any]:
    marker, color, size, filled = LOOKS[outcome]
    return {
        "linestyle": "none",
        "marker": marker,
        "color": color,
        "markersize": size * (0.72 if faint else 1),
        "markeredgewidth": 2.0 if marker == "x" and not faint else 1.3,
        "markerfacecolor": color if filled and not faint else "white",
        "zorder": 3 if faint else 4,
        "clip_on": False,
    }


def _at(places: Spot, time: Scale, point: Point) -> tuple[float, float]:
    width, height = _size()
    return places.part(point.limit_bytes or 0) * width, time.part(point.duration_s) * height


def _number(sweep: Sweep, need: Need) -> float:
    """Return the position of a value: the number itself, or its index."""
    if sweep.numbers:
        return float(need.value)
    return float(next(place for place, value in enumerate(sweep.values) if value is need.value))


def _size() -> tuple[float, float]:
    return WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
