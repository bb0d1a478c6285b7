"""The contents of a memory chart before drawing: its lines or bars, their ends, and a description as text.

Nothing here loads a plotting library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from flyte_notebook.core.outcome import Failure
from flyte_notebook.core.units import format_duration, format_memory
from flyte_notebook.views.text import clean_line, title

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flyte_notebook.core.trace import MemoryTrace
    from flyte_notebook.history import Attempt, Run
    from flyte_notebook.views.charts.placing import Point

MAX_LINES: Final = 6
"""More lines than this cannot be told apart; the last ones are drawn."""

LABEL_CHARACTERS: Final = 28

_KILLED: Final = {
    "memory": "killed",
    "machine_memory": "killed",
    "signalled": "crashed",
    "max_runtime": "timed out",
    "deadline": "timed out",
    "stopped": "stopped",
}
"""Words for attempts that did not end by themselves."""

_FALL_S, _FALL_PART = 1.0, 0.01  # the maximum time for the end of a process, also as a part of its duration
_WHOLE, _NOTHING = 0.9, 0.1  # of the baseline, of the highest sample: below it the interpreter itself is ending

_AT_LIMIT: Final = 0.97
"""If an attempt was killed at the limit, a peak this close to the limit was at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One attempt on the chart.

    ``label`` is distinct: ``attempt 2``, ``rerun 1 (1Gi)``. ``killed`` draws the kill mark at its end. ``ending`` is
    the word for how it ended, empty for the usual one: killed, passed or failed.
    """

    label: str
    trace: MemoryTrace
    killed: bool
    passed: bool
    ending: str = ""

    @property
    def word(self) -> str:
        """The ending, in one word."""
        return self.ending or ("killed" if self.killed else "passed" if self.passed else "failed")

    @property
    def name(self) -> str:
        """The label as it is drawn."""
        return clean_line(self.label, LABEL_CHARACTERS)

    @property
    def words(self) -> str:
        """The label and how it ended."""
        return f"{self.name}: {self.word}" if self.name else self.word

    @property
    def end_s(self) -> float:
        """When the last sample was taken; 0 without samples."""
        return max(self.trace.times_s, default=0.0)

    @property
    def highest_bytes(self) -> int | None:
        """The largest sample; ``None`` without samples."""
        return max(self.trace.memory_bytes, default=None)

    @property
    def peak_bytes(self) -> int | None:
        """The highest known value, from the counter or the samples; ``None`` where nothing was measured."""
        known = [peak for peak in (self.trace.peak_bytes, self.highest_bytes) if peak is not None]
        return max(known, default=None)

    @property
    def reached_limit(self) -> bool:
        """Whether it was killed at its limit, so that the peak is at its end."""
        peak, limit = self.peak_bytes, self.trace.limit_bytes
        return self.killed and peak is not None and limit is not None and peak >= _AT_LIMIT * limit


def lines_of(story: Iterable[tuple[str, Attempt]]) -> tuple[Line, ...]:
    """Return the lines of attempts, each with its label, in the order in which they ran (`History.story`).

    Samples from the teardown of a process are not part of its line.
    """
    lines = []
    for label, attempt in story:
        trace, outcome = attempt.trace, attempt.outcome
        if trace.limit_bytes is None and attempt.limits.memory_bytes is not None:
            trace = replace(trace, limit_bytes=attempt.limits.memory_bytes)
        # A parent that did not catch the error of a task was not killed itself.
        own = isinstance(outcome, Failure) and outcome.worker == attempt.worker
        word = _KILLED.get(outcome.reason, "") if own and isinstance(outcome, Failure) else ""
        passed = not isinstance(outcome, Failure)
        trace = _lived(trace, killed=bool(word))
        lines.append(Line(label=label, trace=trace, killed=bool(word), passed=passed, ending=word))
    return tuple(lines)


def _lived(trace: MemoryTrace, *, killed: bool) -> MemoryTrace:
    """Return a trace without the fall at its end, where the kernel freed the memory of the ended process.

    A process that ended by itself may have freed memory before; only samples below its own interpreter are cut.
    """
    times, memory = trace.times_s, trace.memory_bytes
    count = min(len(times), len(memory))
    if count <= 1:
        return trace
    base = trace.baseline_bytes or max(memory) * _NOTHING
    stop, began = count - 1, times[count - 1] - max(_FALL_S, _FALL_PART * times[count - 1])
    while stop > 0 and memory[stop - 1] >= memory[stop] and times[stop - 1] >= began:
        if not killed and memory[stop] >= base * _WHOLE:
            break
        stop -= 1
    while stop < count - 1 and memory[stop + 1] == memory[stop]:  # memory did not change before the fall
        stop += 1
    if memory[count - 1] > memory[stop] / 2:  # no significant fall
        return trace
    return replace(trace, times_s=times[: stop + 1], memory_bytes=memory[: stop + 1])


def chart_words(lines: Sequence[Line]) -> str:
    """Describe the chart in one or two sentences, for users who do not see it."""
    drawn = [line for line in lines[-MAX_LINES:] if line.peak_bytes is not None]
    if not drawn:
        return "Chart of memory over time: no memory was measured."
    told = "; ".join(_line_words(line) for line in drawn[-3:])
    earlier = len(lines) - len(drawn[-3:])
    more = f" {earlier} earlier attempt{'s are' if earlier > 1 else ' is'} not described." if earlier else ""
    longest = max(line.end_s for line in drawn)
    span = f" over {format_duration(longest)}" if longest else ""
    base = drawn[-1].trace.baseline_bytes
    start = f" Interpreter and imports take {format_memory(base)} of it." if base is not None else ""
    return f"Chart of memory{span}: {told}.{start}{more}"


def _line_words(line: Line) -> str:
    peak, limit = line.peak_bytes, line.trace.limit_bytes
    assert peak is not None
    exact = "used up to" if line.trace.peak_source != "samples" else "used at least"
    of = "with no limit" if limit is None else f"of {format_memory(limit)} allowed"
    when = f" after {format_duration(line.end_s)}" if line.end_s else ""
    return f"{line.name or 'it'} {exact} {format_memory(peak)} {of} and {_ended(line.word)}{when}"


def _ended(word: str) -> str:
    return f"was {word}" if word in {"killed", "stopped"} else word


def together(ends: Sequence[tuple[Line, Point]], *, reach: float) -> list[tuple[str, Point]]:
    """Return the words for the ends of lines: one word for neighbours that ended alike, closer together than that."""
    groups: list[list[tuple[Line, Point]]] = []
    for line, end in ends:
        before, where = groups[-1][-1] if groups else (None, end)
        if before is not None and before.word == line.word and math.dist(where, end) < reach:
            groups[-1].append((line, end))
        else:
            groups.append([(line, end)])
    words = []
    for group in groups:
        first, last = group[0][0], group[-1][0]
        join = "and" if len(group) == 2 else "to"  # noqa: PLR2004 - a pair
        said = first.words if last is first else f"{first.name} {join} {last.words}"
        words.append((said, group[len(group) // 2][1]))
    return words


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One action of a run: its highest peak, the limit of that attempt, and the error with which the action ended.

    ``error`` is empty when it succeeded, ``note`` says so when that attempt itself had failed.
    """

    name: str
    peak_bytes: int
    limit_bytes: int | None
    error: str = ""
    note: str = ""


