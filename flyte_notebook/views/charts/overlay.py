"""Memory of several runs over each other: peers, each in its own colour and dashes, with a row of a key below.

Labels at the ends of curves, as in the chart of one failure, would overlap if the runs are similar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flyte_notebook.core.units import format_memory
from flyte_notebook.views.charts.chart import DASHES, LEFT, Canvas
from flyte_notebook.views.charts.paper import BAD, SIZE, TEXT
from flyte_notebook.views.text import clean_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.views.lines import Line

# Dark enough for a white ground, and apart from each other and from the red of a kill in a dark theme as well, where
# the page inverts the picture and turns its hues back.
COLORS: Final = ("#1d5aa6", "#b45309", "#0f766e", "#7b3fa0", "#4d7c0f", "#5b6470")

ROW: Final = 17.0
SAMPLE: Final = 30.0
_FIRST: Final = 44.0
_LETTER: Final = 0.55 * SIZE  # about as wide as a letter is on average, rather too wide than too narrow
_LEAST: Final = 12  # letters of a label that are always kept


class Overlay(Canvas):
    """Draws lines that are equally important."""

    BELOW = ROW

    def curves(self, drawn: Sequence[Line], near: Sequence[int]) -> None:  # noqa: ARG002 - no words to keep off a limit
        """Draw the lines, and the key below the axis."""
        for place, line in enumerate(drawn):
            age = len(drawn) - 1 - place
            self._curve(line, age)
            self._end(line, age)
            self._key(line, age, -_FIRST - ROW * place)

    def _look(self, age: int) -> tuple[str, float]:
        return COLORS[age % len(COLORS)], 1.9

    def _key(self, line: Line, age: int, y: float) -> None:
        color, width = self._look(age)
        style = "solid" if not age else (0, DASHES[(age - 1) % len(DASHES)])
        self._line([(0, y), (SAMPLE, y)], color, width, style)
        if line.killed:
            self._mark((SAMPLE / 2, y), "x", BAD, 7)
        else:
            self._mark((SAMPLE / 2, y), "o" if line.passed else "s", color, 5, hollow=not line.passed)
        words = f" · {key_words(line)}"
        letters = int((self.whole - LEFT - SAMPLE - 8) / _LETTER)
        label = clean_line(line.label, max(letters - len(words), _LEAST))
        self._say(SAMPLE + 8, y, label + words, color=TEXT)


def key_words(line: Line) -> str:
    """Return how a line ended, and its peak against its limit."""
    peak = "memory not measured" if line.peak_bytes is None else format_memory(line.peak_bytes)
    least = "at least " if line.trace.peak_source == "samples" and line.peak_bytes is not None else ""
    limit = ", no limit" if line.trace.limit_bytes is None else f" of {format_memory(line.trace.limit_bytes)}"
    return f"{line.word}, {least}{peak}{limit}"
