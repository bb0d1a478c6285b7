"""Rows of words as a table, in a terminal and in a page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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
