"""From a curve that is cut off at the limit to the limit to try next, and why."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from flyte_notebook.core.next_limit import Kill, next_limit
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.core.units import parse_memory
from flyte_notebook.experiments.fitting import kept_after, recommend, would_do

MI = 1 << 20
BASE = 38 * MI
LIMIT = 250 * MI


def trace(*points: tuple[float, float], baseline_bytes: int | None = BASE) -> MemoryTrace:
    """Return a curve through points of seconds and MiB, as an attempt that was killed at the end has it."""
    memory = tuple(int(mib * MI) for _, mib in points)
    return MemoryTrace(
        times_s=tuple(time_s for time_s, _ in points),
        memory_bytes=memory,
        limit_bytes=LIMIT,
        baseline_bytes=baseline_bytes,
        peak_bytes=LIMIT,
        peak_source="kernel counter",
    )


LEAK = trace(*((step / 10, 38 + 2.1 * step) for step in range(101)), (10.1, 5))
JUMP = trace((0, 38), (0.1, 38), (3.0, 39), (3.02, 120), (3.04, 249))
SLOWER = trace(*((step / 10, 250 - 212 * 0.9**step) for step in range(8)), (4.0, 230), (4.5, 236), (5.6, 249))
KILL = Kill(limit_bytes=LIMIT, trace=JUMP)
UNKNOWN = "It was killed, so how much it needs is unknown."
AS_WELL = "as well; `%flyte fit` finds what it needs."


@pytest.mark.parametrize(
    ("kill", "expected"),
    [
        (
            replace(KILL, asked_bytes=763 * MI, before_bytes=39 * MI),
            "Try 896Mi. It was using 39 MiB and asked for 763 MiB more. Later steps may need even more.",
        ),
        (
            replace(KILL, asked_bytes=50 * MI, before_bytes=100 * MI),
            f"Try 500Mi, twice the limit. {UNKNOWN}",
        ),
        (
            replace(KILL, trace=LEAK),
            "Try 500Mi, twice the limit. It grew by 21 MiB a second until the end. This lasts about 11.9 s longer.",
        ),
        (
            replace(KILL, trace=LEAK, line_number=3, line_bytes=200 * MI),
            (
                "Try 500Mi, twice the limit. It grew by 21 MiB a second until the end, most of it on line 3. This "
                "lasts about 11.9 s longer."
            ),
        ),
        (
            replace(KILL, trace=SLOWER),
            (
                "Try 384Mi, half as much again. It was close to the limit for the last 1.6 s, so it may need only a "
                "little more."
            ),
        ),
        (
            replace(KILL, inputs_bytes=100 * MI),
            f"Try 500Mi, twice the limit. Its inputs alone are 100 MiB when serialized. {UNKNOWN}",
        ),
        (
            replace(KILL, stage="loading", inputs_bytes=400 * MI),
            "Try 848Mi. It was still reading its inputs, which are 400 MiB when serialized.",
        ),
        (
            replace(KILL, stage="loading", inputs_bytes=100 * MI),
            "Try 500Mi, twice the limit. It was still reading its inputs, which are 100 MiB when serialized.",
        ),
        (
            replace(KILL, stage="returning"),
            "Try 500Mi, twice the limit. The work itself fitted; it was killed while it returned its result.",
        ),
        (
            replace(KILL, line_number=7, line_bytes=180 * MI),
            f"Try 500Mi, twice the limit. Most of it came on line 7. {UNKNOWN}",
        ),
        (
            replace(KILL, line_number=7, line_bytes=30 * MI),
            f"Try 500Mi, twice the limit. {UNKNOWN}",
        ),
        (
            replace(KILL, machine_bytes=400 * MI),
            f"Try 400Mi, all that this machine has. {UNKNOWN}",
        ),
        (
            replace(KILL, machine_bytes=250 * MI),
            f"Try 500Mi, twice the limit, which is more than this machine has (250 MiB). {UNKNOWN}",
        ),
        (
            replace(KILL, asked_bytes=4_000 * MI, before_bytes=96 * MI, machine_bytes=2_048 * MI),
            (
                "Try 4544Mi, which is more than this machine has (2 GiB). It was using 96 MiB and asked for 3.9 GiB "
                "more. Later steps may need even more."
            ),
        ),
        (
            replace(KILL, trace=SLOWER, killed_bytes=(200 * MI, LIMIT)),
            f"Try 512Mi, at least twice the limit. It was killed at 200Mi {AS_WELL}",
        ),
        (
            replace(KILL, asked_bytes=763 * MI, before_bytes=39 * MI, killed_bytes=(100 * MI, 200 * MI)),
            f"Try 896Mi, at least twice the limit. It was killed at 100Mi and 200Mi {AS_WELL}",
        ),
    ],
)
def test_the_reason_is_what_is_known(kill: Kill, expected: str) -> None:
    """One sentence: a limit, and the fact that it comes from; the peak is a lower bound and is never called more."""
    memory_bytes, sentence = next_limit(kill)
    assert expected == sentence
    assert memory_bytes == _said(sentence)


def _said(sentence: str) -> int:
    """Return the limit that a sentence names."""
    found = re.match(r"Try (\d+\w*)", sentence)
    assert found is not None
    return parse_memory(found[1])


def test_a_leak_that_passes_near_the_limit_for_long_is_still_a_leak() -> None:
    """Slow and steady: a minute near the limit is a part of its way, not a rest."""
    slow = trace(*((float(step), 38 + 0.53 * step) for step in range(401)))
    assert "It grew by 543 KiB a second" in next_limit(replace(KILL, trace=slow))[1]


def test_any_suggestion_is_above_what_was_used_and_above_the_machine_only_where_it_says_so() -> None:
    """For any curve, allocation, inputs and machine; and the sentence names the limit that is proposed."""
    chance = random.Random(11)  # noqa: S311 - a test, not a secret
    beyond = 0
    for _ in range(5_000):
        limit_bytes = chance.randrange(1 * MI, 8_000 * MI)
        times = sorted(chance.uniform(0, 100) for _ in range(chance.randrange(30)))
        curve = [(time_s, chance.uniform(0, limit_bytes / MI)) for time_s in times]
        kill = Kill(
            limit_bytes=limit_bytes,
            trace=trace(*sorted(curve) if chance.random() < 0.5 else curve, baseline_bytes=chance.choice([None, BASE])),
            stage=chance.choice(["starting", "loading", "running", "returning", "finished"]),
            asked_bytes=chance.choice([None, chance.randrange(1, 1 << 36)]),
            before_bytes=chance.randrange(limit_bytes),
            inputs_bytes=chance.choice([0, chance.randrange(1 << 34)]),
            line_number=chance.choice([None, 3]),
            line_bytes=chance.randrange(-limit_bytes, limit_bytes),
            machine_bytes=chance.choice([None, chance.randrange(limit_bytes, 1 << 36)]),
        )
        memory_bytes, sentence = next_limit(kill)
        assert limit_bytes < memory_bytes
        assert memory_bytes == _said(sentence)
        is_beyond = kill.machine_bytes is not None and memory_bytes > kill.machine_bytes
        assert is_beyond == ("more than this machine has" in sentence)
        assert (
            kill.asked_bytes is None
            or "asked for" not in sentence
            or kill.asked_bytes + kill.before_bytes < memory_bytes
        )
        beyond += is_beyond
    assert 100 < beyond < 4_000


def test_what_would_do_after_a_success_is_above_its_peak_and_below_its_limit() -> None:
    """For any peak and limit; and nothing is said without an exact peak, or where little would be saved."""
    chance = random.Random(12)  # noqa: S311 - a test, not a secret
    said = 0
    for _ in range(5_000):
        limit_bytes = chance.randrange(40 * MI, 16_000 * MI)
        peak = MemoryTrace(peak_bytes=chance.randrange(30 * MI, limit_bytes), peak_source="kernel counter")
        kept, enough = kept_after(peak), would_do(peak, limit_bytes)
        assert kept is not None
        assert kept >= recommend(peak.peak_bytes or 0)
        if enough is not None:
            said += 1
            assert (peak.peak_bytes or 0) < enough <= limit_bytes - 64 * MI
            assert kept == enough, "one margin wherever a limit is recommended"
        assert kept_after(replace(peak, peak_source="samples")) is None
        assert would_do(replace(peak, peak_source="samples"), limit_bytes) is None
        assert would_do(peak, None) is None
    assert said > 1_000
