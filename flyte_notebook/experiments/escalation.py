"""How a memory limit grows from one attempt to the next after an OOM: by a factor or a step, up to a cap.

Pure functions: `flyte_notebook.sdk.escalation` starts the attempts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from flyte_notebook.core.units import UnitError, parse_memory, quantity_memory

MIB: Final = 1 << 20
MEGABYTE: Final = 10**6

MOST_ATTEMPTS: Final = 30
"""A growth with more possible attempts is refused: it is probably a mistake."""

EXAMPLE: Final = "x2:4Gi"

_FACTOR = re.compile(r"[xX×](\d+(?:\.\d*)?|\.\d+)", re.ASCII)


class GrowthError(ValueError):
    """A limit cannot grow in this way; the text says why, and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How much a limit grows after each OOM, and its cap.

    It is multiplied by ``factor``, or ``step_bytes`` are added where that is not ``None``; ``cap_bytes`` is the last
    limit that is tried.
    """

    cap_bytes: int
    factor: Fraction = Fraction(2)
    step_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.step_bytes is None and self.factor <= 1:
            raise GrowthError(f"a factor of {float(self.factor):g} does not grow; give more than 1, for example 2")

    def after(self, limit_bytes: int) -> int | None:
        """Return the limit to try after an OOM at this one, ``None`` when the cap is reached."""
        if limit_bytes >= self.cap_bytes:
            return None
        if self.step_bytes is not None:
            return min(limit_bytes + self.step_bytes, self.cap_bytes)
        return min(_round(limit_bytes * self.factor), self.cap_bytes)

    def limits(self, limit_bytes: int | None) -> tuple[int, ...]:
        """Return all possible limits, including the first one. Raises `GrowthError` when it cannot grow."""
        if limit_bytes is None:
            raise GrowthError("there is no memory limit that could grow; declare one, for example 250Mi")
        cap = quantity_memory(self.cap_bytes)
        if self.cap_bytes <= limit_bytes:
            where = "is" if self.cap_bytes == limit_bytes else "is below"
            twice = quantity_memory(2 * limit_bytes)
            raise GrowthError(
                f"{cap} {where} the limit of {quantity_memory(limit_bytes)}; give more, for example {twice}"
            )
        all_limits = [limit_bytes]
        while (grown := self.after(all_limits[-1])) is not None:
            all_limits.append(grown)
            if len(all_limits) > MOST_ATTEMPTS:
                raise GrowthError(
                    f"from {quantity_memory(limit_bytes)} to {cap} would take more than {MOST_ATTEMPTS} attempts; "
                    "let it grow faster, for example twofold"
                )
        return tuple(all_limits)


def parse_growth(text: str) -> Growth:
    """Read ``x2:4Gi`` or ``+512Mi:4Gi``: a factor or a step, and the cap. Raises `GrowthError` or `UnitError`."""
    grows, colon, cap = text.partition(":")
    factor = _FACTOR.fullmatch(grows)
    if not colon or not cap or not (factor or grows.startswith("+")):
        raise GrowthError(f"{text!r} is no factor or step with a cap; write {EXAMPLE} or +512Mi:4Gi")
    cap_bytes = parse_memory(cap)
    if factor is not None:
        return Growth(cap_bytes=cap_bytes, factor=Fraction(Decimal(factor[1])))
    return Growth(cap_bytes=cap_bytes, step_bytes=parse_memory(grows[1:]))


def growth_of(*, factor: float, up_to: str | int, step: str | int | None) -> Growth:
    """Return the growth for the arguments of `flyte_notebook.retry_on_oom`. Raises `GrowthError`."""
    if type(factor) not in {int, float} or not 0 < factor < float("inf"):
        raise GrowthError(f"factor={factor!r} is no number to multiply a limit by; give more than 1, for example 2")
    try:
        cap_bytes, step_bytes = parse_memory(up_to), None if step is None else parse_memory(step)
    except UnitError as error:
        raise GrowthError(str(error)) from None
    return Growth(cap_bytes=cap_bytes, factor=Fraction(str(factor)), step_bytes=step_bytes)


def listed(limits: Sequence[int]) -> str:
    """Return limits as text: ``250Mi, 500Mi and 1Gi``."""
    *first, last = map(quantity_memory, limits)
    return f"{', '.join(first)} and {last}" if first else last


def exhausted(tried: Sequence[int], *, next_bytes: int | None, why: str = "") -> str:
    """Return a sentence that says why there is no further attempt: all limits, and why the next one is impossible."""
    times = f"tried {listed(tried)}"
    if next_bytes is None:
        return f"{times}, which is as far as it may grow"
    return f"{times}; {quantity_memory(next_bytes)} is out of reach: {why}"


def _round(limit_bytes: Fraction) -> int:
    """Return a whole number of bytes, or of MiB if the product is not a whole number of a usual unit."""
    if limit_bytes.denominator == 1 and (limit_bytes % MIB == 0 or limit_bytes % MEGABYTE == 0):
        return int(limit_bytes)
    return -int(-limit_bytes // MIB) * MIB
