"""Places the labels of a chart, so that they cover neither each other nor the curves. Lengths are in points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

Point: TypeAlias = tuple[float, float]

LINE_HEIGHT: Final = 1.3
"""The height of a line of text, in sizes of its letters."""

_LETTER_WIDTH: Final = 0.6  # of an average letter of a wide sans-serif face, in sizes
_STEPS: Final = 14
_STEP: Final = 7.0
_CELL: Final = 5.0
_CROSSED, _AWAY = 8.0, 1.5  # the costs of covering a cell of a curve, and of each step of distance
_TAKEN = 10_000.0  # for covering a label: more than all curves together, since neither of the two could be read
_NEAR_ENOUGH = 4 * _CROSSED  # with lower costs a near place is kept
_WIDE_STEP = 20.0
_FAR_AWAY = 4.0  # for each step of a line that leads across the picture


class Box(NamedTuple):
    """A rectangle; ``bottom`` is below ``top``."""

    left: float
    bottom: float
    right: float
    top: float

    def covers(self, other: Box) -> bool:
        """Whether the two have any area in common."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )


def text_width(text: str, size: float) -> float:
    """Estimate the width of a text; rather too wide than too narrow."""
    return len(text) * size * _LETTER_WIDTH


@dataclass(slots=True, kw_only=True)
class Placer:
    """Finds places for words inside ``room``, away from curves and from words that were placed before."""

    room: Box
    taken: list[Box] = field(default_factory=list)
    _crossed: set[tuple[int, int]] = field(default_factory=set)

    def avoid(self, curve: Sequence[Point]) -> None:
        """Keep words away from a curve: straight lines from point to point."""
        for (x, y), (to_x, to_y) in pairwise(curve):
            steps = max(int(max(abs(to_x - x), abs(to_y - y)) / _CELL), 1)
            for step in range(steps + 1):
                part = step / steps
                self._crossed.add((int((x + part * (to_x - x)) // _CELL), int((y + part * (to_y - y)) // _CELL)))

    def place(self, anchor: Point, width: float, height: float, gap: float) -> Box:
        """Return the best place near the anchor, and keep it from now on."""
        best, cost = min(self._candidates(anchor, width, height, gap), key=lambda one: one[1])
        if cost > _NEAR_ENOUGH:
            best, _ = min([(best, cost), *self._anywhere(anchor, width, height)], key=lambda one: one[1])
        self.taken.append(best)
        return best

    def _candidates(self, anchor: Point, width: float, height: float, gap: float) -> Iterator[tuple[Box, float]]:
        x, y = anchor
        for step in range(_STEPS):
            for side in (1, -1) if step else (1,):
                bottom = y + side * step * _STEP - height / 2
                for left, aside in (
                    (x + gap, 0),
                    (x - gap - width, 0),
                    (x - width / 2, 0),
                    (x - 4 * gap - width, 3),
                    (x + 4 * gap, 3),
                ):
                    box = self._inside(Box(left, bottom, left + width, bottom + height))
                    moved = abs(box.left - left) + abs(box.bottom - bottom)
                    yield box, self._cost(box) + _AWAY * (step + aside + moved / _STEP)

    def _anywhere(self, anchor: Point, width: float, height: float) -> Iterator[tuple[Box, float]]:
        """Yield places in the whole room; a line to the anchor is drawn, so the distance has a cost."""
        x, y = anchor
        for column in range(int((self.room.right - self.room.left - width) // _WIDE_STEP) + 1):
            for row in range(int((self.room.top - self.room.bottom - height) // _STEP) + 1):
                left, bottom = self.room.left + column * _WIDE_STEP, self.room.bottom + row * _STEP
                box = Box(left, bottom, left + width, bottom + height)
                aside = max(left - x, x - box.right, 0.0) + max(bottom - y, y - box.top, 0.0)
                yield box, self._cost(box) + _FAR_AWAY * aside / _STEP

    def _inside(self, box: Box) -> Box:
        right = max(self.room.left - box.left, 0.0) + min(self.room.right - box.right, 0.0)
        up = max(self.room.bottom - box.bottom, 0.0) + min(self.room.top - box.top, 0.0)
        return Box(box.left + right, box.bottom + up, box.right + right, box.top + up)

    def _cost(self, box: Box) -> float:
        columns = range(int(box.left // _CELL), int(box.right // _CELL) + 1)
        rows = range(int(box.bottom // _CELL), int(box.top // _CELL) + 1)
        crossed = sum((column, row) in self._crossed for column in columns for row in rows)
        return _TAKEN * sum(map(box.covers, self.taken)) + _CROSSED * crossed


def spread(wanted: Sequence[float], heights: Sequence[float], bottom: float, top: float) -> list[float]:
    """Return middles near the wanted ones, so that labels in a column do not overlap, in the given order.

    When they do not all fit, they fill the column from the top, and the last ones overlap its bottom.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = list(wanted)
    edge = bottom
    for index in order:  # upward, so that nothing overlaps what is below it
        placed[index] = max(wanted[index], edge + heights[index] / 2)
        edge = placed[index] + heights[index] / 2
    edge = top
    for index in reversed(order):  # and down again what went over the top
        placed[index] = min(placed[index], edge - heights[index] / 2)
        edge = placed[index] - heights[index] / 2
    return placed
