"""The plan of a sweep: limits from a range, values of an input, and every pair of both.

Pure code. ``128Mi:1Gi:8`` are eight limits at equal distances, ``128Mi:1Gi:8:log`` eight that grow by the same factor.
"""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from flyte_notebook.core.units import UnitError, format_duration, parse_memory, quantity_memory

Spacing: TypeAlias = Literal["linear", "log"]

ASKS_ABOVE: Final = 100
"""More runs are started only if the user has confirmed it."""

MOST_RUNS: Final = 10_000
"""More limits or values are always refused."""

LEAST_RUN_S: Final = 0.02
"""The minimum time of a run of any task: a worker has to get its job."""

RANGE: Final = "128Mi:1Gi:8"
VALUES: Final = "x=1,2,4,8"
_PARTS: Final = (3, 4)
_DIGITS: Final = 9
_PLAIN: Final = (int, float, str, bytes, type(None))
_GRAINS: Final = (1 << 20, 1 << 12, 1)
"""Limits are whole MiB if they are still different then, else whole pages."""


class SweepError(ValueError):
    """A sweep that cannot be run as requested; the text is one line, and shows a correct form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRange:
    """Limits from ``first_bytes`` to ``last_bytes``, both included: ``count`` of them."""

    first_bytes: int
    last_bytes: int
    count: int
    spacing: Spacing = "linear"

    def __str__(self) -> str:
        text = f"{quantity_memory(self.first_bytes)}:{quantity_memory(self.last_bytes)}:{self.count}"
        return f"{text}:log" if self.spacing == "log" else text

    @property
    def limits(self) -> tuple[int, ...]:
        """The limits in bytes, the smallest first."""
        found: tuple[int, ...] = ()
        for grain in _GRAINS:
            found = tuple(self._limit(place, grain) for place in range(self.count))
            if len(set(found)) == self.count:
                break
        return found

    def _limit(self, place: int, grain: int) -> int:
        if place in {0, self.count - 1}:
            return self.last_bytes if place else self.first_bytes
        part = place / (self.count - 1)
        if self.spacing == "log":
            exact = self.first_bytes * math.pow(self.last_bytes / self.first_bytes, part)
        else:
            exact = self.first_bytes + (self.last_bytes - self.first_bytes) * part
        return round(exact / grain) * grain


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """The values of one input, in the given order."""

    name: str
    values: tuple[Any, ...]

    @property
    def numbers(self) -> bool:
        """Whether all of them are numbers, so that a line can be fitted to the measurements."""
        return all(map(_is_number, self.values))


class Planned(NamedTuple):
    """One planned run: its index from 0, its limit and its value; ``None`` where these are not swept."""

    number: int
    limit_bytes: int | None
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The planned runs: each limit with each value. At least one of the two is swept.

    ``limits`` is empty when every run keeps the limit that its task declares.
    """

    limits: tuple[int, ...] = ()
    spacing: Spacing = "linear"
    over: Over | None = None

    @property
    def count(self) -> int:
        """The number of runs."""
        return max(len(self.limits), 1) * (1 if self.over is None else len(self.over.values))

    def __iter__(self) -> Iterator[Planned]:
        """Yield each run: all limits of the first value, then of the next."""
        number = 0
        for value in (None,) if self.over is None else self.over.values:
            for limit_bytes in self.limits or (None,):
                yield Planned(number, limit_bytes, value)
                number += 1


