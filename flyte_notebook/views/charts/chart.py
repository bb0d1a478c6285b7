"""Draws memory over time: the attempts of one action in one chart, or the actions of a run side by side."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.core.units import format_memory
from flyte_notebook.views import markup
from flyte_notebook.views.charts.paper import (
    BAD,
    GRID,
    LATEST,
    NARROW,
    SIZE,
    SOFT,
    TEXT,
    WIDTH,
    Scale,
    data_uri,
    memory_scale,
    time_scale,
)
from flyte_notebook.views.charts.paper import axes_in as _axes
from flyte_notebook.views.charts.paper import figure_of as _figure
from flyte_notebook.views.charts.paper import our_looks as _our_looks
from flyte_notebook.views.charts.paper import put_text as _text
from flyte_notebook.views.charts.paper import put_ticks as _ticks
from flyte_notebook.views.charts.paper import say_only as _say
from flyte_notebook.views.charts.paper import svg_of as _svg
from flyte_notebook.views.charts.placing import LINE_HEIGHT, Box, Placer, Point, spread, text_width
from flyte_notebook.views.lines import MAX_LINES, Bar, Line, bars_of, chart_words, lines_of, thinned, together
from flyte_notebook.views.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.history import Run
    from flyte_notebook.views.charts.paper import Axes, Figure

__all__ = [
    "Canvas",
    "Line",
    "chart_words",
    "lines_of",
    "memory_data_uri",
    "memory_figure",
    "memory_svg",
    "picture",
    "run_figure",
    "warm",
]

logger = logging.getLogger("flyte_notebook.views")

BYTES: Final = 120 * 1024
"""What an address of a picture may have in a view; a notebook keeps it with each output."""

HEIGHT: Final = 184.0
LEFT, RIGHT, TOP, BOTTOM = 36.0, 118.0, 22.0, 36.0
POINTS: Final = 500
EARLIER_POINTS: Final = 160

EARLIER, BASE = "#64748b", "#d9e6f6"
DASHES: Final = ((4.0, 2.0), (1.5, 1.5), (7.0, 2.0, 1.5, 2.0), (2.5, 4.0), (9.0, 3.0))

HEADROOM: Final = 1.32
"""Space above the curves for labels, in parts of their height."""

MAX_BARS: Final = 25

FAR: Final = 4.0
"""A limit above the highest measurement by more than this factor is only written at the top edge, to save room."""

BAR, NAMES, SAID, BARS_WIDTH = 21.0, 170.0, 265.0, 640.0


def memory_figure(lines: Sequence[Line], *, title: str = "", canvas: type[Canvas] | None = None) -> Figure:
    """Return memory over time of the last `MAX_LINES` lines: as `Canvas` draws them, the last one strong."""
    with _our_looks(title, *(line.label for line in lines)):
        return _memory(lines, title, canvas=canvas)


def memory_svg(
    lines: Sequence[Line], *, title: str = "", canvas: type[Canvas] | None = None, width: float = WIDTH
) -> bytes:
    """Return the same, of a width in points, as an SVG document of a few tens of KiB, its text as text."""
    with _our_looks(title, *(line.label for line in lines)):
        return _svg(_memory(lines, title, canvas=canvas, width=width), chart_words(lines))


def memory_data_uri(
    lines: Sequence[Line], *, title: str = "", canvas: type[Canvas] | None = None, width: float = WIDTH
) -> str:
    """Return the same as a data address for an ``img`` element, which needs no server."""
    return data_uri(memory_svg(lines, title=title, canvas=canvas, width=width))


def picture(lines: Sequence[Line], what: str, *, canvas: type[Canvas] | None = None, most_bytes: int = BYTES) -> str:
    """Return the same as ``img`` elements, their alternative text the words of the chart.

    There are two, one of `WIDTH` and one of `NARROW`, if both together are not more than ``most_bytes``: the page shows
    the one that can be read at its width. Empty where nothing was sampled, for a picture of more than that, and where
    matplotlib cannot draw: the words of a view stand without it. ``what`` says in the log whose chart that was.
    """
    if not any(len(one.trace.times_s) > 1 for one in lines):
        return ""
    try:
        sources = {
            name: memory_data_uri(lines, canvas=canvas, width=width)
            for name, width in (("fnb-wide", WIDTH), ("fnb-narrow", NARROW))
        }
    except ImportError:
        return ""  # the doctor says that the library does not load
    except Exception:
        logger.exception("could not draw the chart of %s", what)
        return ""
    hidden = {"fnb-narrow": " hidden"}  # where a page drops our styles, as for notebooks it does not trust
    alternative = markup.line(chart_words(lines), 600)
    if sum(map(len, sources.values())) > most_bytes:
        sources = {"": sources["fnb-wide"]}
    return "".join(
        f'<img class="fnb-chart {name}" src="{source}" alt="{alternative}"{hidden.get(name, "")}>'
        for name, source in sources.items()
        if len(source) <= most_bytes
    )


def run_figure(run: Run) -> Figure:
    """Return the picture of a run: the attempts of its one action over time, or the peaks of its many actions.

    Of many actions the `MAX_BARS` with the highest peaks are shown, with the number of the others.
    """
    title = clean_line(run.task_name, 40)
    if len(run.actions) > 1:
        rows = bars_of(run)
        with _our_looks(title, *(row.name for row in rows)):
            return _bars(rows, title)
    attempts = run.actions[0].attempts if run.actions else []
    lines = lines_of((f"attempt {attempt.number}", attempt) for attempt in attempts)
    with _our_looks(title):
        return _memory(lines, title, "from the cache, nothing ran" if run.cached else "no memory was measured")


def warm() -> None:
    """Load the plotting library and draw a tiny picture, so that the first card need not wait for this.

    The library keeps two font files open for each thread that ever drew, of at most 32 threads.
    """
    trace = MemoryTrace(times_s=(0.0, 1.0), memory_bytes=(0, 1), limit_bytes=2)
    memory_svg([Line(label="", trace=trace, killed=True, passed=False)])


def _memory(
    lines: Sequence[Line],
    title: str,
    nothing: str = "no memory was measured",
    canvas: type[Canvas] | None = None,
    width: float = WIDTH,
) -> Figure:
    drawn = [line for line in lines[-MAX_LINES:] if line.peak_bytes is not None]
    kind, title = canvas or Canvas, clean_line(title, 40)
    below = kind.BELOW * len(drawn)
    figure = _figure(HEIGHT + below, width)
    if not drawn:
        return _say(figure, f"{title}: {nothing}" if title else nothing)
    axes = _axes(figure, Box(LEFT, BOTTOM + below, width - RIGHT, HEIGHT - TOP + below))
    limits = list(dict.fromkeys(line.trace.limit_bytes for line in reversed(drawn) if line.trace.limit_bytes))
    highest = max(line.peak_bytes or 0 for line in drawn)
    near = [limit for limit in limits if limit <= FAR * highest]
    memory = memory_scale(max(HEADROOM * highest, 1.1 * max(near, default=0)))
    time = time_scale(1.03 * max(line.end_s for line in drawn))
    picture = kind(axes=axes, time=time, memory=memory, width=width)
    picture.ticks()
    baseline = next((line.trace.baseline_bytes for line in reversed(drawn) if line.trace.baseline_bytes), None)
    picture.levels(limits, near, baseline)
    picture.curves(drawn, near)
    _text(axes, 0, picture.height + 8, f"{title} · {memory.unit}" if title else f"memory, {memory.unit}", color=SOFT)
    about = [f"{time.unit} since the worker started"] if time.ticks else []
    if len(lines) > len(drawn):
        about.append(f"the last {len(drawn)} of {len(lines)} attempts")
    _text(axes, 0, -28, " · ".join(about), color=SOFT)
    return figure


class Canvas:
    """The area in which curves are drawn, in points from its lower left corner; ``BELOW`` it is room for each line."""

    BELOW = 0.0

    def __init__(self, *, axes: Axes, time: Scale, memory: Scale, width: float = WIDTH) -> None:
        self.axes = axes
        self.time = time
        self.memory = memory
        self.width = width - LEFT - RIGHT
        self.whole = width
        self.height = HEIGHT - TOP - BOTTOM

    def x(self, time_s: float) -> float:
        """Return the position of a time."""
        return self.time.part(time_s) * self.width

    def y(self, memory_bytes: float) -> float:
        """Return the position of an amount of memory."""
        return self.memory.part(memory_bytes) * self.height

    def ticks(self) -> None:
        """Draw both axes with their numbers."""
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(0, self.height)
        _ticks(self.axes.xaxis, self.time, self.width)
        _ticks(self.axes.yaxis, self.memory, self.height)
        self.axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)

    def levels(self, limits: Sequence[int], near: Sequence[int], baseline: int | None) -> None:
        """Draw horizontal lines for limits and the baseline, each with its label at the right."""
        words: list[tuple[float, str, str]] = []
        for limit in limits:
            latest = limit == limits[0]
            if limit not in near:
                words.append((self.height + SIZE, f"↑ limit {format_memory(limit)}", TEXT if latest else SOFT))
                continue
            style = "solid" if latest else (0, (6, 3))
            self._line([(0, self.y(limit)), (self.width, self.y(limit))], TEXT if latest else SOFT, 1.3, style)
            words.append((self.y(limit), f"limit {format_memory(limit)}", TEXT if latest else SOFT))
        if baseline is not None:
            self.axes.axhspan(0, self.y(baseline), facecolor=BASE, edgecolor="none", zorder=0.5)
            words.append((self.y(baseline) / 2, f"interpreter and\nimports {format_memory(baseline)}", SOFT))
        heights = [LINE_HEIGHT * SIZE * (1 + text.count("\n")) for _, text, _ in words]
        middles = spread([wanted for wanted, _, _ in words], heights, -SIZE / 2, self.height + SIZE * 1.3)
        for middle, (wanted, text, color) in zip(middles, words, strict=True):
            if abs(middle - wanted) > SIZE / 2 and wanted <= self.height:
                self._line([(self.width, wanted), (self.width + 7, middle)], SOFT, 0.7)
            _text(self.axes, self.width + 9, middle, text, color=color)

    def curves(self, drawn: Sequence[Line], near: Sequence[int]) -> None:
        """Draw the lines, the last one strong and above the others, then their words where there is room."""
        placer = Placer(room=Box(2, 2, self.width, self.height))
        for limit in near:
            placer.avoid([(0, self.y(limit)), (self.width, self.y(limit))])
        ends: list[tuple[Line, Point]] = []
        for age, line in zip(range(len(drawn) - 1, -1, -1), drawn, strict=True):
            placer.avoid(self._curve(line, age))
            ends.append((line, self._end(line, age)))
        placer.taken += [Box(x - 5, y - 5, x + 5, y + 5) for _, (x, y) in ends]
        line, end = ends.pop()
        least = "at least " if line.trace.peak_source == "samples" else ""
        self._words([line.words, f"peak {least}{format_memory(line.peak_bytes or 0)}"], end, placer, 0)
        for words, end in reversed(together(ends, reach=3 * SIZE)):
            self._words([words], end, placer, 1)

    def _curve(self, line: Line, age: int) -> list[Point]:
        """Draw the samples of a line, and return some of its points."""
        times, memory = thinned(line.trace, EARLIER_POINTS if age else POINTS)
        curve = [(self.x(time), self.y(amount)) for time, amount in zip(times, memory, strict=True)]
        color, width = self._look(age)
        style = "solid" if not age else (0, DASHES[(age - 1) % len(DASHES)])
        self._line(curve, color, width, style, zorder=4 - age / 10)
        top = self.y(line.peak_bytes or 0)
        if line.highest_bytes is None:  # no sample: only the peak is known
            self._line([(0, top), (self.width, top)], color, 1.3, (0, (1, 2)))
        elif top - self.y(line.highest_bytes) > 1:
            at = curve[-1] if line.reached_limit else max(curve, key=lambda point: point[1])
            self._line([at, (at[0], top)], color, 1.3, (0, (1, 1)))
            if not line.reached_limit:
                self._mark((at[0], top), "_", color, 9)
            curve += [at, (at[0], top)]
        return curve

    def _end(self, line: Line, age: int) -> Point:
        """Draw the end of a line as a sign with a distinct shape, and return its position."""
        memory, peak = line.trace.memory_bytes, line.peak_bytes or 0
        x = self.x(line.end_s) if memory else self.width / 2
        y = self.y(peak if line.reached_limit or not memory else memory[-1])
        if line.killed:
            self._mark((x, y), "x", BAD, 9 if not age else 7)
        else:
            sign, color = "o" if line.passed else "s", self._look(age)[0]
            self._mark((x, y), sign, color, 6 if not age else 5, hollow=not line.passed)
        return x, y

    def _words(self, rows: list[str], end: Point, placer: Placer, age: int) -> None:
        width, height = max(text_width(row, SIZE) for row in rows), LINE_HEIGHT * SIZE
        box = placer.place(end, width, height * len(rows), gap=8)
        x, side = (box.left, "left") if box.left >= end[0] - 1 else (box.right, "right")
        near = (min(max(end[0], box.left), box.right), min(max(end[1], box.bottom), box.top))
        if math.dist(near, end) > height:
            self._line([near, end], SOFT, 0.6)
        for number, row in enumerate(rows):
            middle = box.top - height * (number + 0.5)
            weight = "normal" if age or number else "bold"
            _text(self.axes, x, middle, row, color=self._look(age)[0], ha=side, weight=weight)

    def _look(self, age: int) -> tuple[str, float]:
        """Return the colour and the width of a line; the last one has age 0."""
        return (EARLIER, 1.3) if age else (LATEST, 2.2)

    def _say(self, x: float, y: float, text: str, **how: Any) -> None:  # noqa: ANN401 - matplotlib's own settings
        _text(self.axes, x, y, text, **how)

    def _line(
        self,
        points: Sequence[Point],
        color: str,
        width: float,
        style: Any = "solid",  # noqa: ANN401 - matplotlib's own description of dashes
        zorder: float = 2.0,
    ) -> None:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.axes.plot(xs, ys, color=color, linewidth=width, linestyle=style, zorder=zorder, clip_on=False)

    def _mark(self, at: Point, marker: str, color: str, size: float, *, hollow: bool = False) -> None:
        self.axes.plot(
            *([at[0]], [at[1]]),
            color=color,
            marker=marker,
            markersize=size,
            markeredgewidth=2.2 if marker == "x" else 1.5,
            markerfacecolor="white" if hollow else color,
            zorder=5,
            clip_on=False,
        )


def _bars(rows: Sequence[Bar], title: str) -> Figure:
    shown, more = rows[:MAX_BARS], len(rows) - MAX_BARS
    height = TOP + BOTTOM + BAR * max(len(shown), 1)
    figure = _figure(height, BARS_WIDTH)
    if not shown:
        return _say(figure, "no memory was measured")
    axes = _axes(figure, Box(NAMES, BOTTOM, BARS_WIDTH - SAID, height - TOP))
    width, highest = BARS_WIDTH - NAMES - SAID, max(shown[0].peak_bytes, 1)
    near = [row.limit_bytes for row in shown if row.limit_bytes and row.limit_bytes <= FAR * highest]
    scale = memory_scale(1.05 * max([highest, *near]))
    axes.set_xlim(0, width)
    axes.set_ylim(-BAR * (len(shown) - 0.5), BAR / 2)
    axes.set_yticks([])
    _ticks(axes.xaxis, scale, width)
    for number, row in enumerate(shown):
        y, end = -BAR * number, scale.part(row.peak_bytes) * width
        axes.barh(y, end, height=BAR * 0.6, color=BAD if row.error else LATEST)
        _text(axes, -6, y, row.name, ha="right")
        if row.error:
            axes.plot([end + 7], [y], marker="x", color=BAD, markersize=7, markeredgewidth=2, clip_on=False)
        if row.limit_bytes in near:
            at = scale.part(row.limit_bytes or 0) * width
            axes.plot([at, at], [y - BAR * 0.42, y + BAR * 0.42], color=TEXT, linewidth=1.8)
        limit = "no limit" if row.limit_bytes is None else f"of {format_memory(row.limit_bytes)}"
        words = ", ".join(filter(None, [f"{format_memory(row.peak_bytes)} {limit}", row.error or row.note]))
        _text(axes, width + 16, y, words, color=BAD if row.error else TEXT)
    rest = f" · the {MAX_BARS} highest, {more:,} more" if more > 0 else ""
    _text(axes, 12 - NAMES, BAR / 2 + 9, f"{title} · peak of each action, | its limit{rest}", color=SOFT)
    _text(axes, width, -BAR * (len(shown) - 0.5) - 28, scale.unit, color=SOFT, ha="right")
    return figure
