"""The live line: the progress of runs, with a Stop button; and the final text when they are over.

The texts are made by pure functions; `LiveLine` holds the widgets. ipywidgets is loaded when a line is made. A widget
exists only as long as its kernel, so the caller replaces a line by plain HTML at the end (`ended_html`).
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.outcome import Success
from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.views.failures.card import WIDGET_VIEW
from flyte_notebook.views.markup import NO_MATH, console_link, line
from flyte_notebook.views.style import theme
from flyte_notebook.views.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flyte_notebook.core.progress import LiveAttempt, Progress, TaskCount
    from flyte_notebook.history import Action, Attempt, Run

SHOWN_RUNS: Final = 5
TREE_ROWS: Final = 12
"""How many rows of tasks are shown below all runs together."""

NAME_CHARACTERS: Final = 80
_HIGH: Final = 0.9
_MINUTE_S: Final = 60

# The second part undoes what ipywidgets sets for a value of one line.
STYLE: Final = (
    theme("flyte-notebook-live", layer=0)
    + """
.flyte-notebook-live{--fnb-high:#c62828;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.flyte-notebook-live .fnb-row{position:relative;padding:.1em 0}
.flyte-notebook-live .fnb-row>*{margin-right:.8em}
.flyte-notebook-live .fnb-row .fnb-mark{position:absolute;margin-left:-1.2em}
.flyte-notebook-live .fnb-soft{color:var(--fnb-soft)}
.flyte-notebook-live .fnb-name{font-weight:600}
.flyte-notebook-live .fnb-below{font-size:.93em}
.flyte-notebook-live .fnb-below .fnb-name{font-weight:400}
.flyte-notebook-live .fnb-memory{display:inline-block}
.flyte-notebook-live .fnb-meter{display:inline-block;vertical-align:middle;width:8em;height:.75em;
margin:0 .5em .15em 0;box-sizing:border-box;
border:1px solid var(--fnb-soft);border-radius:.15em;background:var(--fnb-code);overflow:hidden}
.flyte-notebook-live .fnb-below .fnb-meter{width:6em}
.flyte-notebook-live .fnb-meter span{display:block;height:100%;background:var(--fnb-used)}
.flyte-notebook-live .fnb-meter.fnb-high span{background:var(--fnb-high)}
.flyte-notebook-live a{color:inherit;text-decoration:underline}
.flyte-notebook-live .fnb-time{display:inline-block;min-width:3.2em}
.flyte-notebook-live-box{align-items:flex-start}
.flyte-notebook-live-box.jupyter-widgets-disconnected>*{display:none!important}
.flyte-notebook-live-box.jupyter-widgets-disconnected::after{content:"The kernel was restarted, and ended what ran."}
.flyte-notebook-live-box .widget-html,.flyte-notebook-live-box .widget-html-content{height:auto;margin:0;
overflow:visible;line-height:1.5;white-space:normal}
.flyte-notebook-live-box>.fnb-lines{flex:1 1 0;min-width:0;margin:2px 0}
.flyte-notebook-live-box>.fnb-lines .widget-html-content{width:100%}
.flyte-notebook-live-box>.fnb-status{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
margin:0}
"""
)


def live_html(progresses: Sequence[Progress], *, stopping: bool = False) -> str:
    """Return the progress of runs: a row each, with the tasks that it called below; at most one screen."""
    rows: list[str] = []
    shown = progresses[:SHOWN_RUNS]
    budget = max(2, TREE_ROWS // max(1, len(shown)))
    for progress in shown:
        rows.append(_run_row(progress, stopping=stopping))
        rows += _tree(progress, budget)
    if len(progresses) > SHOWN_RUNS:
        rows.append(_row(f'<bdi class="fnb-soft">{escape(_rest(progresses[SHOWN_RUNS:]))}</bdi>'))
    return (
        f'<div class="flyte-notebook-live {NO_MATH}" role="group" aria-label="How the tasks of this cell stand">'
        + "\n".join(rows)
        + "</div>"
    )


def status_words(progresses: Sequence[Progress], *, stopping: bool = False) -> str:
    """Return the progress of runs for screen readers: without values that change all the time."""
    if len(progresses) != 1:
        return f"{len(progresses)} runs are {'stopping' if stopping else 'active'}"
    progress = progresses[0]
    name = clean_line(progress.task_name, NAME_CHARACTERS)
    if stopping:
        return f"{name} is stopping"
    if progress.words and progress.root is None:
        return f"{name} is running"
    if progress.root is None and progress.failed_code is not None:
        code = clean_line(progress.failed_code, NAME_CHARACTERS)
        return f"{name}: attempt {progress.attempt} of {progress.max_attempts} failed with {code}"
    attempt = f", attempt {progress.attempt} of {progress.max_attempts}" if progress.max_attempts > 1 else ""
    return f"{name} is {progress.root.state if progress.root is not None else 'queued'}{attempt}"


def ended_html(*runs: Run, more: int = 0) -> str:
    """Return the final text about runs that succeeded; ``more`` is the number of others."""
    rows = [
        _row(f'✓ <bdi class="fnb-name">{escape(name)}</bdi> · {escape(facts)}{console and " · "}{console}')
        for run in runs
        for (name, facts), console in [(_ended(run), console_link(run.url))]
    ]
    if more:
        rows.append(_row(f'<bdi class="fnb-soft">{_more_runs(more)}</bdi>'))
    return f'<div class="flyte-notebook-live {NO_MATH}"><style>{STYLE}</style>{"".join(rows)}</div>'


def ended_text(*runs: Run, more: int = 0) -> str:
    """Return the same as text."""
    lines = [" · ".join(filter(None, [f"✓ {name}", facts, run.url])) for run in runs for name, facts in [_ended(run)]]
    return "\n".join([*lines, _more_runs(more)] if more else lines)


def time_words(elapsed_s: float) -> str:
    """Return seconds as a clock that runs: one decimal below a minute, so that its width does not jump."""
    return f"{elapsed_s:.1f} s" if elapsed_s < _MINUTE_S else format_duration(elapsed_s)


def usage_words(usage_bytes: int, limit_bytes: int | None) -> str:
    """Return usage against limit: ``182 of 250 MiB``, ``900 MiB of 1 GiB``, ``182 MiB, no limit``."""
    used = format_memory(usage_bytes)
    if limit_bytes is None:
        return f"{used}, no limit"
    limit = format_memory(limit_bytes)
    number, unit = used.split(" ")
    return f"{number if limit.endswith(f' {unit}') else used} of {limit}"


def _row(content: str, *, depth: int = 0) -> str:
    if not depth:
        return f'<div class="fnb-row">{content}</div>'
    mark = '<span class="fnb-mark" aria-hidden="true">└</span>'
    return f'<div class="fnb-row fnb-below" style="padding-left:{0.4 + 1.2 * depth:g}em">{mark}{content}</div>'


def _name(task_name: str) -> str:
    return f'<bdi class="fnb-name">{line(task_name, NAME_CHARACTERS)}</bdi>'


def _run_row(progress: Progress, *, stopping: bool) -> str:
    root = progress.root
    parts = [_name(progress.task_name), f'<span class="fnb-time">{time_words(progress.elapsed_s)}</span>']
    if stopping:
        return _row("".join([*parts, "<span>stopping</span>"]))
    if progress.words:
        parts.append(f"<span>{line(progress.words)}</span>")
        if root is not None and root.usage_bytes:
            parts.append(_memory(root))
        return _row("".join([*parts, console_link(progress.url)]))
    attempt = f"attempt {progress.attempt} of {progress.max_attempts}"
    if root is None and progress.failed_code is not None:
        again = "the next one follows" if progress.again_in_s is None else f"next in {time_words(progress.again_in_s)}"
        failed = f"{attempt} failed ({line(progress.failed_code, NAME_CHARACTERS)}); {again}"
        return _row("".join([*parts, f"<span>{failed}</span>"]))
    if progress.max_attempts > 1:
        parts.append(f'<span class="fnb-soft">{attempt}</span>')
    parts.append(f"<span>{root.state if root is not None else 'queued'}</span>")
    if root is not None and root.state != "queued":
        parts.append(_memory(root))
    return _row("".join(parts))


def _memory(attempt: LiveAttempt, what: str = "") -> str:
    words = escape(usage_words(attempt.usage_bytes, attempt.limit_bytes))
    label = line(f"Memory of {attempt.task_name}", NAME_CHARACTERS)
    if attempt.limit_bytes is None:
        return f'<span class="fnb-memory">{what}{words}</span>'
    share = min(1.0, attempt.usage_bytes / max(1, attempt.limit_bytes))
    high = " fnb-high" if share >= _HIGH else ""
    return (
        f'<span class="fnb-memory">{what}<span class="fnb-meter{high}" role="meter" aria-label="{label}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share * 100:.0f}" aria-valuetext="{words}">'
        f'<span style="width:{share * 100:.1f}%"></span></span>{words}</span>'
    )


def _tree(progress: Progress, budget: int) -> Iterator[str]:
    """Yield the rows below a run: a task each, with its one attempt or with counts and its fullest attempt."""
    rows = progress.tasks[1:] if progress.tasks and progress.tasks[0].total == 1 else progress.tasks
    names = [row.task_name for row in rows]
    for row in rows[:budget]:
        # It is not known which of two rows of the same task an attempt belongs to.
        living = [one for one in progress.living if one.task_name == row.task_name and one.parent is not None]
        living = living if names.count(row.task_name) == 1 else []
        yield _row(_task_row(row, living), depth=max(1, row.depth))
    if len(rows) > budget:
        left = rows[budget:]
        words = f"and {len(left)} more task{'' if len(left) == 1 else 's'}: {_counts(left)}"
        yield _row(f'<bdi class="fnb-soft">{words}</bdi>', depth=1)


def _task_row(row: TaskCount, living: Sequence[LiveAttempt]) -> str:
    name = _name(row.task_name)
    working = [one for one in living if one.state != "queued"]
    if row.total == 1 and working:
        one = working[0]
        attempt = f'<span class="fnb-soft">attempt {one.attempt} of {one.max_attempts}</span>' * (one.max_attempts > 1)
        time = f'<span class="fnb-time">{time_words(one.running_s)}</span>' if one.state == "running" else ""
        return f"{name}{time}{attempt}<span>{one.state}</span>{_memory(one)}"
    fullest = max(working, key=lambda one: one.usage_bytes / (one.limit_bytes or one.usage_bytes or 1), default=None)
    what = "fullest " if len(working) > 1 else ""
    return f"{name}<span>{_counts([row])}</span>" + (_memory(fullest, what) if fullest is not None else "")


def _counts(rows: Sequence[TaskCount]) -> str:
    total, done = sum(row.total for row in rows), sum(row.succeeded for row in rows)
    kinds = ("running", "queued", "retrying", "failed", "caught")
    numbers = [(sum(getattr(row, kind) for row in rows), kind) for kind in kinds]
    said = [f"{count:,} {kind}" for count, kind in numbers if count]
    finished = f"{done:,} of {total:,} done" if total > 1 else "done"
    # Lines break between two counts only.
    return " · ".join(words.replace(" ", "\u00a0") for words in ([finished, *said] if done or total > 1 else said))


def _rest(progresses: Sequence[Progress]) -> str:
    working = sum(progress.root is not None and progress.root.state != "queued" for progress in progresses)
    counts = ((working, "running"), (len(progresses) - working, "waiting"))
    return f"{_more_runs(len(progresses))}: " + ", ".join(f"{count} {word}" for count, word in counts if count)


def _more_runs(count: int) -> str:
    return f"and {count:,} more run{'' if count == 1 else 's'}"


def _ended(run: Run) -> tuple[str, str]:
    root = run.actions[0] if run.actions else None
    attempts = root.attempts if root is not None else []
    facts = [format_duration(run.duration_s)]
    if len(attempts) > 1:
        facts.append(f"{len(attempts)} attempts")
    if len(run.actions) > 1:
        caught = sum(not isinstance(action.outcome, Success) for action in run.actions)
        facts.append(f"{len(run.actions):,} actions" + (f", {caught:,} failed and caught" if caught else ""))
    facts += _peak(run.actions)
    if run.advice:
        facts.append(run.advice)
    return clean_line(run.task_name, NAME_CHARACTERS), " · ".join(facts)


def _peak(actions: Sequence[Action]) -> Iterator[str]:
    """Yield the peak that came closest to its limit, or the highest where nothing was limited."""
    measured = [(action, attempt) for action in actions for attempt in action.attempts if attempt.trace.peak_bytes]
    if not measured:
        return
    action, attempt = max(measured, key=lambda pair: _fullness(pair[1]))
    peak_bytes, limit_bytes = attempt.trace.peak_bytes or 0, attempt.limits.memory_bytes
    what = "peak" if len(actions) == 1 else f"peak of {clean_line(action.task_name, NAME_CHARACTERS)}"
    bound = "" if attempt.trace.peak_source == "kernel counter" else "at least "
    limit = ", no limit" if limit_bytes is None else f" of {format_memory(limit_bytes)}"
    yield f"{what} {bound}{format_memory(peak_bytes)}{limit}"


def peak_words(run: Run) -> str:
    """Return the peak of a run against its limit; empty where nothing was measured."""
    return "".join(_peak(run.actions))


def _fullness(attempt: Attempt) -> tuple[float, int]:
    peak_bytes, limit_bytes = attempt.trace.peak_bytes or 0, attempt.limits.memory_bytes
    return (peak_bytes / limit_bytes if limit_bytes else 0.0, peak_bytes)


class LiveLine:
    """The widgets of one line: the text of `live_html`, a text for screen readers, and a Stop button.

    ``on_stop`` is called by a click, on any thread; it must return at once. The object is not thread-safe.
    """

    def __init__(self, on_stop: Callable[[], object]) -> None:
        import ipywidgets as widgets  # noqa: PLC0415 - loaded when the first line is made

        self._said, self._shown = "", ""
        # The style is sent with the part that changes rarely.
        self._status = widgets.HTML(f"<style>{STYLE}</style>")
        self._status.add_class("fnb-status")
        self._lines = widgets.HTML()
        self._lines.add_class("fnb-lines")
        self._button = widgets.Button(
            description="Stop",
            icon="stop",
            tooltip="Stop what this cell runs",
            layout=widgets.Layout(width="auto", flex="0 0 auto"),
        )
        self._button.on_click(lambda _: on_stop())
        self._box = widgets.HBox([self._lines, self._status, self._button])
        self._box.add_class("flyte-notebook-live-box")

    def show_bundle(self) -> dict[str, Any]:
        """Return the bundle that shows the line, with a text for a front end without widgets."""
        words = self._said or "a task is running"
        return {
            WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id},
            "text/html": f'<div class="flyte-notebook-live">{escape(words)}</div>',
            "text/plain": words,
        }

    def update(self, progresses: Sequence[Progress], *, stopping: bool = False) -> None:
        """Show the current progress; sends nothing if nothing changed."""
        said = status_words(progresses, stopping=stopping)
        if said != self._said:
            self._said = said
            self._status.value = f'<style>{STYLE}</style><span role="status" aria-live="polite">{escape(said)}</span>'
        shown = live_html(progresses, stopping=stopping)
        if shown != self._shown:
            self._shown = self._lines.value = shown

    def stopping(self) -> None:
        """Show that it is being stopped."""
        self._button.disabled = True
        self._button.description = "Stopping"

    def close(self) -> None:
        """End the widgets, in the front end too."""
        for widget in (self._box, self._lines, self._status, self._button):
            for part in (widget, getattr(widget, "style", None), widget.layout):
                if part is not None:
                    part.close()
