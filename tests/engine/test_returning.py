"""How long a worker may do nothing before its answer is there, with looks that say what they are told to."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.engine import returning
from flyte_notebook.engine.returning import Returning

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.endings import Unanswered

AT_REST = (1, 2, 3, 4)
AT_ITS_LIMIT = ("RLIMIT_AS", 10, 20)
LOOK_S = 0.01


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have looks and bounds that a test can wait for: a silence of thirty looks, or ten at a limit; steps of sixty."""
    monkeypatch.setattr(returning, "LOOK_EVERY_S", LOOK_S)
    monkeypatch.setattr(returning, "SILENT_BOUND_S", 30 * LOOK_S)
    monkeypatch.setattr(returning, "REFUSED_BOUND_S", 10 * LOOK_S)
    monkeypatch.setattr(returning, "STEP_BOUND_S", 60 * LOOK_S)


async def looked(hears: Callable[[Returning], None], *, looks: int) -> list[Unanswered]:
    """Watch for so many looks, with the worker's word before each; return with what it was given up."""
    given_up: list[Unanswered] = []
    watch = Returning(1, given_up.append)
    watch.at("pickling", "x")
    for _ in range(looks):
        await asyncio.sleep(LOOK_S)
        hears(watch)
    watch.close()
    return given_up


def given_up(
    monkeypatch: pytest.MonkeyPatch,
    activity: Callable[[int], tuple[int, ...] | None],
    *,
    reached: tuple[str, int, int] | None = None,
    looks: int = 45,
    hears: Callable[[Returning], None] = lambda _: None,
) -> list[Unanswered]:
    monkeypatch.setattr(returning.processes, "activity", activity)
    monkeypatch.setattr(returning.processes, "reached", lambda _: reached)
    return asyncio.run(looked(hears, looks=looks))


def test_a_worker_at_rest_is_given_up_after_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, with the step, the output and the time in which nothing happened."""
    (found,) = given_up(monkeypatch, lambda _: AT_REST)
    assert ("pickling", "x", None) == (found.step, found.detail, found.reached)
    assert pytest.approx(0.3) == found.silent_s


def test_a_worker_at_its_own_limit_is_given_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit: what failed there does not go on."""
    (found,) = given_up(monkeypatch, lambda _: AT_REST, reached=AT_ITS_LIMIT, looks=25)
    assert AT_ITS_LIMIT == found.reached
    assert pytest.approx(0.1) == found.silent_s


def test_a_worker_that_waits_for_a_disk_or_is_stopped_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be said of it then."""
    assert [] == given_up(monkeypatch, lambda _: None)


def test_a_worker_that_does_something_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound of silence, up to that of one step; of which it is told apart."""
    numbers = count()
    assert [] == given_up(monkeypatch, lambda _: (next(numbers),))
    (found,) = given_up(monkeypatch, lambda _: (next(numbers),), looks=90)
    assert (0.0, pytest.approx(0.6)) == (found.silent_s, found.took_s)


def test_a_word_of_the_worker_is_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bounds begin anew with each output."""
    assert [] == given_up(monkeypatch, lambda _: AT_REST, hears=lambda watch: watch.at("pickling", "y"), looks=90)
