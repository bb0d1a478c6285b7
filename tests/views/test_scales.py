"""Tests of the axes: units and ticks that people can read, for any span."""

from __future__ import annotations

import pytest

from flyte_notebook.views.charts.paper import TICKS, memory_scale, time_scale

MI = 2**20


@pytest.mark.parametrize(
    ("end_bytes", "unit", "ticks"),
    [
        (300 * MI, "MiB", (0, 100, 200, 300)),
        (1100 * MI, "MiB", (0, 250, 500, 750, 1000)),
        (2.2 * 2**30, "GiB", (0, 0.5, 1, 1.5, 2)),
        (1024, "B", (0, 250, 500, 750, 1000)),
        (3 * 2**40, "TiB", (0, 1, 2, 3)),
        (2**62, "EiB", (0, 1, 2, 3, 4)),
    ],
)
def test_memory_has_the_unit_in_which_its_numbers_are_short(
    end_bytes: float, unit: str, ticks: tuple[float, ...]
) -> None:
    """The unit changes where the next larger one has numbers above one and a half; ticks are round."""
    scale = memory_scale(end_bytes)
    assert (unit, ticks) == (scale.unit, scale.ticks)
    assert scale.part(end_bytes) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("end_s", "unit", "ticks"),
    [
        (0.001, "milliseconds", (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0.22, "seconds", (0, 0.05, 0.1, 0.15, 0.2)),
        (100, "seconds", (0, 20, 40, 60, 80, 100)),
        (600, "minutes", (0, 2, 4, 6, 8, 10)),
        (86_400, "hours", (0, 5, 10, 15, 20)),
    ],
)
def test_time_goes_from_milliseconds_to_hours(end_s: float, unit: str, ticks: tuple[float, ...]) -> None:
    """From one millisecond to a day the numbers are short."""
    scale = time_scale(end_s)
    assert (unit, ticks) == (scale.unit, scale.ticks)


def test_no_time_at_all_has_no_ticks() -> None:
    """An axis on which nothing happened still places zero."""
    scale = time_scale(0.0)
    assert ((), 0.0) == (scale.ticks, scale.part(0.0))


@pytest.mark.parametrize("power", range(-6, 60, 3))
def test_there_are_never_too_many_ticks(power: int) -> None:
    """Whatever the span, a few ticks, none beyond the end."""
    for factor in (1.0, 1.7, 3.3, 9.99):
        scale = memory_scale(factor * 2**power)
        assert 1 < len(scale.ticks) <= TICKS + 1
        assert scale.ticks[-1] <= scale.end
