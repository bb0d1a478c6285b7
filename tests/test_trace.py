"""Tests of the memory trace: bounded however long a task runs, dense where it is short, never without its peak."""

from __future__ import annotations

import json
import pickle
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.core.trace import MAX_POINTS, MemoryTrace, TraceRecorder, compact_sizes, compact_times

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0


def _sampled(recorder: TraceRecorder, until_s: float, *, peak_at_s: float = -1.0) -> None:
    """Feed a recorder as a sampler does, at the interval it asks for, with one high sample."""
    time_s, peaked = 0.0, False
    while time_s <= until_s:
        peak = not peaked and 0 <= peak_at_s <= time_s
        peaked |= peak
        recorder.add(time_s, 10_000 if peak else int(time_s) % 100)
        time_s += recorder.interval_s


@pytest.mark.parametrize("peak_at_s", [0.3, 20.0, DAY_S / 2, DAY_S - 100])
def test_a_day_stays_bounded_and_keeps_its_peak(peak_at_s: float) -> None:
    """A task of 24 hours gives at most 2,000 points, in time order, and its one high sample is among them."""
    recorder = TraceRecorder()
    _sampled(recorder, DAY_S, peak_at_s=peak_at_s)
    times = [time_s for time_s, _ in recorder.points]
    assert MAX_POINTS == 2_000
    assert len(times) <= MAX_POINTS
    assert sorted(set(times)) == times
    assert recorder.highest_bytes == 10_000
    at_s = next(time_s for time_s, memory_bytes in recorder.points if memory_bytes == 10_000)
    assert peak_at_s == pytest.approx(at_s, abs=2 * recorder.interval_s)


def test_a_day_is_covered_from_end_to_end() -> None:
    """The points of a long run reach over all of it, without a gap of more than a few intervals."""
    recorder = TraceRecorder()
    _sampled(recorder, DAY_S)
    times = [time_s for time_s, _ in recorder.points]
    assert len(times) >= MAX_POINTS // 4
    assert times[0] < 4 * recorder.interval_s
    assert times[-1] > DAY_S - 4 * recorder.interval_s
    assert max(later - earlier for earlier, later in pairwise(times)) < 4 * recorder.interval_s


def test_the_first_second_is_dense() -> None:
    """Within the first second there is a point at least every 10 ms."""
    recorder = TraceRecorder()
    _sampled(recorder, 1.0)
    times = [time_s for time_s, _ in recorder.points]
    assert times[0] == 0
    assert times[-1] > 0.99
    assert max(later - earlier for earlier, later in pairwise(times)) <= 0.010


def test_a_fixed_rate_cannot_flood_it() -> None:
    """A sampler that ignores the asked interval is thinned out, and its peaks survive the thinning."""
    recorder = TraceRecorder(max_points=50)
    for tick in range(100_000):
        recorder.add(tick * 0.005, 999 if tick == 77_777 else tick % 10)
    assert len(recorder.points) <= 50
    assert recorder.highest_bytes == 999


def test_an_empty_recorder_has_no_peak() -> None:
    """Before the first sample there is no highest value and no point."""
    assert TraceRecorder().highest_bytes is None
    assert () == TraceRecorder().points


TRACE = MemoryTrace(
    times_s=(0.0, 0.00512345),
    memory_bytes=(10, 30),
    limit_bytes=100,
    baseline_bytes=10,
    peak_bytes=31,
    peak_source="kernel counter",
)


def test_a_trace_exports_its_fields_as_json() -> None:
    """The JSON has the field names as keys, and times to a tenth of a millisecond."""
    expected = {
        "times_s": [0.0, 0.0051],
        "memory_bytes": [10, 30],
        "limit_bytes": 100,
        "baseline_bytes": 10,
        "peak_bytes": 31,
        "peak_source": "kernel counter",
        "page_cache_bytes": 0,
    }
    assert expected == json.loads(TRACE.to_json())


def test_a_full_trace_is_small_and_says_the_same() -> None:
    """2,000 points in compact form take 16 bytes each, survive pickling and give the same JSON and equality."""
    times, sizes = [number / 7 for number in range(MAX_POINTS)], [number << 30 for number in range(MAX_POINTS)]
    compact = MemoryTrace(times_s=compact_times(times), memory_bytes=compact_sizes(sizes))
    assert len(pickle.dumps((compact.times_s, compact.memory_bytes))) < 17 * MAX_POINTS
    assert sys.getsizeof(compact.times_s) + sys.getsizeof(compact.memory_bytes) < 17 * MAX_POINTS
    assert compact == pickle.loads(pickle.dumps(compact))  # noqa: S301 - our own
    assert MemoryTrace(times_s=tuple(times), memory_bytes=tuple(sizes)).to_json() == compact.to_json()


def test_a_trace_becomes_a_data_frame() -> None:
    """With pandas there, the trace is a frame of memory over time."""
    pytest.importorskip("pandas")
    frame = TRACE.to_pandas()
    assert list(TRACE.times_s) == frame.index.tolist()
    assert list(TRACE.memory_bytes) == frame["memory_bytes"].tolist()
    assert frame.index.name == "time_s"
    assert (100, 31, "kernel counter") == tuple(
        frame.attrs[name] for name in ("limit_bytes", "peak_bytes", "peak_source")
    )
    assert 0 == len(MemoryTrace().to_pandas())


def test_without_pandas_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, how to get it, and what does without."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="needs pandas, which is not installed here: pip install pandas"):
        TRACE.to_pandas()


def test_an_error_inside_pandas_is_not_taken_for_its_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation says itself what is missing."""
    (tmp_path / "pandas.py").write_text("import no_such_module_of_pandas\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_pandas"):
        TRACE.to_pandas()


def test_the_first_second_stays_dense_however_long_the_task_runs() -> None:
    """After an hour the first second still has a point every 10 ms, and the whole is bounded with its peak kept."""
    recorder = TraceRecorder()
    for step in range(200):
        recorder.add(step * 0.005, 1_000 + step)
    for step in range(1, 3600 * 20):
        recorder.add(1.0 + step * 0.05, 10**9 if step == 31_415 else 2_000)
    times = [time for time, _ in recorder.points]
    assert 2_000 >= len(times)
    first = [time for time in times if time < 1.0]
    assert max(later - earlier for earlier, later in pairwise(first)) <= 0.01
    assert 10**9 == recorder.highest_bytes