def parse_range(text: str) -> MemoryRange:
    """Read ``128Mi:1Gi:8`` or ``128Mi:1Gi:8:log``. Raises `SweepError`."""
    parts = [part.strip() for part in text.split(":")]
    if len(parts) not in _PARTS or not all(parts):
        raise SweepError(f"{text} is no range of limits; write from:to:how many, for example {RANGE}")
    first, last, count, *spacing = parts
    try:
        first_bytes, last_bytes = parse_memory(first), parse_memory(last)
    except UnitError as error:
        raise SweepError(f"{error}; in a range {RANGE}") from None
    if not count.isdecimal() or len(count) > _DIGITS:
        raise SweepError(f"{count} is not how many limits to try; write for example {first}:{last}:8")
    if spacing not in ([], ["log"], ["linear"]):
        raise SweepError(f"{spacing[0]} is neither linear nor log; write for example {first}:{last}:{count}:log")
    if first_bytes > last_bytes:
        right = ":".join((last, first, count, *spacing))
        raise SweepError(f"{text} goes from the larger limit to the smaller; write {right}")
    if int(count) < 2 or first_bytes == last_bytes:  # noqa: PLR2004 - two points make a sweep
        few = "the same limit twice" if first_bytes == last_bytes else f"{int(count)} limit{'s' * (int(count) != 1)}"
        raise SweepError(f"{text} is {few}, no sweep; write {RANGE}, or one limit: {first}")
    if int(count) > min(MOST_RUNS, last_bytes - first_bytes):
        most = f"{MOST_RUNS:,} at most, and different ones"
        raise SweepError(f"{text} has more limits than can be tried ({most}); write for example {first}:{last}:8")
    return MemoryRange(
        first_bytes=first_bytes,
        last_bytes=last_bytes,
        count=int(count),
        spacing="log" if spacing == ["log"] else "linear",
    )


def example(*, up_to_bytes: int | None = None) -> str:
    """Return a correct range for a machine with that much memory."""
    if up_to_bytes is None or up_to_bytes >= parse_range(RANGE).last_bytes:
        return RANGE
    whole = max(up_to_bytes // _GRAINS[0], 2) * _GRAINS[0]
    return f"{quantity_memory(whole // _GRAINS[0] // 2 * _GRAINS[0])}:{quantity_memory(whole)}:8"


def parse_over(text: str) -> Over:
    """Read ``x=1,2,4,8``: the name of an input, and Python literals. Raises `SweepError`."""
    name, equals, listed = (part.strip() for part in text.partition("="))
    if not equals or not name.isidentifier() or keyword.iskeyword(name):
        raise SweepError(f"{text} names no input; write its name, = and the values, for example {VALUES}")
    if not listed:
        raise SweepError(f"{name} has no values; write them with commas between, for example {name}=1,2,4,8")
    if listed.endswith(","):
        raise SweepError(f"{text} ends with a comma; write the values without spaces, for example {name}=1,2,4,8")
    try:
        values = ast.literal_eval(f"[{listed}]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise SweepError(
            f"{name}={listed} holds what is no Python literal; write numbers, or texts in quotes, for example "
            f"{name}=1,2,4,8 or {name}='a','b'"
        ) from None
    return over_values(name, values)


def over_values(name: str, values: Sequence[Any]) -> Over:
    """Return the values of an input. Raises `SweepError` for fewer than two, and for one that is given twice."""
    if len(values) < 2:  # noqa: PLR2004 - two points make a sweep
        count = f"{len(values)} value{'' if values else 's'}"
        raise SweepError(f"{name} has {count}, which is no sweep; write for example {VALUES}")
    if len(values) > MOST_RUNS:
        raise SweepError(f"{name} has {len(values):,} values; a sweep has {MOST_RUNS:,} runs at most")
    known: set[Any] = set()
    for value in values:
        if isinstance(value, _PLAIN):
            if value in known:
                raise SweepError(f"{name} has {value!r} twice; write each value once, for example {VALUES}")
            known.add(value)
    return Over(name=name, values=tuple(values))


def check_size(plan: Plan, *, side_by_side: int, known_s: float | None, go_on: str) -> None:
    """Refuse a sweep of more than `ASKS_ABOVE` runs. Raises `SweepError`.

    ``known_s`` is the shortest known time of a run of this task, ``None`` if none is known; ``go_on`` is the option
    that allows the sweep.
    """
    if plan.count <= ASKS_ABOVE:
        return
    least_s = -(-plan.count // side_by_side) * max(known_s or 0.0, LEAST_RUN_S)
    why = "for starting them alone" if known_s is None else f"by the shortest run so far ({format_duration(known_s)})"
    raise SweepError(
        f"this sweep has {plan.count:,} runs, {side_by_side} at a time: at least {format_duration(least_s)} {why}; "
        f"nothing has run. To go on write {go_on}, or take fewer points"
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
