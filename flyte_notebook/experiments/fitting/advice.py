"""Computes the limit to keep from the smallest that passes; and the limits that other methods would choose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flyte_notebook.experiments.fitting.search import MIB, edge, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyte_notebook.core.trace import MemoryTrace

POD_BYTES: Final = 10 * MIB
"""The extra memory of a Flyte pod's own entry point, compared with a worker here: with 2.12.1 the smallest limit at
which ``a0`` passes was 9.1 to 10.7 MiB above the peak here, for tasks of 0 to 300 MiB (``benchmarks/bench_fit.py``
measures it)."""

MARGIN: Final = 0.10
"""The margin of a recommendation, for unmeasured cases: another input, CPU or version of a library."""

STEP_BYTES: Final = 16 * MIB
COARSE_STEP_BYTES: Final = 64 * MIB
"""A recommendation is a whole number of the first unit, from 1 GiB on of the second."""

WORTH_SAVING_BYTES: Final = 64 * MIB
ROOMY: Final = 0.5
"""A limit is called too large when the peak is below this part of it, and at least this much would be saved."""

FIRST_GUESS_BYTES: Final = 256 * MIB
"""The start of doubling when no limit is declared."""

PERCENTILE: Final = 0.9
FACTOR: Final = 1.15


def recommend(memory_bytes: int, *, spread_bytes: int = 0) -> int:
    """Return the limit to keep for this smallest passing limit: plus a pod's extra memory, and a margin."""
    margin = max(int(MARGIN * memory_bytes), spread_bytes)
    wanted = memory_bytes + POD_BYTES + margin
    return whole(wanted, STEP_BYTES if wanted < 1024 * MIB else COARSE_STEP_BYTES)


def would_do(trace: MemoryTrace, limit_bytes: int | None) -> int | None:
    """Return a sufficient limit for a run that passed with far more than it needed, ``None`` for any other run."""
    enough = kept_after(trace)
    if limit_bytes is None or trace.peak_bytes is None or enough is None or trace.peak_bytes >= ROOMY * limit_bytes:
        return None
    return enough if limit_bytes - enough >= WORTH_SAVING_BYTES else None


def kept_after(trace: MemoryTrace) -> int | None:
    """Return the limit to keep after one run that passed, ``None`` if its peak is not known exactly.

    It includes page cache in the peak, and the same margin as a fit: another run may need a little more.
    """
    if trace.peak_bytes is None or trace.peak_source != "kernel counter":
        return None
    return recommend(edge(trace.peak_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Saying:
    """The limit that another method would choose. ``passes`` is ``None`` where the smallest limit is not known."""

    who: str
    how: str
    memory_bytes: int
    passes: bool | None


def others_say(peaks: Sequence[int], *, declared_bytes: int | None, memory_bytes: int | None) -> tuple[Saying, ...]:
    """Return the limits that the autoscaler of Kubernetes (VPA), KRR and doubling would choose for the same runs.

    VPA takes the 90th percentile of the peaks, KRR the highest, both times 1.15; both sample every 15 s or more, and
    would measure less than the ``peaks`` here. Doubling begins at the declared limit, else at 256Mi. ``memory_bytes``
    is the smallest limit that passes, ``None`` where it is not known.
    """
    peaks = sorted(peaks)
    if not peaks:
        return ()
    place = PERCENTILE * (len(peaks) - 1)
    below, above = peaks[math.floor(place)], peaks[math.ceil(place)]
    ninth = below + (above - below) * (place - math.floor(place))
    doubled = declared_bytes or FIRST_GUESS_BYTES
    needed, tries = memory_bytes or peaks[-1], 1
    while doubled < needed:
        doubled, tries = 2 * doubled, tries + 1
    said = (
        ("VPA", "p90 × 1.15", whole(int(ninth * FACTOR), MIB)),
        ("KRR", "peak × 1.15", whole(int(peaks[-1] * FACTOR), MIB)),
        ("doubling", f"{tries - 1} failed run{'' if tries == 2 else 's'}" if tries > 1 else "no step down", doubled),  # noqa: PLR2004 - one
    )
    return tuple(
        Saying(who=who, how=how, memory_bytes=size, passes=None if memory_bytes is None else size >= memory_bytes)
        for who, how, size in said
    )
