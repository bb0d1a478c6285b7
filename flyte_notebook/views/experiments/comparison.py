"""Compares runs: their memory over time in one chart, and a table of durations and outcomes.

One row for each run, action, attempt or failure, with distinct names. For a run, the last attempt of its action with
the highest peak is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.history import Action, Attempt, Run
from flyte_notebook.views.charts import chart
from flyte_notebook.views.charts.overlay import Overlay
from flyte_notebook.views.history.run_list import end_words
from flyte_notebook.views.lines import MAX_LINES, lines_of
from flyte_notebook.views.markup import columns, line, section, table
from flyte_notebook.views.style import style_of
from flyte_notebook.views.text import clean_line, title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.views.lines import Line

LABEL: Final = 48
_WAYS: Final = ("succeeded", "from the cache", "not finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a comparison.

    ``label`` is unique among the rows, and ``what`` is the task, with its attempt if there were several. ``duration_s``
    is from the start of its worker to its end, for a run from its first attempt's start to its last one's end, without
    waits. ``peak_bytes`` and ``limit_bytes`` are those of ``line``, the curve; all ``None`` where nothing was measured.
    ``outcome`` is in a few words, ``failed`` whether it is a failure.
    """

    label: str
    what: str
    outcome: str
    failed: bool
    duration_s: float | None = None
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    line: Line | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thing:
    """One given object: its possible labels, from the shortest to the most detailed."""

    names: tuple[str, str, str]
    what: str
    outcome: str
    failed: bool
    attempt: Attempt | None
    duration_s: float | None


def rows_of(things: Iterable[object], named: dict[str, object]) -> tuple[Row, ...]:
    """Return a row for each thing, in order; those in ``named`` have their own labels.

    A collection is replaced by its members. Raises TypeError for other objects, and ValueError if there are none.
    """
    found = [_thing(one) for one in _flat(things)]
    labels = _labels([thing.names for thing in found])
    for name, value in named.items():
        of_name = [_thing(one) for one in _flat([value])]
        found += of_name
        labels += [name if len(of_name) == 1 else f"{name} {number}" for number in range(1, len(of_name) + 1)]
    if not found:
        raise ValueError("there is nothing to compare: give runs, as in fn.compare(fn.runs[-2], fn.runs[-1])")
    return tuple(_row(thing, label) for thing, label in zip(found, labels, strict=True))


def _flat(things: Iterable[object]) -> list[object]:
    flat: list[object] = []
    for thing in things:
        if isinstance(thing, (str, bytes)) or not isinstance(thing, Iterable):
            flat.append(thing)
        else:
            flat += _flat(thing)
    return flat


def _thing(thing: object) -> _Thing:
    if isinstance(thing, Run):
        return _of_run(thing)
    if isinstance(thing, Action):
        attempt = thing.attempts[-1] if thing.attempts else None
        worker = thing.name if attempt is None else attempt.worker
        return _of_attempt(attempt, thing.task_name, worker, len(thing.attempts))
    if isinstance(thing, Attempt):
        name = thing.outcome.task_name if isinstance(thing.outcome, Failure) else thing.worker
        return _of_attempt(thing, name, thing.worker, thing.number)
    if isinstance(thing, Failure):
        attempt = Attempt(
            number=thing.attempt + 1,
            worker=thing.worker,
            limits=thing.limits,
            outcome=thing,
            trace=thing.report.trace,
            duration_s=thing.report.duration_s,
        )
        return _of_attempt(attempt, thing.task_name, thing.worker, thing.attempt + 1)
    raise TypeError(
        f"compare() takes runs, actions, attempts and failures, and no {type(thing).__name__}; fn.runs has the runs of "
        "this kernel, fn.load() those that were saved"
    )


def _of_attempt(attempt: Attempt | None, task_name: str, worker: str, of: int) -> _Thing:
    failure = None if attempt is None else attempt.outcome
    failed = isinstance(failure, Failure)
    number = f", attempt {attempt.number}" if attempt is not None and of > 1 else ""
    ended = "not finished" if attempt is None else "succeeded"
    return _Thing(
        names=(task_name, f"{task_name}{number}", worker),
        what=f"{clean_line(task_name, 40)}{number}",
        outcome=title(failure) if isinstance(failure, Failure) else ended,
        failed=failed,
        attempt=attempt,
        duration_s=None if attempt is None else attempt.duration_s,
    )


def _of_run(run: Run) -> _Thing:
    action = max((one for one in run.actions if one.attempts), key=_peak, default=None)
    attempt = None if action is None else action.attempts[-1]
    what, end = clean_line(run.task_name, 40), end_words(run)
    if action is not None and action is not run.actions[0]:
        what = f"{clean_line(action.task_name, 40)} in {what}"
    if attempt is not None and attempt.number > 1:
        what = f"{what}, attempt {attempt.number}"
    failed = end not in _WAYS
    inner = None if attempt is None else attempt.outcome
    if isinstance(inner, Failure) and not failed:
        end = f"{end}, caught {title(inner)}"
    root = run.actions[0].attempts if run.actions else []
    saved = f", saved {run.saved_words}" if run.saved_words else ""
    return _Thing(
        names=(run.task_name, f"{run.task_name}{saved}" if saved else run.name, f"{run.name}{saved}"),
        what=what,
        outcome=end,
        failed=failed,
        attempt=attempt,
        duration_s=sum(one.duration_s for one in root) if root else None,
    )


def _peak(action: Action) -> int:
    return max(attempt.trace.peak_bytes or 0 for attempt in action.attempts)


def _labels(names: list[tuple[str, str, str]]) -> list[str]:
    """Return the shortest labels of one kind that are distinct, else the longest, numbered where they repeat."""
    labels: list[str] = []
    for labels in map(list, zip(*names, strict=True)):
        if len(set(labels)) == len(labels):
            return labels
    seen, many = Counter[str](), Counter(labels)
    for place, label in enumerate(labels):
        seen[label] += 1
        labels[place] = f"{label} ({seen[label]})" if many[label] > 1 else label
    return labels


def _row(thing: _Thing, label: str) -> Row:
    row = Row(
        label=clean_line(label, LABEL),
        what=thing.what,
        outcome=thing.outcome,
        failed=thing.failed,
        duration_s=thing.duration_s,
    )
    if thing.attempt is None:
        return row
    (line,) = lines_of([(row.label, thing.attempt)])
    return replace(row, line=line, peak_bytes=line.peak_bytes, limit_bytes=line.trace.limit_bytes)


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
