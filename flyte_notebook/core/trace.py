"""Memory over time of one attempt: bounded in length however long the task runs."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flyte_notebook.core.bound import to_json

MAX_POINTS = 2_000
DENSE_FOR_S = 1.0
"""For how long from its start a trace keeps every point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTrace:
    """Memory of all processes of one attempt over time.

    ``times_s`` and ``memory_bytes`` have the same length, at most 2,000; times count from the start of the worker
    process. ``memory_bytes`` is the usage that the limit counts, less page cache that the kernel could drop.
    ``baseline_bytes`` is the usage when the worker had started and held no input yet. ``peak_bytes`` is exact when
    ``peak_source`` is ``"kernel counter"`` and a lower bound when it is ``"samples"``; ``None`` where nothing was
    measured. A kernel's peak counts page cache too: ``page_cache_bytes`` is the most of it that any sample saw.
    """

    times_s: Sequence[float] = field(default=(), repr=False)
    memory_bytes: Sequence[int] = field(default=(), repr=False)
    limit_bytes: int | None = None
    baseline_bytes: int | None = None
    peak_bytes: int | None = None
    peak_source: str = "samples"
    page_cache_bytes: int = 0

    @property
    def counted_bytes(self) -> int | None:
        """The smallest limit that would have been enough: the peak usage, less page cache that could be dropped.

        As exact as ``peak_bytes`` without page cache; with it a lower bound. ``None`` where nothing was measured.
        """
        known = [max(self.memory_bytes, default=0)]
        if self.peak_bytes is not None:
            known.append(self.peak_bytes - self.page_cache_bytes)
        return max(known) if self.peak_bytes is not None or self.memory_bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as plain lists and numbers, ready for JSON."""
        return {
            "times_s": [round(time, 4) for time in self.times_s],
            "memory_bytes": list(self.memory_bytes),
            "limit_bytes": self.limit_bytes,
            "baseline_bytes": self.baseline_bytes,
            "peak_bytes": self.peak_bytes,
            "peak_source": self.peak_source,
            "page_cache_bytes": self.page_cache_bytes,
        }

    def to_json(self) -> str:
        """Return the trace as one JSON object; the keys are the field names."""
        return to_json(self.to_dict())

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas is the user's, not a dependency
        """Return a ``pandas.DataFrame`` with column ``memory_bytes`` and index ``time_s``.

        Its ``attrs`` have what belongs to all samples: limit, baseline and peak. Raises ModuleNotFoundError where there
        is no pandas.
        """
        columns: dict[str, list[Any]] = {"time_s": list(self.times_s), "memory_bytes": list(self.memory_bytes)}
        frame = data_frame(columns, whole=("memory_bytes",)).set_index("time_s")
        points = ("times_s", "memory_bytes")
        frame.attrs.update({name: value for name, value in self.to_dict().items() if name not in points})
        return frame


def data_frame(columns: Mapping[str, Sequence[Any]], *, whole: Iterable[str] = ()) -> Any:  # noqa: ANN401 - as above
    """Return a ``pandas.DataFrame``; columns that are ``whole`` hold integers, or nothing.

    Raises ModuleNotFoundError, with what helps, where there is no pandas: it is the user's, not a dependency.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - pandas is the user's, not a dependency
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        words = "to_pandas() needs pandas, which is not installed here: pip install pandas; to_dict() has the same"
        raise ModuleNotFoundError(words, name="pandas") from None
    return pd.DataFrame(dict(columns)).astype(dict.fromkeys(whole, "Int64"))


def compact_times(times_s: Iterable[float]) -> Sequence[float]:
    """Return times in 8 bytes each: a history keeps hundreds of traces, and a tuple of floats takes four times that."""
    return array("d", times_s)


def compact_sizes(memory_bytes: Iterable[int]) -> Sequence[int]:
    """Return sizes in 8 bytes each; see `compact_times`."""
    return array("q", memory_bytes)


class TraceRecorder:
    """Collects samples into at most `MAX_POINTS` points.

    Samples closer together than half of ``interval_s`` become one, the larger. What came in the first second stays as
    dense as it was recorded. When the buffer is full, every two neighbours after that second are merged into the larger
    one and ``interval_s`` doubles, so that a trace of any length keeps its peaks in bounded space.
    """

    def __init__(self, *, first_interval_s: float = 0.005, max_points: int = MAX_POINTS) -> None:
        self.interval_s = first_interval_s
        self._max_points = max_points
        self._points: list[tuple[float, int]] = []
        self._dense_points = 0
        self._bucket_end_s = 0.0

    def add(self, time_s: float, memory_bytes: int) -> None:
        """Record one sample; times never go back."""
        if self._points and time_s < self._bucket_end_s:
            if memory_bytes > self._points[-1][1]:
                self._points[-1] = (time_s, memory_bytes)
            return
        if len(self._points) >= self._max_points:
            self._points[self._dense_points :] = _merged(self._points[self._dense_points :])
            self.interval_s *= 2
        self._points.append((time_s, memory_bytes))
        if time_s < DENSE_FOR_S and len(self._points) <= self._max_points // 2:
            self._dense_points = len(self._points)
        self._bucket_end_s = time_s + self.interval_s * 0.5

    @property
    def highest_bytes(self) -> int | None:
        """The largest sample so far, or ``None`` before the first."""
        return max((memory for _, memory in self._points), default=None)

    @property
    def points(self) -> tuple[tuple[float, int], ...]:
        """The points kept so far, in time order."""
        return tuple(self._points)


def _merged(points: list[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    for index in range(0, len(points), 2):
        yield max(points[index : index + 2], key=lambda point: point[1])