def bars_of(run: Run) -> list[Bar]:
    """Return the actions of a run that were measured, the one with the highest peak first."""
    bars = []
    for action in run.actions:
        attempts = [attempt for attempt in action.attempts if attempt.trace.peak_bytes is not None]
        if not attempts:
            continue
        highest = max(attempts, key=lambda attempt: attempt.trace.peak_bytes or 0)
        bars.append(
            Bar(
                name=f"{clean_line(action.task_name, 16)} {clean_line(action.name, 6)}",
                peak_bytes=highest.trace.peak_bytes or 0,
                limit_bytes=highest.limits.memory_bytes,
                error=clean_line(title(action.outcome), 16) if isinstance(action.outcome, Failure) else "",
                note="retried" if isinstance(highest.outcome, Failure) else "",
            )
        )
    return sorted(bars, key=lambda bar: bar.peak_bytes, reverse=True)


def thinned(trace: MemoryTrace, points: int) -> tuple[list[float], list[int]]:
    """Return a trace in at most about ``points`` points: of each stretch of time its lowest and its highest sample.

    First and last sample stay, and so does every peak that a picture of half as many columns can show.
    """
    times, memory = list(trace.times_s), list(trace.memory_bytes)
    count = min(len(times), len(memory))
    if count <= points:
        return times[:count], memory[:count]
    stretches = max(points // 2 - 1, 1)
    width = (times[count - 1] - times[0]) / stretches or 1.0
    kept = {0, count - 1}
    low = high = begin = 0
    for index in range(count):
        stretch = int((times[index] - times[0]) / width)
        if stretch != begin:
            kept |= {low, high}
            begin, low, high = stretch, index, index
        if memory[index] < memory[low]:
            low = index
        if memory[index] > memory[high]:
            high = index
    order = sorted(kept | {low, high})
    return [times[index] for index in order], [memory[index] for index in order]
