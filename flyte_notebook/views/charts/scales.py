"""Axes with readable numbers: the unit, the end and the ticks."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

TICKS: Final = 5
"""The maximum number of ticks above zero on an axis."""

_MEMORY_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_TIME_UNITS: Final = ((7_200, 3_600, "hours"), (120, 60, "minutes"), (0.1, 1, "seconds"), (0, 0.001, "milliseconds"))
_ENOUGH: Final = 1.5  # of a unit; below it the next smaller unit is easier to read


class Scale(NamedTuple):
    """One axis from zero: the size of its unit in bytes or seconds, its name, its end and its ticks in units."""

    size: float
    unit: str
    end: float
    ticks: tuple[float, ...]

    def part(self, value: float) -> float:
        """Return the position of a value in bytes or seconds, as a part of the axis."""
        return value / self.size / self.end


def memory_scale(end_bytes: float) -> Scale:
    """Return an axis that ends at that many bytes."""
    size, unit = 1.0, _MEMORY_UNITS[0]
    for larger in _MEMORY_UNITS[1:]:
        if end_bytes < _ENOUGH * size * 1024:
            break
        size, unit = size * 1024, larger
    return _scale(end_bytes, size, unit)


def time_scale(end_s: float) -> Scale:
    """Return an axis that ends at that many seconds; without ticks if no time passed."""
    size, unit = next((size, unit) for least, size, unit in _TIME_UNITS if end_s >= least)
    return _scale(end_s, size, unit)


def _scale(end: float, size: float, unit: str) -> Scale:
    if end <= 0:
        return Scale(size=size, unit=unit, end=1.0, ticks=())
    in_units = end / size
    magnitude = 10 ** math.floor(math.log10(in_units / TICKS))
    step = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= in_units / TICKS * 0.999)
    ticks = tuple(round(number * step, 12) for number in range(int(in_units / step) + 1))
    return Scale(size=size, unit=unit, end=in_units, ticks=ticks)
