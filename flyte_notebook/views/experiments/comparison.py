"""Compares runs: their memory over time in one chart, and a table of durations and outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.views.charts import chart
from flyte_notebook.views.charts.overlay import Overlay
from flyte_notebook.views.experiments.compared import Row, rows_of
from flyte_notebook.views.lines import MAX_LINES
from flyte_notebook.views.markup import columns, line, section, table
from flyte_notebook.views.style import style_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flyte_notebook.views.lines import Line

MAX_ROWS: Final = 60
CHART_BYTES: Final = 160 * 1024
HEAD: Final = ("task", "took", "peak", "limit", "outcome")

_CLASS: Final = "flyte-notebook-comparison"
_STYLE: Final = style_of(_CLASS) + (
    f".{_CLASS}{{--fnb-bad:var(--fnb-used)}}\n.{_CLASS} .fnb-body td:nth-child(n+3){{white-space:nowrap}}\n"
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Runs beside each other; it shows itself, as text in a terminal and with a chart in a notebook.

    ``rows`` has one row for each compared object, in the given order. The chart shows the last six.
    """

    rows: tuple[Row, ...] = field(default=())

    def figure(self) -> Any:  # noqa: ANN401 - a matplotlib Figure; its library has one home
        """Return a ``matplotlib.figure.Figure``: memory over time of each, with the limits."""
        return chart.memory_figure(self._lines(), canvas=Overlay)

    def _lines(self) -> list[Line]:
        return [row.line for row in self.rows if row.line is not None]

    def __str__(self) -> str:
        return comparison_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return comparison_html(self)


def compared(things: Iterable[object], named: dict[str, object]) -> Comparison:
    """Return a comparison of runs, actions, attempts and failures; those in ``named`` under these names.

    Raises TypeError for anything else, and ValueError if nothing is given.
    """
    return Comparison(rows=rows_of(things, named))


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as a table of text."""
    rows = comparison.rows
    return "\n".join([*columns([("", *HEAD), *map(_cells, rows[-MAX_ROWS:])]), *_more(rows)]) + "\n"


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as one ``section`` element without scripts, safe for any input."""
    rows = comparison.rows
    shown = [_cells(row) for row in rows[-MAX_ROWS:]]
    more = [f'<p class="fnb-soft">{words}</p>' for words in _more(rows)]
    lines = comparison._lines()  # noqa: SLF001 - of this module's own class
    picture = chart.picture(lines, "a comparison", canvas=Overlay, most_bytes=CHART_BYTES)
    body = "\n".join([picture, table(("", *HEAD), shown, f"{len(rows)} compared"), *more])
    label = line(", ".join(row.label for row in rows[-MAX_LINES:]))
    return section(_CLASS, f"Comparison of {label}", _STYLE, body)


def row_cells(row: Row) -> tuple[str, ...]:
    """Return the cells below `HEAD`."""
    sampled = row.line is not None and row.line.trace.peak_source == "samples"
    peak = "-" if row.peak_bytes is None else f"{'at least ' if sampled else ''}{format_memory(row.peak_bytes)}"
    limit = "-" if row.line is None else "none" if row.limit_bytes is None else format_memory(row.limit_bytes)
    mark = "✗" if row.failed else "✓" if row.outcome.startswith("succeeded") else "·"
    took = "-" if row.duration_s is None else format_duration(row.duration_s)
    return row.what, took, peak, limit, f"{mark} {row.outcome}"


def _cells(row: Row) -> tuple[str, ...]:
    return row.label, *row_cells(row)


def _more(rows: Sequence[Row]) -> list[str]:
    said = []
    if len(rows) > MAX_ROWS:
        said.append(f"{len(rows) - MAX_ROWS:,} more are not shown")
    drawn = sum(row.line is not None for row in rows)
    if drawn > MAX_LINES:
        said.append(f"the chart shows the last {MAX_LINES} of {drawn:,}")
    return said
