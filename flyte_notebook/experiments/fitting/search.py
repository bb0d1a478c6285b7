"""The smallest memory limit that a task passes: from the runs so far to the next limit to try, or to the conclusion.

Pure: runs are started elsewhere. One run with room shows the exact peak, and no limit below what was in use at one
time can pass; so one more run, just above that, proves the edge. Only where it does not hold is there more to do:

- page cache hides what counts (a kernel's peak includes it): the limit climbs from the refused one in growing steps;
- the peak differs from run to run: it is measured `REPEATS` times with room, and the edge is above the highest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MIB: Final = 1 << 20

TOLERANCE: Final = 0.05
TOLERANCE_BYTES: Final = 8 * MIB
"""The limit is found to within the larger of both."""

HEADROOM: Final = 0.01
HEADROOM_BYTES: Final = MIB
"""Above a measured peak, the larger of both: the same task repeats its peak to 0.4 MiB, and the kernel charges in
batches of 64 pages for each CPU."""

CACHE_HEADROOM: Final = 0.04
CACHE_HEADROOM_BYTES: Final = 6 * MIB
"""The same for a task that reads or writes files: with no room at all for their pages the kernel finds none to drop,
and kills, by chance and more often where several read at once: pages on their way from the disk cannot be dropped. Of
tasks that held 120 MiB and mapped 300 MiB, three at a time, half were killed with 4 MiB, and 1 of 40 with 6 or 8. Not
as much as `TOLERANCE`: what is found would then be too much by all of that."""

CONFIRMATIONS: Final = 2
"""So often such a task has to pass at its edge, since chance has a part in it."""

REPEATS: Final = 5
"""How often a peak is measured that differs from run to run."""

MOST_RUNS: Final = 12

TrialEnd: TypeAlias = Literal["passed", "memory", "time", "other", "unclear"]
"""How a task ended in one run: ``memory`` and ``time`` at its limits, ``unclear`` when another task ended the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What one run showed of one task, all its calls in that run together: the highest of each.

    ``counted_bytes`` is the least that a limit has to hold (`MemoryTrace.counted_bytes`), ``peak_bytes`` the most, with
    page cache; ``None`` where nothing was measured.
    """

    limit_bytes: int
    ended: TrialEnd
    peak_bytes: int | None = None
    counted_bytes: int | None = None

    @property
    def cached(self) -> bool:
        """Whether page cache leaves open how much counted."""
        counted = self.counted_bytes or 0
        return (self.peak_bytes or 0) - counted > max(HEADROOM_BYTES, int(HEADROOM * counted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do about one task: try a limit, or, when ``settled``, stay at the one that was found.

    ``limit_bytes`` is ``None`` where no limit of this machine passes. ``why`` completes "run 2 ...".
    """

    limit_bytes: int | None
    settled: bool = False
    why: str = ""


def tolerance(memory_bytes: int) -> int:
    """Return to within how much a limit is to be found."""
    return max(TOLERANCE_BYTES, int(TOLERANCE * memory_bytes))


def edge(memory_bytes: int, *, cached: bool = False) -> int:
    """Return the limit to try above what counts, in whole MiB. ``cached``: page cache needs some room too."""
    part, least = (CACHE_HEADROOM, CACHE_HEADROOM_BYTES) if cached else (HEADROOM, HEADROOM_BYTES)
    return whole(memory_bytes + max(least, int(part * memory_bytes)), MIB)


def step(seen: Sequence[Measure], room_bytes: int) -> Step:
    """Return what to do after these runs, in their order. ``room_bytes`` is the largest limit of this machine."""
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
        again = "" if settled else "at the edge again: it reads files, and chance has a part in it"
        return Step(limit_bytes=high, settled=settled, why=again)
    if low < at_edge:
        return Step(limit_bytes=min(at_edge, high), why="at the edge")
    return Step(limit_bytes=_above(low, high, passed, climbs=len(refused)), why="further up: the edge did not hold")


def _above(low: int, high: int, passed: Sequence[Measure], *, climbs: int) -> int:
    """Return a limit between one that was refused and one that passed.

    Of a task that reads files the peak says little, and what it needs is nearer to the refused limit.
    """
    peak = max(measure.peak_bytes or 0 for measure in passed)
    top = min(high, max(edge(peak, cached=True), whole(low + tolerance(low), MIB)))
    lowest, highest = spread(passed)
    reach = max(tolerance(low) << (climbs - 1), highest - lowest)
    climbed = whole(low + reach, MIB)
    if climbed < top:  # in whole MiB: what passed already says nothing new
        return climbed
    return top if top < high else whole((low + high) // 2, MIB)


def smallest_passing(passed: Sequence[Measure], low: int) -> int:
    """Return the smallest limit that passed and that nothing speaks against.

    Not one below what another run needed: it passed by chance.
    """
    low = max(low + 1, *(measure.counted_bytes or 0 for measure in passed))
    return min(measure.limit_bytes for measure in passed if measure.limit_bytes >= low)


def is_cached(passed: Sequence[Measure]) -> bool:
    """Whether page cache leaves open what counts. One run without any tells it, though the first had read its files."""
    return bool(passed) and all(measure.cached for measure in passed)


def spread(seen: Iterable[Measure]) -> tuple[int, int]:
    """Return the lowest and the highest peak of the runs that passed and tell it exactly; zeros without one."""
    exact = [measure.counted_bytes or 0 for measure in seen if measure.ended == "passed" and not measure.cached]
    return min(exact, default=0), max(exact, default=0)


def varies(seen: Iterable[Measure]) -> bool:
    """Whether the peak differs from run to run by more than a limit is found to."""
    lowest, highest = spread(seen)
    return highest - lowest > tolerance(highest)


def whole(memory_bytes: int, unit_bytes: int) -> int:
    """Return the smallest whole number of units that is not below."""
    return -(-memory_bytes // unit_bytes) * unit_bytes
