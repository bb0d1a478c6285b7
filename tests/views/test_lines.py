"""Tests of what a memory chart shows: which lines, how they ended, thinned without losing a peak, told in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from failures import MI, OOM

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Outcome, Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Attempt, Run
from flyte_notebook.views.lines import Line, bars_of, chart_words, lines_of, thinned, together

DONE = Success(answer=b"", report=WorkerReport())
TRACE = MemoryTrace(
    times_s=(0.0, 0.1, 0.2), memory_bytes=(1, 90 * MI, 60 * MI), peak_bytes=100 * MI, peak_source="kernel counter"
)


def attempt(outcome: Outcome, *, worker: str = OOM.worker, limit_mi: int | None = 250, peak_mi: int = 100) -> Attempt:
    limits = Limits(memory_bytes=None if limit_mi is None else limit_mi * MI)
    trace = replace(TRACE, peak_bytes=peak_mi * MI)
    return Attempt(number=1, worker=worker, limits=limits, outcome=outcome, trace=trace, duration_s=0.3)


def line(label: str = "attempt 1", trace: MemoryTrace = TRACE, **how: bool) -> Line:
    return Line(label=label, trace=trace, **{"killed": False, "passed": False} | how)


@pytest.mark.parametrize(
    ("reason", "killed", "word"),
    [
        ("memory", True, "killed"),
        ("machine_memory", True, "killed"),
        ("max_runtime", True, "timed out"),
        ("deadline", True, "timed out"),
        ("stopped", True, "stopped"),
        ("signalled", True, "crashed"),
        ("raised", False, "failed"),
        ("exited", False, "failed"),
    ],
)
def test_a_failed_attempt_says_how_it_ended(reason: str, killed: bool, word: str) -> None:  # noqa: FBT001 - expected value
    """What did not end by itself has the kill mark, and the word says what it was."""
    (found,) = lines_of([("attempt 1", attempt(replace(OOM, reason=reason)))])
    assert (killed, False, word) == (found.killed, found.passed, found.word)


def test_a_success_passed_and_a_parent_of_what_was_killed_was_not_killed_itself() -> None:
    """Only the attempt that the error came from has the kill mark."""
    passed, parent = lines_of([("rerun 1 (1Gi)", attempt(DONE)), ("attempt 1", attempt(OOM, worker="the-caller"))])
    assert ("rerun 1 (1Gi)", True, False, "passed") == (passed.label, passed.passed, passed.killed, passed.word)
    assert (False, False, "failed") == (parent.passed, parent.killed, parent.word)


def ended(memory_mi: list[int], outcome: Outcome, *, end_s: float = 0.5) -> list[int]:
    """Return what is drawn of an attempt with these samples, in MiB."""
    count = len(memory_mi)
    times = [end_s * (index + 1) / count for index in range(count)]
    samples = MemoryTrace(times_s=times, memory_bytes=[size * MI for size in memory_mi], baseline_bytes=36 * MI)
    (found,) = lines_of([("a", replace(attempt(outcome), trace=samples))])
    assert len(found.trace.times_s) == len(found.trace.memory_bytes)
    return [size // MI for size in found.trace.memory_bytes]


def test_what_the_kernel_frees_after_the_end_is_not_the_task() -> None:
    """A kill is drawn where it hit; a process that ended by itself keeps what it freed before, not its own going."""
    assert [10, 36, 120, 120] == ended([10, 36, 120, 120, 80, 20, 0], OOM)
    assert [10, 36, 120, 40] == ended([10, 36, 120, 40, 20, 0], DONE)
    assert [10, 36, 120, 40] == ended([10, 36, 120, 40], DONE)
    assert [10, 36, 120, 110] == ended([10, 36, 120, 110], OOM)
    assert [10, 0] == ended([10, 0], OOM, end_s=100)
    assert [10] == ended([10], OOM)


def test_the_limit_of_the_attempt_is_drawn_also_when_its_trace_does_not_know_it() -> None:
    """A trace without a limit of its own gets the attempt's; no limit stays none."""
    limited, free = lines_of([("a", attempt(DONE)), ("b", attempt(DONE, limit_mi=None))])
    assert (250 * MI, None) == (limited.trace.limit_bytes, free.trace.limit_bytes)


