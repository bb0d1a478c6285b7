"""Shows the result of a fit as text and HTML: the runs, the limit, the line to keep and limits of other methods."""

from __future__ import annotations

from dataclasses import fields, replace
from html import escape
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.units import format_duration, format_memory, quantity_memory
from flyte_notebook.experiments.fitting import MARGIN, Fit, Measure
from flyte_notebook.views.charts import chart
from flyte_notebook.views.lines import Line
from flyte_notebook.views.markup import code_block, columns, folded, line, section, table, with_code
from flyte_notebook.views.style import style_of
from flyte_notebook.views.text import clean_line, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.experiments.fitting import FitRun, TaskFit

MAX_TASKS: Final = 60
FEW_RUNS: Final = 3

_CLASS: Final = "flyte-notebook-fit"
_STYLE: Final = style_of(_CLASS) + (
    f".{_CLASS}{{--fnb-bad:var(--fnb-used)}}\n"
    f".{_CLASS} .fnb-body td,.{_CLASS} .fnb-body th{{white-space:nowrap}}\n"
    f".{_CLASS} .fnb-body td svg{{display:inline-block;width:7rem;height:.7rem;margin:0;vertical-align:baseline}}\n"
)
_WAYS: Final = {
    "passed": "✓ passed",
    "memory": "✗ killed at the limit",
    "time": "✗ too slow at the limit",
    "other": "✗ failed, not for memory",
    "unclear": "… cut short",
}
_WORDS: Final = {
    "never_fits": "never fits here",
    "failed": "fails, not for memory",
    "interrupted": "interrupted",
    "unconfirmed": "not found",
}


class ShownFit(Fit):
    """A fit that shows itself: in a terminal as text, in a notebook as HTML."""

    def __str__(self) -> str:
        return fit_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return fit_html(self)

    def figure(self) -> Any:  # noqa: ANN401 - a matplotlib Figure; its library has one home
        """Return a ``matplotlib.figure.Figure``: memory over time of the task in each run, with the limits."""
        return chart.memory_figure(_lines(self), title=clean_line(self.task_name, 40))


def shown(fit: Fit) -> ShownFit:
    """Return the same fit as one that shows itself."""
    return ShownFit(**{field.name: getattr(fit, field.name) for field in fields(fit)})


def fit_bundle(fit: Fit, *, rich: bool = True) -> dict[str, Any]:
    """Return the MIME bundle of a fit: ``text/html`` and ``text/plain``, the second alone unless ``rich``."""
    words = {"text/plain": fit_text(fit)}
    return {"text/html": fit_html(fit), **words} if rich else words


def fit_text(fit: Fit) -> str:
    """Return a fit as text of a screen."""
    parts = [f"fit of {clean_line(fit.task_name, 80)}: {clean_line(sentence(fit.headline))}", ""]
    parts += columns([("", *_RUN_HEAD), *((str(run.number), *_run_cells(fit, run)) for run in fit.runs)])
    if len(fit.tasks) > 1:
        parts += ["", *columns([_TASK_HEAD, *(_task_cells(task) for task in fit.tasks[:MAX_TASKS])])]
        parts += _more(fit)
    if fit.line:
        parts += ["", f"  keep: {fit.line}", f"  {_in_a_cell(fit.task)}", f"  {_sum(fit.task)}"]
    others = _others(fit.task)
    if others:
        parts += [f"  other tools' rules would give: {others}"]
    parts += [f"  {clean_line(note)}" for note in _notes(fit)]
    return "\n".join(parts) + "\n"


def fit_html(fit: Fit) -> str:
    """Return a fit as one ``section`` element without scripts, safe for any input."""
    name = line(fit.task_name, 80)
    parts = [
        f'<h3>Memory of <bdi>{name}</bdi></h3><p dir="auto">{with_code(sentence(fit.headline))}</p>',
        chart.picture(_lines(fit), "a fit"),
        _tasks_table(fit) if len(fit.tasks) > 1 else "",
        table(("run", *_RUN_HEAD), [(str(run.number), *_run_cells(fit, run)) for run in fit.runs], "The runs"),
    ]
    if fit.line:
        where, how = with_code(_in_a_cell(fit.task)), escape(_sum(fit.task))
        parts.append(f"<div><h4>Keep</h4>{code_block(fit.line)}<p>{where}</p><p>{how}</p></div>")
    parts += [f'<p class="fnb-soft">{with_code(note)}</p>' for note in _notes(fit)]
    parts.append(folded("Other tools' rules would give", _others(fit.task)))
    body = "\n".join(part for part in parts if part)
    attributes = f' data-verdict="{fit.verdict}" data-memory="{fit.memory or ""}"'
    return section(_CLASS, f"Memory limit of {name}", _STYLE, body, attributes)


_NOTHING: Final = Measure(limit_bytes=0, ended="unclear")
_RUN_HEAD: Final = ("limit", "", "peak", "took", "why")
_TASK_HEAD: Final = ("task", "declared", "peak", "smallest passing", "recommended")


def _run_cells(fit: Fit, run: FitRun) -> tuple[str, ...]:
    """Return the result of one run for the task; for a nested run also the other task that was refused."""
    own = run.measures.get(fit.task_name)
    refused = [name for name, one in run.measures.items() if one.ended in {"memory", "time"} and name != fit.task_name]
    way = "" if own is None else _WAYS[own.ended]
    if refused:
        way = f"✗ {', '.join(clean_line(name, 40) for name in refused[:3])} killed at the limit"
    return (
        "-" if own is None else format_memory(own.limit_bytes),
        way,
        _peak(own),
        format_duration(run.duration_s),
        run.why,
    )


