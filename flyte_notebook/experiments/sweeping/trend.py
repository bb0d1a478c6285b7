"""A straight line through measurements: memory over the values of an input, with a prediction for the next value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

GOOD: Final = 0.9
"""The smallest R² (explained part of the differences) for which the line is used for a prediction."""

FLAT: Final = 0.02
FLAT_BYTES: Final = 2 << 20
"""If memory differs by less than the larger of both, it does not depend on the input."""

_SAME: Final = 1e-6
_THREE: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """``memory = base_bytes + slope_bytes * x``, by least squares over ``count`` values.

    ``r_squared`` is the part of the differences that the line explains, ``None`` for two values, where it has no
    meaning, and if there are no differences. ``worst_bytes`` is the largest error of the line, ``apart_bytes`` the
    difference of the lowest and the highest peak; ``flat``: it is too small to say that memory depends on the input.
    ``next_value`` is the next value, and ``next_bytes`` the prediction for it, which is not measured; ``None`` if the
    line is not good enough.
    """

    base_bytes: float
    slope_bytes: float
    r_squared: float | None
    worst_bytes: float
    apart_bytes: float
    count: int
    flat: bool
    next_value: float
    next_bytes: float | None

    def at(self, value: float) -> float:
        """Return the line's memory for a value, in bytes."""
        return self.base_bytes + self.slope_bytes * value


def trend_of(points: Sequence[tuple[float, int]], following: Sequence[float] = ()) -> Trend | None:
    """Return the line through pairs of value and memory in bytes; ``None`` for fewer than two values.

    ``following`` are all tried values, those of ``points`` when empty. The next value is the smallest of them without a
    result, since no limit was sufficient; else the one that would follow.
    """
    points = sorted((value, memory_bytes) for value, memory_bytes in points if math.isfinite(value))
    values = [float(value) for value, _ in points]
    if len(set(values)) < 2:  # noqa: PLR2004 - two points make a line
        return None
    sizes = [float(memory_bytes) for _, memory_bytes in points]
    middle, level = sum(values) / len(values), sum(sizes) / len(sizes)
    wide = sum((value - middle) ** 2 for value in values)
    flat = max(sizes) - min(sizes) <= max(FLAT_BYTES, FLAT * level)
    slope = sum((value - middle) * (size - level) for value, size in zip(values, sizes, strict=True)) / wide
    slope = 0.0 if flat else slope  # without a real slope there must be no extrapolation
    base = level - slope * middle
    off = [size - base - slope * value for value, size in zip(values, sizes, strict=True)]
    apart = sum((size - level) ** 2 for size in sizes)
    r_squared = None if len(values) < _THREE or flat or not apart else 1 - sum(one**2 for one in off) / apart
    refused = [value for value in following if value > values[-1]]
    said = min(refused, default=next_of(following or values))
    predicted = base + slope * said
    good = flat or r_squared is None or r_squared >= GOOD
    return Trend(
        base_bytes=base,
        slope_bytes=slope,
        r_squared=r_squared,
        worst_bytes=max(map(abs, off)),
        apart_bytes=max(sizes) - min(sizes),
        count=len(values),
        flat=flat,
        next_value=said,
        next_bytes=predicted if good and predicted > 0 else None,
    )


def next_of(values: Sequence[float]) -> float:
    """Return the next value of the series: by the same factor or step if there is one, else twice the largest."""
    values = sorted(values)
    last = values[-1]
    if len(values) >= _THREE:
        factors = [after / before for before, after in pairwise(values) if before > 0]
        if len(factors) == len(values) - 1 and _alike(factors):
            return _whole(last * factors[-1], values)
        steps = [after - before for before, after in pairwise(values)]
        if _alike(steps):
            return _whole(last + steps[-1], values)
    return _whole(2 * last if last > 0 else last + abs(values[-1] - values[-2]), values)


def _alike(numbers: Sequence[float]) -> bool:
    return max(numbers) - min(numbers) <= _SAME * max(map(abs, numbers))


def _whole(value: float, values: Sequence[float]) -> float:
    """Return a whole number if all the others are whole."""
    return round(value) if all(isinstance(one, int) for one in values) else value
