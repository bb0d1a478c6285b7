"""Shows the result of a sweep as text and HTML: passing limits, run time over limit, memory over an input."""

from __future__ import annotations

import logging
from dataclasses import fields
from html import escape
from typing import Any, Final

from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.experiments.sweeping import Point, PointEnd, Sweep, value_words
from flyte_notebook.views.charts import sweep_chart
from flyte_notebook.views.markup import columns, line, section, table, with_code
from flyte_notebook.views.style import style_of
from flyte_notebook.views.text import clean_line

logger = logging.getLogger("flyte_notebook.views")

MAX_ROWS: Final = 60
MAX_COLUMNS: Final = 12
CHART_BYTES: Final = 160 * 1024

_CLASS: Final = "flyte-notebook-sweep"
_STYLE: Final = style_of(_CLASS) + (
    f".{_CLASS}{{--fnb-bad:var(--fnb-used)}}\n.{_CLASS} .fnb-body td,.{_CLASS} .fnb-body th{{white-space:nowrap}}\n"
)
_MARKS: Final[dict[PointEnd, str]] = {"passed": "✓", "OOM": "✗", "timeout": "▲", "error": "◆"}


class ShownSweep(Sweep):
    """A sweep that shows itself: in a terminal as text, in a notebook as HTML."""

    def __str__(self) -> str:
        return sweep_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return sweep_html(self)

    def figure(self) -> Any:  # noqa: ANN401 - a matplotlib Figure; its library has one home
        """Return a ``matplotlib.figure.Figure``: run time over limit, or memory over the input where one was swept."""
        return sweep_chart.sweep_figure(self, title=clean_line(self.task_name, 40))


def shown(sweep: Sweep) -> ShownSweep:
    """Return the same sweep as one that shows itself."""
    return ShownSweep(**{field.name: getattr(sweep, field.name) for field in fields(sweep)})


def sweep_bundle(sweep: Sweep, *, rich: bool = True) -> dict[str, Any]:
    """Return the MIME bundle of a sweep: ``text/html`` and ``text/plain``, the second alone unless ``rich``."""
    words = {"text/plain": sweep_text(sweep)}
    return {"text/html": sweep_html(sweep), **words} if rich else words


def sweep_text(sweep: Sweep) -> str:
    """Return a sweep as text of a screen or two."""
    parts = [f"sweep of {clean_line(sweep.task_name, 80)}: {clean_line(sweep.headline)}", ""]
    parts += columns(_grid(sweep) if _is_grid(sweep) else _rows(sweep))
    parts += [f"  {more}" for more in _more(sweep)]
    notes = [f"  {clean_line(note)}" for note in (*sweep.notes, _ran(sweep))]
    return "\n".join([*parts, *([""] if notes else []), *notes]) + "\n"


def sweep_html(sweep: Sweep) -> str:
    """Return a sweep as one ``section`` element without scripts, safe for any input."""
    name = line(sweep.task_name, 80)
    rows = _grid(sweep) if _is_grid(sweep) else _rows(sweep)
    parts = [
        f'<h3>Sweep of <bdi>{name}</bdi></h3><p dir="auto">{with_code(sweep.headline)}</p>',
        *_charts(sweep),
        table(rows[0], rows[1:], "Run time by limit" if _is_grid(sweep) else "The runs") if sweep.points else "",
        *(f'<p class="fnb-soft">{escape(more)}</p>' for more in _more(sweep)),
        *(f'<p class="fnb-soft">{with_code(note)}</p>' for note in (*sweep.notes, _ran(sweep))),
    ]
    body = "\n".join(part for part in parts if part)
    attributes = f' data-points="{len(sweep.points)}" data-planned="{sweep.planned}"'
    return section(_CLASS, f"Sweep of {name}", _STYLE, body, attributes)


def _is_grid(sweep: Sweep) -> bool:
    """Whether its points are shown as a table of values and limits."""
    return sweep.input_name is not None and 1 < len(sweep.limits) <= MAX_COLUMNS


def _rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """Return one row for each point, the titles first."""
    over = sweep.input_name is not None
    rows: list[tuple[str, ...]] = [(*((str(sweep.input_name),) if over else ()), "limit", "", "took", "peak", "")]
    for point in sweep.points[:MAX_ROWS]:
        said = (clean_line(value_words(point.value), 40),) if over else ()
        rows.append(
            (
                *said,
                _limit(point),
                f"{_MARKS[point.outcome]} {point.outcome}",
                _took(point),
                _peak(point),
                _why(sweep, point),
            )
        )
    return rows


def _grid(sweep: Sweep) -> list[tuple[str, ...]]:
    """Return one row for each value, with one column for each limit, and the needed memory; the titles first."""
    rows = [(str(sweep.input_name), *map(format_memory, sweep.limits), "peak")]
    for need in sweep.frontier[:MAX_ROWS]:
        by_limit = {point.limit_bytes: point for point in need.points}
        cells = [_cell(by_limit.get(limit_bytes)) for limit_bytes in sweep.limits]
        peak = "-" if need.peak_bytes is None else format_memory(need.peak_bytes)
        rows.append((clean_line(value_words(need.value), 40), *cells, peak))
    return rows


def _cell(point: Point | None) -> str:
    if point is None:
        return "-"
    said = format_duration(point.duration_s) if point.outcome == "passed" else point.outcome
    return f"{_MARKS[point.outcome]} {said}"


def _limit(point: Point) -> str:
    return "no limit" if point.limit_bytes is None else format_memory(point.limit_bytes)


def _took(point: Point) -> str:
    return format_duration(point.duration_s)


def _peak(point: Point) -> str:
    if point.peak_bytes is None:
        return "-"
    counted = point.counted_bytes if point.outcome == "passed" else point.peak_bytes
    return format_memory(point.peak_bytes if counted is None else counted)


def _why(sweep: Sweep, point: Point) -> str:
    """Return the failure of a point, if its mark does not show it."""
    return clean_line(point.words, 90) if point.outcome in {"error", "timeout"} and len(sweep.points) > 1 else ""


def _more(sweep: Sweep) -> list[str]:
    rows = len(sweep.values) if _is_grid(sweep) else len(sweep.points)
    what = "values" if _is_grid(sweep) else "runs"
    return [f"… and {rows - MAX_ROWS:,} more {what}; to_dict() has all"] if rows > MAX_ROWS else []


def _ran(sweep: Sweep) -> str:
    """Return how the runs were made, as this affects their times."""
    beside = "one after the other" if sweep.side_by_side == 1 else f"up to {sweep.side_by_side} side by side"
    return f"Runs went {beside}, each once; times are from the start of a worker to its end."


def _charts(sweep: Sweep) -> list[str]:
    try:
        drawn = sweep_chart.sweep_data_uris(sweep)
    except Exception:  # if the plotting library fails, the text is still shown
        logger.exception("could not draw the chart of a sweep")
        return []
    return [
        f'<img class="fnb-chart" src="{source}" alt="{line(words, 900)}">'
        for source, words in drawn
        if len(source) <= CHART_BYTES
    ]
