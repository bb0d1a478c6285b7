"""Shows how a memory limit grew until a task passed, as text and HTML: attempts, chart, and the line to keep."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.experiments.escalation import listed
from flyte_notebook.experiments.fitting import MARGIN, POD_BYTES, kept_after
from flyte_notebook.views.charts import chart
from flyte_notebook.views.lines import lines_of
from flyte_notebook.views.markup import code_block, columns, line, section, with_code
from flyte_notebook.views.style import style_of
from flyte_notebook.views.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.history import Attempt

    Story = Sequence[tuple[str, Attempt]]


_CLASS: Final = "flyte-notebook-growing"
_STYLE: Final = style_of(_CLASS) + f".{_CLASS}{{--fnb-bad:var(--fnb-used)}}\n"
_HEAD: Final = ("attempt", "limit", "", "peak", "took")


def escalation_bundle(task_name: str, story: Story, kept: str, *, rich: bool = True) -> dict[str, Any]:
    """Return the MIME bundle: ``text/html`` and ``text/plain``, the second alone unless ``rich``.

    ``story`` are all attempts in order, each with a distinct label (`History.story`); ``kept`` is the line to keep.
    """
    words = {"text/plain": escalation_text(task_name, story, kept)}
    return {"text/html": escalation_html(task_name, story, kept), **words} if rich else words


def escalation_text(task_name: str, story: Story, kept: str) -> str:
    """Return it as a few lines of text."""
    rows = [_HEAD, *_rows(story)]
    first, keep = f"{clean_line(task_name, 80)} {headline(story)}", f"  keep: {kept}"
    return "\n".join([first, "", *columns(rows), "", keep, *(f"  {sentence}" for sentence in _why(story))]) + "\n"


def escalation_html(task_name: str, story: Story, kept: str) -> str:
    """Return it as one ``section`` element without scripts, safe for any input."""
    name = line(task_name, 80)
    titles = "".join(f"<th>{title}</th>" for title in _HEAD)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(story))
    why = "".join(f'<p class="fnb-soft">{escape(sentence)}</p>' for sentence in _why(story))
    body = (
        f"<h3><bdi>{name}</bdi> <small>grown on OOM</small></h3>"
        f'<p dir="auto">{with_code(headline(story))}</p>\n{chart.picture(lines_of(story), "a limit that grew")}\n'
        f"<div><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>\n"
        f"<div><h4>Keep</h4>{code_block(kept)}{why}</div>"
    )
    return section(_CLASS, f"Memory limit of {name}", _STYLE, body)


def headline(story: Story) -> str:
    """Return a sentence with the limit that passed, and the limits that were too small."""
    limits = [attempt.limits.memory_bytes for _, attempt in story]
    known = list(dict.fromkeys(limit for limit in limits if limit is not None))
    if not story or not known or isinstance(story[-1][1].outcome, Failure):
        return "passed; its result is from the cache"
    *small, enough = known
    after = f", after OOM at {listed(small)}" if small else ""
    return f"passed with {listed([enough])}{after}"


def _why(story: Story) -> list[str]:
    """Return a sentence on how the limit to keep was found: only the attempt that passed shows the needed memory."""
    last = story[-1][1] if story else None
    if last is None or isinstance(last.outcome, Failure) or kept_after(last.trace) is None:
        return []
    peak, extra = format_memory(last.trace.peak_bytes or 0), format_memory(POD_BYTES)
    return [f"Its peak was {peak}. The limit to keep adds {extra} for a cluster, and a safety margin of {MARGIN:.0%}."]


def _rows(story: Story) -> list[tuple[str, ...]]:
    return [
        (
            str(number),
            "-" if attempt.limits.memory_bytes is None else format_memory(attempt.limits.memory_bytes),
            _way(attempt),
            _peak(attempt),
            format_duration(attempt.duration_s),
        )
        for number, (_, attempt) in enumerate(story, start=1)
    ]


def _way(attempt: Attempt) -> str:
    outcome = attempt.outcome
    if not isinstance(outcome, Failure):
        return "✓ passed"
    return "✗ killed at the limit" if outcome.reason == "memory" else f"✗ {clean_line(outcome.code, 40)}"


def _peak(attempt: Attempt) -> str:
    """Return the peak; for an attempt that was killed at its limit it is not higher than the limit."""
    if attempt.trace.peak_bytes is None:
        return "-"
    cut = isinstance(attempt.outcome, Failure) and attempt.outcome.reason == "memory"
    bound = "at least " if cut or attempt.trace.peak_source == "samples" else ""
    return f"{bound}{format_memory(attempt.trace.peak_bytes)}"
