"""A failure as static HTML: the card of a saved notebook, and of front ends without widgets.

It works without scripts and without other files. If a viewer removes styles too (an untrusted notebook, GitHub) it is
still readable in order, because it uses headings, lists and ``pre``, and every number is also in the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from flyte_notebook.core.overrides import Override, changes, magic_code
from flyte_notebook.core.units import format_memory
from flyte_notebook.views.charts import chart
from flyte_notebook.views.failures.details import details_html, meaning_html
from flyte_notebook.views.lines import lines_of
from flyte_notebook.views.markup import code_block, folded, line, section, with_code
from flyte_notebook.views.style import STYLE
from flyte_notebook.views.text import (
    GREW_TITLE,
    GREW_WORDS,
    LINES_TITLE,
    SUGGESTIONS,
    clean,
    codes,
    frame_words,
    grew_rows,
    headline,
    limit_words,
    line_words,
    memory_matters,
    memory_words,
    shown_frames,
)
from flyte_notebook.views.text import title as title_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.core.outcome import Failure
    from flyte_notebook.history import Attempt

    Story = Sequence[tuple[str, Attempt]]

CARD_BYTES: Final = 400 * 1024
"""The maximum size of a card, for any output of the task. One character takes at most six bytes once escaped, and the
characters allowed below sum to less than a sixth of this."""

MESSAGE_CHARACTERS: Final = 5_000
OUTPUT_CHARACTERS: Final = 12_000
TRACEBACK_CHARACTERS: Final = 12_000

RERUNS: Final = 10
INPUTS: Final = 20
SIZE_BYTES: Final = 1024
"""The size of a smaller input is not shown, as it hardly uses memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A rerun that passed: what a title says of it, and for each place to keep its settings the text to write there."""

    title: str
    keep: tuple[tuple[str, str], ...] = ()


def failure_html(  # noqa: PLR0913 - one argument for each source of a card
    failure: Failure,
    *,
    story: Story = (),
    reruns: Sequence[str] = (),
    passed: Passed | None = None,
    rest: str | None = None,
    picture: bool = True,
) -> str:
    """Return the card of a failure: one ``section`` element, at most `CARD_BYTES` in UTF-8, safe for any input.

    ``story`` are all attempts of the same action, for the chart (`History.story`). ``reruns`` are sentences about
    reruns from the card, ``passed`` is the one that passed. ``rest`` is `failure_rest_html`, if that is there already.
    Without ``picture`` there is a bar instead of the chart.
    """
    data = {
        "error": title_of(failure),
        "kind": failure.kind,
        "code": failure.code,
        "worker": failure.worker,
        "reason": failure.reason,
    }
    if reruns:
        data["rerun"] = "failed" if passed is None else "passed"
    attributes = "".join(f' data-{name}="{line(value, 200)}"' for name, value in data.items())
    label = line(f"{title_of(failure)} in task {failure.task_name}", 200)
    if rest is None or passed is not None:  # below the title of what passed, its chart is drawn once
        rest = failure_rest_html(failure, story=story if picture and passed is None else ())
    if passed is not None:
        before = f"{_badges(failure)}\n{_action(failure)}\n{rest}"
        summary = with_code(f"Before: {title_of(failure)}. {headline(failure)}")
        parts = [
            _heading(failure, passed.title),
            _reruns(reruns),
            _keep(passed),
            _chart(failure, story if picture else ()),
            f"<details><summary>{summary}</summary>{before}</details>",
        ]
    elif failure.reason == "stopped":
        parts = [
            f'<p class="fnb-soft" dir="auto">{with_code(headline(failure))}</p>',
            f"<details><summary>Where it was, and its memory</summary>{_badges(failure)}\n{rest}</details>",
        ]
    else:
        parts = [
            _heading(failure),
            _badges(failure),
            _reruns(reruns),
            _action(failure),
            f'<div class="fnb-rest">\n{rest}\n</div>',
        ]
    return section("flyte-notebook-card", label, STYLE, "\n".join(part for part in parts if part), attributes)


def failure_rest_html(failure: Failure, *, story: Story = ()) -> str:
    """Return what a card has below its action: the chart first if memory matters, else the user's lines."""
    where = [_source(failure), _message(failure)]
    memory = [_memory(failure, story), _grew(failure)]
    parts = [
        *([*memory, *where] if memory_matters(failure) else [*where, _folded_memory(failure, story)]),
        _more_advice(failure),
        folded("Last output", clean(failure.output_tail, OUTPUT_CHARACTERS, keep="tail")),
        folded("Traceback", clean(failure.traceback, TRACEBACK_CHARACTERS)),
        meaning_html(failure),
        details_html(failure),
    ]
    return "\n".join(part for part in parts if part)


