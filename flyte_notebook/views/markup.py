"""Parts that every view uses: frames, rows, code. Output of a task is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from flyte_notebook.views.text import clean, clean_line

NO_MATH: Final = "tex2jax_ignore mathjax_ignore"
"""Classes that prevent JupyterLab from showing "$5 and $6" as a formula."""


def with_code(text: str) -> str:
    """Return a sentence with the text between backticks as code."""
    pieces = clean_line(text, 600).split("`")
    if len(pieces) % 2 == 0:  # a lone backtick is just a character
        return escape("`".join(pieces))
    return "".join(
        f"<code>{escape(piece)}</code>" if index % 2 else escape(piece) for index, piece in enumerate(pieces)
    )


def line(text: str, characters: int = 300) -> str:
    """Return a text as one escaped line."""
    return escape(clean_line(text, characters))


def console_link(url: str) -> str:
    """Return a link to a run's page in the console of its cluster; empty without one."""
    if not url.startswith(("https://", "http://")):
        return ""
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">console</a>'


def folded(summary: str, text: str) -> str:
    """Return a text that opens on demand; empty for an empty one."""
    text = text.strip("\n")
    if not text.strip():
        return ""
    return f'<details><summary>{summary}</summary><pre dir="auto">{escape(text)}</pre></details>'


def code_block(code: str, characters: int = 2_000) -> str:
    """Return a line or program as code, with a class by which a page finds it."""
    return f'<pre class="fnb-run">{escape(clean(code, characters))}</pre>'


def section(css_class: str, label: str, style: str, body: str, attributes: str = "") -> str:
    """Return the frame of a view: one ``section`` without scripts. Everything is escaped already.

    ``attributes`` begin with a space.
    """
    return (
        f'<section class="{css_class}"{attributes} role="region" aria-label="{label}"><style>{style}</style>\n'
        f'<div class="fnb-body {NO_MATH}">\n{body}\n</div></section>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """Return rows as an HTML table below a label, escaped."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div><h4>{label}</h4><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of text, their cells below one another; there is at least one row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
