"""A failure as one static piece of HTML: the card of a saved notebook, and what stands where no widget can.

It works without scripts and without anything from elsewhere. Where a viewer strips styles too (an untrusted notebook,
GitHub) it still reads in order, because headings, lists and ``pre`` carry it and every number also stands in words.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from flyte_notebook.units import format_memory
from flyte_notebook.views.text import (
    SUGGESTIONS,
    clean,
    clean_line,
    codes,
    frame_words,
    limit_words,
    memory_words,
    shown_frames,
)
from flyte_notebook.views.text import title as title_of

if TYPE_CHECKING:
    from flyte_notebook.outcome import Failure

CARD_BYTES: Final = 400 * 1024
"""No card is larger, whatever the task wrote. One character takes at most six bytes once escaped, and the characters
allowed below sum to less than a sixth of this."""

MESSAGE_CHARACTERS: Final = 6_000
OUTPUT_CHARACTERS: Final = 20_000
TRACEBACK_CHARACTERS: Final = 16_000
INPUTS: Final = 20
SIZE_BYTES: Final = 1024
"""An input smaller than this fills no memory, and its size is not shown."""

_NO_MATH: Final = "tex2jax_ignore mathjax_ignore"  # else JupyterLab sets "$5 and $6" as a formula

# Colours come from JupyterLab's theme, else VS Code's, else the reader's system. Background and text are always set
# together, so that a dark system and a white page do not mix. Jupyter has rules of its own for what stands in an output
# (it floats dt and dd, and breaks words in pre): what those set is set here too, by selectors that weigh more.
STYLE: Final = """
.flyte-notebook-card{--fnb-text:var(--jp-ui-font-color1,var(--vscode-foreground,#1f2328));
--fnb-soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#59636e));
--fnb-page:var(--jp-layout-color1,var(--vscode-editor-background,#fff));
--fnb-code:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#f3f4f6));
--fnb-edge:var(--jp-border-color2,var(--vscode-panel-border,#d1d9e0));
--fnb-bad:#c62828;--fnb-used:#3f6fb5;--fnb-base:#8aa9d6;
box-sizing:border-box;max-width:60rem;margin:.25rem 0;border:1px solid var(--fnb-edge);
border-left:.3rem solid var(--fnb-bad);border-radius:.3rem;background:var(--fnb-page);color:var(--fnb-text);
font:14px/1.5 var(--jp-ui-font-family,var(--vscode-font-family,system-ui,sans-serif))}
@media (prefers-color-scheme:dark){.flyte-notebook-card{
--fnb-text:var(--jp-ui-font-color1,var(--vscode-foreground,#e6edf3));
--fnb-soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#9aa4af));
--fnb-page:var(--jp-layout-color1,var(--vscode-editor-background,#161b22));
--fnb-code:var(--jp-layout-color2,var(--vscode-textCodeBlock-background,#21262d));
--fnb-edge:var(--jp-border-color2,var(--vscode-panel-border,#3d444d))}}
.flyte-notebook-card .fnb-body{padding:.7rem .9rem;overflow-wrap:anywhere}
.flyte-notebook-card .fnb-body>*{margin:0 0 .7rem}
.flyte-notebook-card .fnb-body>:last-child{margin-bottom:0}
.flyte-notebook-card .fnb-body h3{font-size:1.15em;font-weight:700;line-height:1.3;margin:0 0 .3rem;color:inherit}
.flyte-notebook-card .fnb-body h4{font-size:.85em;font-weight:600;line-height:1.3;margin:0 0 .25rem;
color:var(--fnb-soft)}
.flyte-notebook-card .fnb-body h3 small{font-size:.75em;font-weight:400;color:var(--fnb-soft);margin-left:.5em}
.flyte-notebook-card .fnb-body p{margin:0 0 .3rem}
.flyte-notebook-card .fnb-body>p{margin:0 0 .7rem}
.flyte-notebook-card .fnb-body p:last-child{margin-bottom:0}
.flyte-notebook-card .fnb-body dl{display:flex;flex-wrap:wrap;gap:.3rem .4rem;padding:0;width:auto}
.flyte-notebook-card .fnb-body dl div{display:inline-flex;border:1px solid var(--fnb-edge);border-radius:1rem;
padding:.05rem .65rem;font-size:.85em;max-width:100%;box-sizing:border-box}
.flyte-notebook-card .fnb-body dt{float:none;width:auto;font-weight:400;color:var(--fnb-soft);margin:0 .4em 0 0;
padding:0;white-space:nowrap}
.flyte-notebook-card .fnb-body dd{float:none;width:auto;font-weight:600;margin:0;padding:0;min-width:0}
.flyte-notebook-card .fnb-body .fnb-soft{color:var(--fnb-soft);font-size:.85em}
.flyte-notebook-card .fnb-body svg{display:block;width:100%;height:1rem;margin-bottom:.15rem}
.flyte-notebook-card .fnb-body .fnb-track{fill:var(--fnb-code);stroke:var(--fnb-soft)}
.flyte-notebook-card .fnb-body .fnb-used{fill:var(--fnb-used)}
.flyte-notebook-card .fnb-body .fnb-base{fill:var(--fnb-base)}
.flyte-notebook-card .fnb-body .fnb-limit{stroke:var(--fnb-text)}
.flyte-notebook-card .fnb-body pre{margin:0;padding:.4rem .6rem;border-radius:.2rem;background:var(--fnb-code);
color:inherit;font:12.5px/1.45 var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace));
white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;max-height:24rem;overflow:auto}
.flyte-notebook-card .fnb-body mark{display:block;background:none;color:inherit;font-weight:700;
box-shadow:inset .2rem 0 var(--fnb-bad);margin-left:-.6rem;padding-left:.6rem}
.flyte-notebook-card .fnb-body summary{cursor:pointer;font-size:.85em;font-weight:600;color:var(--fnb-soft)}
.flyte-notebook-card .fnb-body summary:focus-visible{outline:2px solid var(--fnb-used);outline-offset:2px}
.flyte-notebook-card .fnb-body details{margin:0 0 .3rem}
.flyte-notebook-card .fnb-body details pre{margin-top:.3rem}
"""


def failure_html(failure: Failure) -> str:
    """Return the card of a failure: one ``section`` element, at most `CARD_BYTES` in UTF-8, safe for any input."""
    data = {
        "error": title_of(failure),
        "kind": failure.kind,
        "code": failure.code,
        "worker": failure.worker,
        "reason": failure.reason,
    }
    attributes = "".join(f' data-{name}="{_line(value, 200)}"' for name, value in data.items())
    label = _line(f"{title_of(failure)} in task {failure.task_name}", 200)
    parts = [
        _heading(failure),
        _badges(failure),
        _source(failure),
        _memory(failure),
        _advice(failure),
        _message(failure),
        _folded("Last output", clean(failure.output_tail, OUTPUT_CHARACTERS, keep="tail")),
        _folded("Traceback in the worker", clean(failure.traceback, TRACEBACK_CHARACTERS)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<section class="flyte-notebook-card"{attributes} role="region" aria-label="{label}">'
        f'<style>{STYLE}</style>\n<div class="fnb-body {_NO_MATH}">\n{body}\n</div></section>'
    )


def _heading(failure: Failure) -> str:
    attempt = f"attempt {failure.attempt + 1} of {failure.max_attempts}"
    inputs = ""
    if failure.inputs:
        named = [
            f"{_line(fact.name, 60)}: {_line(fact.type_name, 60)}"
            + (f" ({format_memory(fact.size_bytes)})" if (fact.size_bytes or 0) >= SIZE_BYTES else "")
            for fact in failure.inputs[:INPUTS]
        ]
        more = len(failure.inputs) - INPUTS
        inputs = " · inputs " + ", ".join(named) + (f" and {more} more" if more > 0 else "")
    note = f"\n<p><small>Note: {_line(failure.note, 200)}</small></p>" if failure.note else ""
    return (
        f'<h3><span dir="auto">{_line(title_of(failure), 120)}</span>'
        f"<small>task <bdi>{_line(failure.task_name, 200)}</bdi> · {attempt}{inputs}</small></h3>\n"
        f'<p dir="auto">{with_code(failure.headline)}</p>{note}'
    )


def _badges(failure: Failure) -> str:
    badges = (("kind", failure.kind), ("code", codes(failure)), ("worker", failure.worker))
    shown = "".join(f"<div><dt>{name}</dt><dd><bdi>{_line(value, 200)}</bdi></dd></div>" for name, value in badges)
    return f'<dl aria-label="What kind of error this is">{shown}</dl>'


def _memory(failure: Failure) -> str:
    words = escape(memory_words(failure))
    held = escape(limit_words(failure))
    return f'<div><h4>Memory</h4>{_bar(failure)}<div>{words}</div><div class="fnb-soft">Limits · {held}</div></div>'


def _bar(failure: Failure) -> str:
    """Return peak against limit as a picture; the same numbers stand beside it in words."""
    trace, limit_bytes = failure.report.trace, failure.limits.memory_bytes
    if not trace.peak_bytes or not limit_bytes:
        return ""
    # The limit stands at nine tenths of the width, unless the peak went further than that.
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
        line, failing = frame
        code = f"{'>' if failing else ' '} {line.number} | {_line(line.text)}"
        rows.append(f'<span class="fnb-soft">{escape(frame_words(line))}</span>')
        rows.append(f"<mark>{code}</mark>" if failing else code)
    if not rows:
        return ""
    # A block element ends its own line; a newline after it would leave an empty one.
    listing = "\n".join(rows).replace("</mark>\n", "</mark>")
    return f'<div><h4>Your lines</h4><pre aria-label="Your lines, the failing one marked">{listing}</pre></div>'


def _message(failure: Failure) -> str:
    """Return the message, folded unless user code wrote it: a cluster's words say less than what stands above them."""
    message = clean(failure.message, MESSAGE_CHARACTERS).strip()
    if not message or message in failure.headline:
        return ""
    if failure.reason != "raised":
        return _folded("Message, as a cluster words it", message)
    return f'<div><h4>Message</h4><pre dir="auto">{escape(message)}</pre></div>'


def _advice(failure: Failure) -> str:
    sentences = [item.sentence for item in failure.suggestions[:SUGGESTIONS]]
    # What this machine lacks for a better answer: each hint carries the command that gives more.
    sentences += failure.report.enforcement.hints[:SUGGESTIONS]
    if not sentences:
        return ""
    said = "\n".join(f'<p dir="auto">{with_code(sentence)}</p>' for sentence in sentences)
    return f"<div><h4>What to do next</h4>{said}</div>"


def _folded(summary: str, text: str) -> str:
    text = text.strip("\n")
    if not text.strip():
        return ""
    return f'<details><summary>{summary}</summary><pre dir="auto">{escape(text)}</pre></details>'


def with_code(text: str) -> str:
    """Return a sentence with what stands between backticks as code."""
    pieces = clean_line(text, 600).split("`")
    if len(pieces) % 2 == 0:  # a lone backtick is just a character
        return escape("`".join(pieces))
    return "".join(
        f"<code>{escape(piece)}</code>" if index % 2 else escape(piece) for index, piece in enumerate(pieces)
    )


def _line(text: str, characters: int = 300) -> str:
    return escape(clean_line(text, characters))
