"""By what a limit grows, and what is refused before anything runs."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from flyte_notebook.core.units import UnitError, parse_memory, quantity_memory
from flyte_notebook.experiments.escalation import (
    MOST_ATTEMPTS,
    Growth,
    GrowthError,
    exhausted,
    growth_of,
    listed,
    parse_growth,
)

MI = 1 << 20


def limits(text: str, first: str) -> list[str]:
    """Return the limits that a growth comes to, as quantities."""
    return [quantity_memory(limit) for limit in parse_growth(text).limits(parse_memory(first))]


@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        ("x2:4Gi", "250Mi", ["250Mi", "500Mi", "1000Mi", "2000Mi", "4000Mi", "4Gi"]),
        ("x1.5:1Gi", "250Mi", ["250Mi", "375Mi", "563Mi", "845Mi", "1Gi"]),
        ("×3:1Gi", "128Mi", ["128Mi", "384Mi", "1Gi"]),
        ("+512Mi:2Gi", "250Mi", ["250Mi", "762Mi", "1274Mi", "1786Mi", "2Gi"]),
        ("x2:1G", "250M", ["250M", "500M", "1G"]),
    ],
)
def test_a_limit_grows_up_to_the_cap_and_the_last_one_is_the_cap(text: str, first: str, expected: list[str]) -> None:
    """By a factor or a step, in quantities that people write; the cap itself is tried last."""
    assert expected == limits(text, first)


def test_any_growth_that_is_taken_climbs_strictly_and_ends_at_its_cap() -> None:
    """Each limit is above the one before, the last is the cap, and there are not too many of them."""
    chance = random.Random(7)  # noqa: S311 - a test, not a secret
    refused = 0
    for _ in range(2_000):
        first, cap = chance.randrange(1, 1 << 40), chance.randrange(1, 1 << 42)
        grows = Growth(cap_bytes=cap, factor=Fraction(chance.uniform(1.001, 10)))
        if chance.random() < 0.3:
            grows = Growth(cap_bytes=cap, step_bytes=chance.randrange(1, 1 << 38))
        try:
            found = grows.limits(first)
        except GrowthError:
            refused += 1
            continue
        assert first == found[0]
        assert cap == found[-1]
        assert all(one < other for one, other in itertools.pairwise(found))
        assert len(found) <= MOST_ATTEMPTS
    assert 0 < refused < 1_900


@pytest.mark.parametrize(
    ("text", "first", "words"),
    [
        ("x1:4Gi", "250Mi", "a factor of 1 does not grow"),
        ("x0.5:4Gi", "250Mi", "a factor of 0.5 does not grow"),
        ("x2:200Mi", "250Mi", "200Mi is below the limit of 250Mi; give more, for example 500Mi"),
        ("x2:250Mi", "250Mi", "250Mi is the limit of 250Mi"),
        ("x1.001:4Gi", "250Mi", "more than 30 attempts"),
        ("x2", "250Mi", "write x2:4Gi"),
        ("2:4Gi", "250Mi", "write x2:4Gi"),
        ("x2:", "250Mi", "write x2:4Gi"),
        ("-512Mi:4Gi", "250Mi", "write x2:4Gi"),
        ("x2:4GB", "250Mi", "4G"),
        ("+:4Gi", "250Mi", "an empty text"),
    ],
)
def test_what_cannot_grow_is_refused_with_what_would_be_right(text: str, first: str, words: str) -> None:
    """One sentence, before anything runs."""
    with pytest.raises((GrowthError, UnitError), match=words):
        limits(text, first)


def test_a_task_without_a_limit_is_refused() -> None:
    """There is nothing that could grow."""
    with pytest.raises(GrowthError, match="no memory limit that could grow"):
        parse_growth("x2:4Gi").limits(None)


@pytest.mark.parametrize("factor", [1, 0, -2, float("nan"), float("inf"), True, "2"])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    """A number above one, and nothing else."""
    with pytest.raises(GrowthError, match="give more than 1, for example 2"):
        growth_of(factor=factor, up_to="4Gi", step=None)


def test_what_was_tried_is_said() -> None:
    """Every limit in order, and what stands in the way of the next."""
    assert "250Mi" == listed([250 * MI])
    assert "tried 250Mi, 500Mi and 1Gi, which is as far as it may grow" == exhausted(
        [250 * MI, 500 * MI, 1024 * MI], next_bytes=None
    )
    assert "tried 250Mi; 64Gi is out of reach: too much" == exhausted([250 * MI], next_bytes=64 << 30, why="too much")


def test_a_factor_means_what_is_written() -> None:
    """1.1 is eleven tenths, and not the binary number next to it."""
    assert (200 * MI, 220 * MI, 240 * MI) == growth_of(factor=1.1, up_to="240Mi", step=None).limits(200 * MI)
