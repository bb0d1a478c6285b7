"""Saved runs as a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flyte_notebook.history import Runs
from flyte_notebook.views.experiments.comparison import HEAD, row_cells, rows_of
from flyte_notebook.views.markup import columns, section, table
from flyte_notebook.views.style import style_of
from flyte_notebook.views.text import clean_line

if TYPE_CHECKING:
    from flyte_notebook.history import Run

MAX_RUNS: Final = 50

_CLASS: Final = "flyte-notebook-saved"
_STYLE: Final = style_of(_CLASS) + (
    f".{_CLASS}{{--fnb-bad:var(--fnb-used)}}\n.{_CLASS} .fnb-body td:nth-child(n+4){{white-space:nowrap}}\n"
)


class SavedRuns(Runs):
    """Runs that were saved, the newest last; they show themselves, as text in a terminal and as HTML in a notebook."""

    def __str__(self) -> str:
        return saved_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return saved_html(self)


def saved_text(runs: Runs) -> str:
    """Return runs as a table of text, the newest at the bottom."""
    if not runs:
        return "no run is saved\n"
    rows = columns([("run", "saved", *HEAD), *map(_cells, runs[-MAX_RUNS:])])
    return "\n".join([*rows, *_more(runs)]) + "\n"


def saved_html(runs: Runs) -> str:
    """Return runs as one ``section`` element without scripts, safe for any input."""
    cells = list(map(_cells, runs[-MAX_RUNS:]))
    more = "".join(f'<p class="fnb-soft">{words}</p>' for words in _more(runs))
    body = table(("run", "saved", *HEAD), cells, "Saved runs") if cells else "<p>no run is saved</p>"
    return section(_CLASS, "Saved runs", _STYLE, f"{body}{more}")


def _cells(run: Run) -> tuple[str, ...]:
    (row,) = rows_of([run], {})
    return clean_line(run.name, 48), run.saved_words or "-", *row_cells(row)


def _more(runs: Runs) -> list[str]:
    more = len(runs) - MAX_RUNS
    return [f"{more:,} earlier runs are not shown"] if more > 0 else []