def test_a_peak_is_the_higher_of_counter_and_samples() -> None:
    """Nothing measured gives none; a line that was killed at its limit reached it."""
    assert 100 * MI == line().peak_bytes
    assert 90 * MI == line(trace=replace(TRACE, peak_bytes=None)).peak_bytes
    assert line(trace=MemoryTrace()).peak_bytes is None
    assert line(trace=replace(TRACE, limit_bytes=100 * MI), killed=True).reached_limit
    assert not line(trace=replace(TRACE, limit_bytes=100 * MI)).reached_limit
    assert not line(trace=replace(TRACE, limit_bytes=200 * MI), killed=True).reached_limit


def test_the_chart_is_told_in_words() -> None:
    """The last lines with what each used, of how much, how it ended and when; the rest is a number."""
    killed = line(trace=replace(TRACE, limit_bytes=100 * MI, baseline_bytes=36 * MI), killed=True)
    passed = line("rerun 1 (1Gi)", replace(TRACE, limit_bytes=2**30, peak_source="samples"), passed=True)
    assert (
        "Chart of memory over 0.2 s: attempt 1 used up to 100 MiB of 100 MiB allowed and was killed after 0.2 s; "
        "rerun 1 (1Gi) used at least 100 MiB of 1 GiB allowed and passed after 0.2 s."
    ) == chart_words([killed, passed])
    assert "Interpreter and imports take 36 MiB of it." in chart_words([killed])
    assert chart_words([killed] * 50).endswith(" 47 earlier attempts are not described.")
    assert "with no limit and failed" in chart_words([line()])
    assert "Chart of memory over time: no memory was measured." == chart_words([line(trace=MemoryTrace())])
    assert "Chart of memory over time: no memory was measured." == chart_words([])


def test_thinning_keeps_every_peak() -> None:
    """A spike of one sample in two thousand stays, as do both ends, in time order, in about so many points."""
    times = [index / 100 for index in range(2_000)]
    memory = [50 * MI + index for index in range(2_000)]
    for spike in (3, 777, 1_998):
        memory[spike] = 200 * MI + spike
    found_times, found = thinned(MemoryTrace(times_s=times, memory_bytes=memory), 500)
    assert {200 * MI + 3, 200 * MI + 777, 200 * MI + 1_998} <= set(found)
    assert (times[0], times[-1], memory[0], memory[-1]) == (found_times[0], found_times[-1], found[0], found[-1])
    assert sorted(found_times) == found_times
    assert 300 < len(found) <= 502


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_a_short_trace_is_not_thinned(count: int) -> None:
    """What fits stays as it is, also nothing at all."""
    times, memory = [float(index) for index in range(count)], list(range(count))
    assert (times, memory) == thinned(MemoryTrace(times_s=times, memory_bytes=memory), 500)


def test_samples_of_one_moment_can_be_thinned() -> None:
    """Times that do not differ divide by nothing, and the highest sample stays."""
    times, memory = thinned(MemoryTrace(times_s=[1.0] * 900, memory_bytes=[*range(899), 0]), 100)
    assert 898 in memory
    assert len(times) == len(memory) < 100


def test_neighbours_that_ended_alike_share_their_words() -> None:
    """Two are named, more are a range; another ending or a place further away has words of its own."""
    ends = [(line(f"attempt {number}", killed=True), (float(10 * number), 0.0)) for number in range(1, 6)]
    assert ["attempt 1 to attempt 5: killed"] == [words for words, _ in together(ends, reach=11)]
    assert ["attempt 1 and attempt 2: killed"] == [words for words, _ in together(ends[:2], reach=11)]
    assert 5 == len(together(ends, reach=9))
    other = (line("attempt 6"), (50.0, 0.0))
    assert ["attempt 5: killed", "attempt 6: failed"] == [words for words, _ in together([ends[4], other], reach=11)]


def test_bars_are_actions_by_their_highest_peak() -> None:
    """One bar for each action that was measured, with the limit of the attempt that went highest."""
    run = Run(name="run", task_name="map")
    run.begin_action("a0", "low", None, Limits()).attempts.append(attempt(DONE, peak_mi=40))
    retried = run.begin_action("a1", "high", "a0", Limits()).attempts
    retried += [attempt(OOM, peak_mi=250), attempt(DONE, peak_mi=240, limit_mi=500)]
    run.begin_action("a2", "failed", "a0", Limits()).attempts.append(attempt(OOM, peak_mi=100, limit_mi=None))
    run.begin_action("a3", "running", "a0", Limits())
    bars = bars_of(run)
    assert ["high a1", "failed a2", "low a0"] == [bar.name for bar in bars]
    assert [("", "retried"), ("OOMError", "retried"), ("", "")] == [(bar.error, bar.note) for bar in bars]
    assert [250 * MI, None, 250 * MI] == [bar.limit_bytes for bar in bars]
