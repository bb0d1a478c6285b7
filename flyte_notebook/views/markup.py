"""Pieces of HTML that every view uses; what a task wrote goes through here, escaped."""

from __future__ import annotations

from html import escape
from typing import Final

from flyte_notebook.views.text import clean, clean_line

NO_MATH: Final = "tex2jax_ignore mathjax_ignore"
"""Classes without which JupyterLab sets "$5 and $6" as a formula."""


def with_code(text: str) -> str:
    """Return a sentence with what stands between backticks as code."""
    pieces = clean_line(text, 600).split("`")
    if len(pieces) % 2 == 0:  # a lone backtick is just a character
        return escape("`".join(pieces))
    return "".join(
        f"<code>{escape(piece)}</code>" if index % 2 else escape(piece) for index, piece in enumerate(pieces)
    )


def line(text: str, characters: int = 300) -> str:
    """Return a text as one escaped line."""
    return escape(clean_line(text, characters))


def folded(summary: str, text: str) -> str:
    """Return a text that opens on demand; empty for an empty one."""
    text = text.strip("\n")
    if not text.strip():
        return ""
    return f'<details><summary>{summary}</summary><pre dir="auto">{escape(text)}</pre></details>'


def code_block(code: str, characters: int = 2_000) -> str:
    """Return a line or program as code, with a class by which a page finds it."""
    return f'<pre class="fnb-run">{escape(clean(code, characters))}</pre>'
