"""The text of ``%%flyte_task?``."""

from __future__ import annotations

import textwrap

from flyte_notebook.notebook.options import EXAMPLES, MAGIC, NAME_MEANING, OPTIONS

COLUMNS = 80
"""The longest line of the text."""


def help_text() -> str:
    """Return the text of ``%%flyte_task?``: every option, aligned, and examples; lines of at most `COLUMNS`."""
    rows = [("NAME", NAME_MEANING)]
    for option in OPTIONS:
        flags = f"{option.short}, {option.name}" if option.short else f"    {option.name}"
        rows.append((f"{flags} {option.metavar or ''}".rstrip(), option.meaning))
    width = max(len(left) for left, _ in rows)
    return "\n".join(
        (
            "Run this cell as a Flyte task in a process of its own, under limits that hold.",
            "",
            f"  {MAGIC} [NAME] [options]",
            "",
            *(line for left, right in rows for line in _aligned(left, right, width)),
            "",
            *textwrap.wrap(
                "Variables that the cell reads go in; names that it assigns come back when it succeeds. "
                "%config FlyteTaskMagics lists the defaults of all cells.",
                COLUMNS,
            ),
            "",
            "Examples:",
            "",
            *(f"  {example}" for example in EXAMPLES),
            "",
        )
    )


def _aligned(left: str, right: str, width: int) -> list[str]:
    first, rest = f"  {left:<{width}}  ", " " * (width + 4)
    return textwrap.wrap(right, COLUMNS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
