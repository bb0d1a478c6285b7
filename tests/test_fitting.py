"""From the runs of a fit so far to the next limit, and to what is recommended."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.experiments import fitting
from flyte_notebook.experiments.fitting import Measure, step, task_fit

if TYPE_CHECKING:
    from collections.abc import Callable

MI = 1 << 20
ROOM = 16 << 30


def search(run: Callable[[int], Measure], most: int = fitting.MOST_RUNS) -> list[Measure]:
    """Run as the search asks, until it is settled."""
    seen: list[Measure] = []
    while len(seen) < most:
        asked = step(seen, ROOM)
        if asked.settled:
            break
        assert asked.limit_bytes is not None
        assert asked.why
        seen.append(run(asked.limit_bytes))
    return seen


def needing(need: Callable[[], int], *, cache_bytes: int = 0) -> Callable[[int], Measure]:
    """Return a task that needs so much, reads files of that size, and is killed at a limit below what it needs."""

    def run(limit_bytes: int) -> Measure:
        needed = need()
        if limit_bytes < needed:
            return Measure(limit_bytes=limit_bytes, ended="memory", peak_bytes=limit_bytes, counted_bytes=limit_bytes)
        peak = min(limit_bytes, needed + cache_bytes)
        return Measure(limit_bytes=limit_bytes, ended="passed", peak_bytes=peak, counted_bytes=needed)

    return run


@pytest.mark.parametrize("need_mi", [38, 60, 154, 212, 500, 3_000, 12_000])
def test_a_task_that_repeats_itself_is_fitted_in_two_runs(need_mi: int) -> None:
    """One run with room and one at the edge; the limit is above what is needed, and 95% of it below."""
    seen = search(needing(lambda: need_mi * MI))
    assert 2 == len(seen)
    assert ROOM == seen[0].limit_bytes
    found = task_fit("t", seen, room_bytes=ROOM, declared_bytes=None)
    assert "found" == found.verdict
    assert found.memory_bytes is not None
    assert need_mi * MI < found.memory_bytes
    assert need_mi * MI > 0.95 * found.memory_bytes


def test_page_cache_is_not_counted() -> None:
    """A task that reads 2 GiB through page cache is fitted to what it holds, with room for pages, in three runs."""
    seen = search(needing(lambda: 120 * MI, cache_bytes=2_048 * MI))
    found = task_fit("t", seen, room_bytes=ROOM, declared_bytes=None)
    assert found.cached
    assert [ROOM, 126 * MI, 126 * MI] == [measure.limit_bytes for measure in seen]
    assert 126 * MI == found.memory_bytes


def test_where_page_cache_hides_the_peak_the_limit_climbs() -> None:
    """When samples missed what counted, the limit climbs in growing steps and ends within the tolerance above it."""
    need, sampled = 300 * MI, 200 * MI

    def run(limit_bytes: int) -> Measure:
        if limit_bytes < need:
            return Measure(limit_bytes=limit_bytes, ended="memory", peak_bytes=limit_bytes, counted_bytes=limit_bytes)
        peak = min(limit_bytes, 1_000 * MI)
        return Measure(limit_bytes=limit_bytes, ended="passed", peak_bytes=peak, counted_bytes=sampled)

    seen = search(run)
    found = task_fit("t", seen, room_bytes=ROOM, declared_bytes=None)
    assert found.memory_bytes is not None
    assert need <= found.memory_bytes <= 1.3 * need
    assert len(seen) < fitting.MOST_RUNS


@pytest.mark.parametrize("need_mi", range(210, 400, 7))
@pytest.mark.parametrize("sampled_mi", [200, 203, 207])
def test_no_limit_is_tried_again_without_a_reason(sampled_mi: int, need_mi: int) -> None:
    """However a climb comes out in whole MiB: one limit is tried twice only at the edge, where chance has a part."""

    def run(limit_bytes: int) -> Measure:
        if limit_bytes < need_mi * MI:
            return Measure(limit_bytes=limit_bytes, ended="memory", peak_bytes=limit_bytes, counted_bytes=limit_bytes)
        peak = min(limit_bytes, 1_000 * MI)
        return Measure(limit_bytes=limit_bytes, ended="passed", peak_bytes=peak, counted_bytes=sampled_mi * MI)

    seen = search(run)
    limits = [measure.limit_bytes for measure in seen]
    found = task_fit("t", seen, room_bytes=ROOM, declared_bytes=None)
    assert "found" == found.verdict
    assert 1 + len(set(limits)) == len(limits)
    assert need_mi * MI <= (found.memory_bytes or 0) <= need_mi * MI + fitting.tolerance(found.memory_bytes or 0)


def test_a_peak_that_differs_is_repeated_and_its_spread_is_in_the_margin() -> None:
    """A task that needs 100 to 200 MiB by chance is measured five times; spread and highest peak are told."""
    chance = random.Random(3)  # noqa: S311 - no secret
    seen = search(needing(lambda: chance.randint(100, 200) * MI))
    found = task_fit("t", seen, room_bytes=ROOM, declared_bytes=None)
    passed = [measure.counted_bytes or 0 for measure in seen if measure.ended == "passed"]
    assert 5 <= len(passed)
    assert found.varies
    assert (min(passed), max(passed)) == found.peaks
    assert found.memory_bytes is not None
    assert max(passed) <= found.memory_bytes
    assert found.margin_bytes >= max(passed) - min(passed)
    assert "chance decides" in fitting.headline(found, len(seen), room_bytes=ROOM)


def test_a_limit_that_passed_by_chance_is_not_the_smallest() -> None:
    """A limit below what another run needed does not count as passing."""
    low = Measure(limit_bytes=102 * MI, ended="passed", peak_bytes=80 * MI, counted_bytes=80 * MI)
    high = Measure(limit_bytes=ROOM, ended="passed", peak_bytes=130 * MI, counted_bytes=130 * MI)
    settled = step([high, low, high, high, high], ROOM)
    assert (False, 132 * MI) == (settled.settled, settled.limit_bytes)


def test_what_is_killed_with_all_the_room_there_is_fits_nowhere_here() -> None:
    """After one run that was killed at the limit of the machine there is nothing to search."""
    seen = search(needing(lambda: 2 * ROOM))
    assert 1 == len(seen)
    found = task_fit("t", seen, room_bytes=ROOM, declared_bytes=None)
    assert ("never_fits", None) == (found.verdict, found.memory_bytes)


def test_an_interrupted_search_keeps_what_it_measured() -> None:
    """After the first run the peak is known, and no limit is claimed."""
    seen = search(needing(lambda: 150 * MI), most=1)
    found = task_fit("t", seen, room_bytes=ROOM, declared_bytes=None, interrupted=True)
    assert ("interrupted", 150 * MI, None) == (found.verdict, found.peak_bytes, found.memory_bytes)
    assert "its peak was 150 MiB" in fitting.headline(found, 1, room_bytes=ROOM)


def test_the_recommendation_is_the_sum_that_it_says() -> None:
    """What passes, what a pod holds more and the margin make the recommendation, a whole number of 16 MiB."""
    found = task_fit("t", search(needing(lambda: 400 * MI)), room_bytes=ROOM, declared_bytes=None)
    assert (404 * MI, 464 * MI) == (found.memory_bytes, found.recommended_bytes)
    assert found.recommended_bytes == (found.memory_bytes or 0) + found.pod_bytes + found.margin_bytes


def test_what_others_would_say() -> None:
    """VPA and KRR take 15% above a peak, doubling twice what is declared until it passes; too little is marked."""
    found = task_fit("t", search(needing(lambda: 400 * MI)), room_bytes=ROOM, declared_bytes=128 * MI)
    said = {one.who: (one.memory_bytes // MI, one.passes) for one in found.others}
    assert {"VPA": (460, True), "KRR": (460, True), "doubling": (512, True)} == said
    few = fitting.others_say([100 * MI, 100 * MI, 300 * MI], declared_bytes=None, memory_bytes=303 * MI)
    assert [("VPA", 299, False), ("KRR", 345, True), ("doubling", 512, True)] == [
        (one.who, one.memory_bytes // MI, one.passes) for one in few
    ]


@pytest.mark.parametrize(
    ("words", "peak_mi", "limit_mi", "source"),
    [
        ("256Mi", 212, 1_024, "kernel counter"),
        ("", 212, 256, "kernel counter"),
        ("", 40, 120, "kernel counter"),
        ("", 212, 1_024, "samples"),
    ],
)
def test_a_limit_is_called_too_large_only_when_it_is(words: str, peak_mi: int, limit_mi: int, source: str) -> None:
    """Below half of the limit and with 64 MiB to save, and where the kernel counted the peak; else nothing is said."""
    trace = MemoryTrace(peak_bytes=peak_mi * MI, peak_source=source)
    enough = fitting.would_do(trace, limit_mi * MI)
    assert words == ("" if enough is None else f"{enough // MI}Mi")


def test_what_counts_is_the_peak_less_page_cache_but_never_below_a_sample() -> None:
    """The larger of both bounds; nothing where nothing was measured."""
    assert 300 == MemoryTrace(peak_bytes=1_000, page_cache_bytes=700, memory_bytes=(100, 250)).counted_bytes
    assert 400 == MemoryTrace(peak_bytes=1_000, page_cache_bytes=700, memory_bytes=(100, 400)).counted_bytes
    assert 100 == MemoryTrace(memory_bytes=(100,)).counted_bytes
    assert MemoryTrace().counted_bytes is None