def _heading(failure: Failure, title: str = "") -> str:
    attempt = "" if title else f" · attempt {failure.attempt + 1} of {failure.max_attempts}"
    inputs = ""
    if failure.inputs:
        named = [
            f"{line(fact.name, 60)}: {line(fact.type_name, 60)}"
            + (f" ({format_memory(fact.size_bytes)})" if (fact.size_bytes or 0) >= SIZE_BYTES else "")
            for fact in failure.inputs[:INPUTS]
        ]
        more = len(failure.inputs) - INPUTS
        inputs = " · inputs " + ", ".join(named) + (f" and {more} more" if more > 0 else "")
    note = f"\n<p><small>Note: {line(failure.note, 200)}</small></p>" if failure.note else ""
    said = "" if title else f'\n<p dir="auto">{with_code(headline(failure))}</p>{note}'
    return (
        f'<h3><span dir="auto">{line(title or title_of(failure), 120)}</span> '
        f"<small>task <bdi>{line(failure.task_name, 200)}</bdi>{attempt}{inputs}</small></h3>{said}"
    )


def _keep(passed: Passed) -> str:
    """Return for each place where the settings can be kept what to write there."""
    return "".join(f'<div><p class="fnb-soft">{line(where)}</p>{code_block(what)}</div>' for where, what in passed.keep)


def _badges(failure: Failure) -> str:
    badges = (("kind", failure.kind), ("code", codes(failure)), ("worker", failure.worker))
    shown = "".join(f"<div><dt>{name}</dt><dd><bdi>{line(value, 200)}</bdi></dd></div>" for name, value in badges)
    return f'<dl aria-label="What kind of error this is">{shown}</dl>'


def _reruns(reruns: Sequence[str]) -> str:
    """Return the outcomes of the last reruns from this card."""
    if not reruns:
        return ""
    items = "".join(f"<li>{with_code(sentence)}</li>" for sentence in reruns[-RERUNS:])
    return f'<ol class="fnb-reruns" aria-label="Reruns">{items}</ol>'


def _memory(failure: Failure, story: Story) -> str:
    return f"<div><h4>Memory</h4>{_chart(failure, story)}{_memory_words(failure)}</div>"


def _folded_memory(failure: Failure, story: Story) -> str:
    return f"<details><summary>Memory</summary>{_chart(failure, story)}{_memory_words(failure)}</details>"


def _chart(failure: Failure, story: Story) -> str:
    return chart.picture(lines_of(story), "a card") or _bar(failure)


def _memory_words(failure: Failure) -> str:
    held = escape(limit_words(failure))
    return f'<div>{escape(memory_words(failure))}</div><div class="fnb-soft">Limits · {held}</div>'


def _bar(failure: Failure) -> str:
    """Return peak against limit as a picture; the same numbers are in the text beside it."""
    trace, limit_bytes = failure.report.trace, failure.limits.memory_bytes
    if not trace.peak_bytes or not limit_bytes:
        return ""
    # The limit is at nine tenths of the width, unless the peak was higher than that.
    full = max(trace.peak_bytes, limit_bytes / 0.9)
    peak, limit = 1000 * trace.peak_bytes / full, 1000 * limit_bytes / full
    base = min(1000 * (trace.baseline_bytes or 0) / full, peak)
    return (
        f'<svg role="img" aria-label="{escape(memory_words(failure))}" viewBox="0 0 1000 16" '
        f'preserveAspectRatio="none"><rect class="fnb-track" x="0" y="2" width="1000" height="12" fill="none" '
        f'stroke="gray" vector-effect="non-scaling-stroke"/><rect class="fnb-used" x="0" y="2" '
        f'width="{peak:.1f}" height="12"/><rect class="fnb-base" x="0" y="2" width="{base:.1f}" height="12"/>'
        f'<line class="fnb-limit" x1="{limit:.1f}" x2="{limit:.1f}" y1="0" y2="16" stroke="black" stroke-width="3" '
        f'vector-effect="non-scaling-stroke"/></svg>'
    )