def _peak(measure: Measure | None) -> str:
    if measure is None or measure.peak_bytes is None:
        return "-"
    peak = format_memory(measure.peak_bytes)
    return f"{peak}, {format_memory(measure.counted_bytes or 0)} less page cache" if measure.cached else peak


def _task_cells(task: TaskFit) -> tuple[str, ...]:
    found = _WORDS.get(task.verdict, "") if task.memory_bytes is None else quantity_memory(task.memory_bytes)
    if task.memory_bytes is not None and task.verdict == "unconfirmed":
        found = f"at most {found}"
    return (
        clean_line(task.task_name, 60),
        "-" if task.declared_bytes is None else quantity_memory(task.declared_bytes),
        "-" if task.peak_bytes is None else format_memory(task.peak_bytes),
        found,
        "-" if task.recommended_bytes is None else quantity_memory(task.recommended_bytes),
    )


def _sum(task: TaskFit) -> str:
    """Return how a recommendation was computed."""
    lowest, highest = task.peaks
    why = f"The margin is at least {MARGIN:.0%}, for other inputs, another CPU or another version of a library."
    if task.varies and highest - lowest > MARGIN * (task.memory_bytes or 0):
        why = "The margin is at least the difference between the lowest and the highest peak."
    return (
        f"{format_memory(task.memory_bytes or 0)} needed here + {format_memory(task.pod_bytes)} extra on a cluster + "
        f"{format_memory(task.margin_bytes)} safety margin = {format_memory(task.recommended_bytes or 0)}. {why}"
    )


def _in_a_cell(task: TaskFit) -> str:
    return f"In the first line of a cell: `--memory {quantity_memory(task.recommended_bytes or 0)}`"


def _others(task: TaskFit) -> str:
    if task.memory_bytes is None:
        return ""
    told = []
    for one in task.others:
        killed = "; it would be killed" if one.passes is False else ""
        told.append(f"{one.who} {quantity_memory(one.memory_bytes)} ({one.how}{killed})")
    return " · ".join(told)


def _notes(fit: Fit) -> Iterator[str]:
    task = fit.task
    if any(one.cached for one in fit.tasks):
        yield f"The file cache is not counted, because the system can free it. {_slower(fit)}"
    if task.varies and task.memory_bytes is not None:
        low, high = map(format_memory, task.peaks)
        passed = sum(measure.ended == "passed" for measure in task.measures)
        yield f"Its memory depends on chance: {passed} peaks from {low} to {high}; another run may need more."
    if not fit.enforced.startswith("kernel"):
        yield f"Limits are {fit.enforced} here, so the result is no more exact than that."
    lines = [one for one in fit.tasks[1:] if one.line]
    for one in lines[:MAX_TASKS]:
        yield f"{one.task_name}: `{one.line}`"


def _slower(fit: Fit) -> str:
    """Return the effect of a tight limit on a task that reads files."""
    said = "Near the limit, files are read again"
    passed = [run for run in fit.runs if run.measures.get(fit.task_name, _NOTHING).ended == "passed"]
    if len(passed) < 2:  # noqa: PLR2004 - two to compare
        return f"{said}."
    least = min(passed, key=lambda run: run.measures[fit.task_name].limit_bytes)
    limit = format_memory(least.measures[fit.task_name].limit_bytes)
    times = f"{format_duration(least.duration_s)} at {limit}, {format_duration(passed[0].duration_s)} with room"
    return f"{said}: it took {times}."


def _more(fit: Fit) -> list[str]:
    more = len(fit.tasks) - MAX_TASKS
    return [f"  … and {more} more tasks"] if more > 0 else []


def _tasks_table(fit: Fit) -> str:
    scale = max((max(one.declared_bytes or 0, one.recommended_bytes or 0) for one in fit.tasks), default=0)
    rows = [(*map(escape, _task_cells(one)), _bar(one, scale)) for one in fit.tasks[:MAX_TASKS]]
    head = "".join(f"<th>{title}</th>" for title in (*_TASK_HEAD, "needed and recommended, compared with declared"))
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    more = "".join(escape(words) for words in _more(fit))
    return f"<div><h4>The tasks</h4><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"


def _bar(task: TaskFit, scale_bytes: int) -> str:
    """Return declared, needed and recommended memory as a picture, next to the numbers."""
    if not scale_bytes or task.memory_bytes is None:
        return ""

    def x(memory_bytes: int | None) -> str:
        return f"{1000 * min((memory_bytes or 0) / scale_bytes, 1):.0f}"

    mark = x(task.recommended_bytes)
    return (
        '<svg aria-hidden="true" viewBox="0 0 1000 16" preserveAspectRatio="none">'
        f'<rect class="fnb-track" x="0" y="1" width="{x(task.declared_bytes)}" height="14" stroke="gray" '
        f'vector-effect="non-scaling-stroke"/><rect class="fnb-used" x="0" y="1" width="{x(task.memory_bytes)}" '
        f'height="14"/><line class="fnb-limit" x1="{mark}" x2="{mark}" y1="0" y2="16" stroke-width="3" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _lines(fit: Fit) -> list[Line]:
    """Return the runs as lines of a chart. For many runs only the numbers are given: the table has their limits."""
    drawn, few = [], len(fit.runs) <= FEW_RUNS
    for run in fit.runs:
        own = run.measures.get(fit.task_name)
        if own is None or run.trace.peak_bytes is None:
            continue
        trace = replace(run.trace, limit_bytes=own.limit_bytes)
        if own.cached and trace.memory_bytes:
            trace = replace(trace, peak_bytes=max(trace.memory_bytes), peak_source="samples")
        label = f"run {run.number}, {format_memory(own.limit_bytes)}" if few else f"run {run.number}"
        drawn.append(Line(label=label, trace=trace, killed=own.ended == "memory", passed=own.ended == "passed"))
    return drawn
