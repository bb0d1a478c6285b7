"""Searches the smallest memory limit that a task passes: computes from the runs the next limit, or the result.

Pure functions: the runs are started elsewhere. One run with enough memory shows the exact peak, and no limit below this
usage can pass; so one more run, just above it, proves the smallest limit. More runs are needed only if it does not
pass:

- page cache hides the needed memory (a kernel's peak includes it): the limit rises from the refused one in steps;
- the peak differs between runs: it is measured `REPEATS` times with enough memory, and the limit is above the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

MIB: Final = 1 << 20

TOLERANCE: Final = 0.05
TOLERANCE_BYTES: Final = 8 * MIB
"""The tolerance of the limit: the larger of both."""

HEADROOM: Final = 0.01
HEADROOM_BYTES: Final = MIB
"""Above a measured peak, the larger of both: the same task repeats its peak to 0.4 MiB, and the kernel charges in
batches of 64 pages for each CPU."""

CACHE_HEADROOM: Final = 0.04
CACHE_HEADROOM_BYTES: Final = 6 * MIB
"""The same for a task that reads or writes files: without room for their pages the kernel may find no page to drop, and
kills the task, by chance and more often if several tasks read at once: pages being read from disk cannot be dropped. Of
tasks that held 120 MiB and mapped 300 MiB, three at a time, half were killed with 4 MiB, and 1 of 40 with 6 or 8. It is
less than `TOLERANCE`, as the result would be too large by this amount."""

CONFIRMATIONS: Final = 2
"""How often such a task has to pass at its smallest limit, since the result also depends on chance."""

REPEATS: Final = 5
"""How often a peak is measured if it differs between runs."""

MOST_RUNS: Final = 12

TrialEnd: TypeAlias = Literal["passed", "memory", "time", "other", "unclear"]
"""How a task ended in one run: ``memory`` and ``time`` at its limits, ``unclear`` when another task ended the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The result of one run for one task, all its calls together: the highest of each value.

    ``counted_bytes`` is the smallest possible limit (`MemoryTrace.counted_bytes`), ``peak_bytes`` the peak with page
    cache; ``None`` where nothing was measured.
    """

    limit_bytes: int
    ended: TrialEnd
    peak_bytes: int | None = None
    counted_bytes: int | None = None

    @property
    def cached(self) -> bool:
        """Whether page cache makes the needed memory uncertain."""
        counted = self.counted_bytes or 0
        return (self.peak_bytes or 0) - counted > max(HEADROOM_BYTES, int(HEADROOM * counted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next step for one task: try a limit, or, when ``settled``, keep the one that was found.

    ``limit_bytes`` is ``None`` where no limit of this machine passes. ``why`` completes "run 2 ...".
    """

    limit_bytes: int | None
    settled: bool = False
    why: str = ""


def tolerance(memory_bytes: int) -> int:
    """Return the tolerance for a limit."""
    return max(TOLERANCE_BYTES, int(TOLERANCE * memory_bytes))


def edge(memory_bytes: int, *, cached: bool = False) -> int:
    """Return the limit to try above the needed memory, in whole MiB. ``cached``: page cache needs some room too."""
    part, least = (CACHE_HEADROOM, CACHE_HEADROOM_BYTES) if cached else (HEADROOM, HEADROOM_BYTES)
    return whole(memory_bytes + max(least, int(part * memory_bytes)), MIB)


def step(seen: Sequence[Measure], room_bytes: int) -> Step:
    """Return the next step after these runs, in their order. ``room_bytes`` is the largest limit of this machine."""
    refused = [measure.limit_bytes for measure in seen if measure.ended in {"memory", "time"}]
    low = max(refused, default=0)
    passed = [measure for measure in seen if measure.ended == "passed"]
    if low >= room_bytes:
        return Step(limit_bytes=None, settled=True)
    if not passed:
        return Step(limit_bytes=room_bytes, why="with room, to measure the peak")
    return _after_a_pass(passed, refused, room_bytes)


def _after_a_pass(passed: Sequence[Measure], refused: Sequence[int], room_bytes: int) -> Step:
    low, cached = max(refused, default=0), is_cached(passed)
    counted = max(measure.counted_bytes or 0 for measure in passed)
    at_edge = edge(counted, cached=cached)
    high = smallest_passing(passed, low)
    if not cached and len(passed) < REPEATS and (varies(passed) or low >= at_edge):
        return Step(limit_bytes=room_bytes, why="with room again: the peak differs from run to run")
    if high - max(low, counted) <= tolerance(high) or high <= at_edge:
        settled = not cached or sum(measure.limit_bytes == high for measure in passed) >= CONFIRMATIONS
        again = "" if settled else "the same limit again: the task reads files, so results vary"
        return Step(limit_bytes=high, settled=settled, why=again)
    if low < at_edge:
        return Step(limit_bytes=min(at_edge, high), why="just above the peak")
    return Step(
        limit_bytes=_above(low, high, passed, climbs=len(refused)), why="higher: the limit before was too small"
    )


def _above(low: int, high: int, passed: Sequence[Measure], *, climbs: int) -> int:
    """Return a limit between one that was refused and one that passed.

    For a task that reads files the peak says little: its needed memory is nearer to the refused limit.
    """
    peak = max(measure.peak_bytes or 0 for measure in passed)
    top = min(high, max(edge(peak, cached=True), whole(low + tolerance(low), MIB)))
    lowest, highest = spread(passed)
    reach = max(tolerance(low) << (climbs - 1), highest - lowest)
    climbed = whole(low + reach, MIB)
    if climbed < top:  # in whole MiB: a limit that passed already gives no new information
        return climbed
    return top if top < high else whole((low + high) // 2, MIB)


def smallest_passing(passed: Sequence[Measure], low: int) -> int:
    """Return the smallest limit that passed and is not contradicted by another run.

    A limit below the needs of another run is ignored: it passed by chance.
    """
    low = max(low + 1, *(measure.counted_bytes or 0 for measure in passed))
    return min(measure.limit_bytes for measure in passed if measure.limit_bytes >= low)


def is_cached(passed: Sequence[Measure]) -> bool:
    """Whether page cache makes the needed memory uncertain. One run without page cache is enough to know it."""
    return bool(passed) and all(measure.cached for measure in passed)


def spread(seen: Iterable[Measure]) -> tuple[int, int]:
    """Return the lowest and the highest exact peak of the passed runs; zeros without one."""
    exact = [measure.counted_bytes or 0 for measure in seen if measure.ended == "passed" and not measure.cached]
    return min(exact, default=0), max(exact, default=0)


def varies(seen: Iterable[Measure]) -> bool:
    """Whether the peak differs between runs by more than the tolerance of a limit."""
    lowest, highest = spread(seen)
    return highest - lowest > tolerance(highest)


def whole(memory_bytes: int, unit_bytes: int) -> int:
    """Round up to a whole number of units."""
    return -(-memory_bytes // unit_bytes) * unit_bytes