def _source(failure: Failure) -> str:
    """Return the user's frames, the failing line marked by ``>``, by weight and by a bar at its side."""
    rows = []
    for frame in shown_frames(failure):
        if isinstance(frame, int):
            rows.append(f'<span class="fnb-soft">[… {frame} more frames …]</span>')
            continue
        source, failing = frame
        code = f"{'>' if failing else ' '} {source.number} | {line(source.text)}"
        rows.append(f'<span class="fnb-soft">{escape(frame_words(source))}</span>')
        rows.append(f"<mark>{code}</mark>" if failing else code)
    if not rows:
        return ""
    # A block element ends its own line; a newline after it would leave an empty one.
    listing = "\n".join(rows).replace("</mark>\n", "</mark>")
    words = line_words(failure)
    how = f'<div class="fnb-soft">{line(words)}</div>' if words else ""
    return f'<div><h4>{LINES_TITLE}</h4><pre aria-label="{LINES_TITLE}">{listing}</pre>{how}</div>'


def _grew(failure: Failure) -> str:
    """Return the lines on which memory grew as a table, with a note on its accuracy."""
    rows = "".join(
        f"<tr><td>{line(size)}</td><td><bdi>{line(place)}</bdi></td><td><code>{line(text)}</code></td></tr>"
        for size, place, text in grew_rows(failure)
    )
    if not rows:
        return ""
    return (
        f'<div class="fnb-grew"><h4>{GREW_TITLE}</h4><table><tbody>{rows}</tbody></table>'
        f'<div class="fnb-soft">{GREW_WORDS}</div></div>'
    )


def _message(failure: Failure) -> str:
    """Return the message, folded unless user code wrote it: a cluster's message has less information than the card."""
    message = clean(failure.message, MESSAGE_CHARACTERS).strip()
    if not message or message in failure.headline:
        return ""
    if failure.reason != "raised":
        there = failure.report.enforcement.memory == "cluster"
        return folded("What the cluster said" if there else "What a cluster would say", message)
    return f'<div><h4>Message</h4><pre dir="auto">{escape(message)}</pre></div>'


def _action(failure: Failure) -> str:
    """Return the one thing to do next, its first sentence strong."""
    if not failure.suggestions:
        return ""
    first, stop, why = failure.suggestions[0].sentence.partition(". ")
    return f'<p class="fnb-action" dir="auto"><strong>{with_code(first + stop.strip())}</strong> {with_code(why)}</p>'


def _more_advice(failure: Failure) -> str:
    """Return the action as a line of code, other suggestions, and hints about this machine for a better answer."""
    sentences = [item.sentence for item in failure.suggestions[1:SUGGESTIONS]]
    sentences += failure.report.enforcement.hints[:SUGGESTIONS]
    said = "\n".join(f'<p dir="auto">{with_code(sentence)}</p>' for sentence in sentences)
    return f"<div>{_again(failure)}{said}</div>" if said or _again(failure) else ""


def _again(failure: Failure) -> str:
    """Return the line that runs it again with the suggestion; it works without the form, while the kernel runs."""
    if not failure.worker or not failure.suggestions:
        return ""
    limits = failure.suggestions[0].limits
    override = Override(
        memory_bytes=limits.memory_bytes, cpu_cores=limits.cpu_cores, max_runtime_s=limits.max_runtime_s
    )
    override = changes(override, failure.limits, failure.max_attempts - 1)
    if not override:
        return ""
    words = "Or run this in any cell, as long as nothing else has failed since:"
    return f'<p class="fnb-soft">{words}</p>{code_block(magic_code(override))}'
