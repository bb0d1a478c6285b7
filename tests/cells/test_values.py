"""How large a value is, told without serialising it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from flyte_notebook.cells.values import deep_bytes, shallow_bytes


class Liar:
    """Raises when asked for its size."""

    def __sizeof__(self) -> int:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("value", "at_least", "at_most"),
    [
        (np.zeros(1_000_000), 8_000_000, 8_000_000),
        (b"x" * 1_000_000, 1_000_000, 1_000_100),
        ([0] * 1_000_000, 8_000_000, 8_000_100),
        (pd.DataFrame({"a": range(1_000_000)}), 8_000_000, 8_001_000),
        (pd.Series(range(1_000)), 8_000, 9_000),
        (np.ndarray, 0, 10_000),
        (Liar(), 0, 0),
    ],
)
def test_what_a_value_surely_takes(value: Any, at_least: int, at_most: int) -> None:
    """Arrays and frames say it themselves, all else by its own size."""
    assert at_least <= shallow_bytes(value) <= at_most


@pytest.mark.parametrize(
    ("value", "at_least", "at_most"),
    [
        ([0] * 1_000_000, 8_000_000, 8_100_000),
        ([float(i) for i in range(100_000)], 3_000_000, 3_500_000),
        ([b"x" * 1_000] * 1_000, 1_000_000, 1_100_000),
        (dict.fromkeys(range(1_000), b"x" * 1_000), 1_000_000, 1_200_000),
        ([], 50, 100),
    ],
)
def test_what_a_container_takes_with_its_items(value: Any, at_least: int, at_most: int) -> None:
    """Items are sampled, so that the estimate takes no time."""
    assert at_least <= deep_bytes(value) <= at_most
