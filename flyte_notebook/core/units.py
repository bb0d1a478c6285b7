"""Quantities as people write them, to and from bytes, cores and seconds.

Memory and CPU follow Kubernetes (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/),
because that is what ``flyte.Resources`` takes: ``Ki Mi Gi Ti Pi Ei`` are powers of 1024, ``k M G T P E`` powers of
1000, and upper and lower case are different letters. Durations follow Go: ``500ms``, ``30s``, ``1h30m``.

Parsing is exact and strict: a text that a cluster would refuse is refused here, and the message has the right spelling.
"""

from __future__ import annotations

import math
import operator
import re
from datetime import timedelta
from fractions import Fraction
from typing import SupportsIndex

BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
SECONDS = {"d": Fraction(86_400), "h": Fraction(3_600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}

MEMORY_EXAMPLE = "write a number with Ki, Mi, Gi, Ti (powers of 1024) or k, M, G, T (powers of 1000), for example 250Mi"
CPU_EXAMPLE = "write cores or thousandths of a core, for example 1, 0.5 or 500m"
DURATION_EXAMPLE = "write a number with ms, s, m, h or d, for example 500ms, 30s, 5m or 1h30m"

LARGEST_BYTES = 2**63 - 1
"""The largest number of bytes that Kubernetes and the operating system's kernel can count."""

LONGEST_S = 1_000_000_000.0
"""About 31 years; a longer wait overflows the timers of some platforms."""

_NUMBER = r"\+?(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_MEMORY = re.compile(_NUMBER + r"(?:(?P<unit>[KMGTPE]i|[kMGTPE])|[eE](?P<exponent>\+?[0-9]{1,2}))?\Z")
_CPU = re.compile(_NUMBER + r"(?P<unit>m?)\Z")
_DURATION = re.compile(_NUMBER.replace(r"\+?", "", 1) + r"(?P<unit>ms|[dhms])")
_LOOSE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?P<unit>[A-Za-z]+)\Z")
_LOOSE_SECONDS = {
    "ms": ("milli", "millis", "msec", "msecs", "millisecond", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
}
_LONGEST_TEXT = 64
_A_FEW_BYTES = 2**16
_TENS_UNTIL = 100
_MINUTE_S = 60


class UnitError(ValueError):
    """A quantity that cannot be read. The message says what was given, what is allowed, and shows an example."""


def parse_memory(value: str | SupportsIndex) -> int:
    """Return the bytes that a Kubernetes memory quantity means; a plain number is bytes.

    A fraction of a byte is rounded up, as Kubernetes does. Raises `UnitError` for anything that is not a positive
    quantity; a near miss such as ``250MB`` or ``250mi`` is answered with the right spelling.
    """
    if not isinstance(value, str):
        return _checked_bytes(_whole(value, MEMORY_EXAMPLE), value)
    text = _text(value, MEMORY_EXAMPLE)
    match = _MEMORY.match(text)
    if match is None:
        raise UnitError(_memory_advice(text))
    factor = Fraction(10) ** int(match["exponent"] or 0)
    if match["unit"]:
        factor = Fraction((BINARY | DECIMAL)[match["unit"]])
    return _checked_bytes(math.ceil(_fraction(match["number"]) * factor), text)


def parse_cpu(value: str | float) -> float:
    """Return the cores that a Kubernetes CPU quantity means: ``"0.5"``, ``"500m"``, ``1``, ``0.5``.

    Raises `UnitError` for anything else, and for less than a thousandth of a core.
    """
    if not isinstance(value, str):
        return _checked_cores(_finite(value, CPU_EXAMPLE), value)
    text = _text(value, CPU_EXAMPLE)
    match = _CPU.match(text)
    if match is None:
        raise UnitError(_not_a("CPU quantity", text, CPU_EXAMPLE))
    cores = _fraction(match["number"]) / (1000 if match["unit"] else 1)
    return _checked_cores(float(cores), text)


def parse_duration(value: str | float | timedelta) -> float:
    """Return the seconds that a duration means: ``"30s"``, ``"1h30m"``, ``"500ms"``, a number, or a ``timedelta``.

    A number without a unit is seconds. Raises `UnitError` for anything else, for zero and below, and for more than
    `LONGEST_S`.
    """
    if isinstance(value, timedelta):
        return _checked_seconds(value.total_seconds(), value)
    if not isinstance(value, str):
        return _checked_seconds(_finite(value, DURATION_EXAMPLE), value)
    text = _text(value, DURATION_EXAMPLE)
    seconds = _duration_seconds(text)
    if seconds is None:
        raise UnitError(_duration_advice(text))
    return _checked_seconds(float(seconds), text)


def format_memory(memory_bytes: float) -> str:
    """Return bytes for people to read: ``250 MiB``, ``1 GiB``, ``1.3 GiB``; one decimal below a hundred."""
    sign, left = ("-", -memory_bytes) if memory_bytes < 0 else ("", memory_bytes)
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if _rounded(left) < 1024:  # noqa: PLR2004 - the edge of a unit, in plain sight
            break
        left, unit = left / 1024, larger
    return f"{sign}{_rounded(left):g} {unit}"


def quantity_memory(memory_bytes: int) -> str:
    """Return the shortest whole Kubernetes quantity of exactly that many bytes: ``250Mi``, ``1G``, ``1000001``."""
    spellings = [str(memory_bytes)]
    for units in (DECIMAL, BINARY):
        spellings += [f"{memory_bytes // size}{unit}" for unit, size in units.items() if memory_bytes % size == 0]
    # Of two equally short spellings the binary one is returned, as people usually write limits.
    return min(reversed(spellings), key=len) if memory_bytes else "0"


def too_little(text: str, needed_bytes: int, write: str = "128Mi") -> str:
    """Return the sentences for a memory limit, as it was typed, that is less than an empty worker needs.

    ``write`` is what could be written instead.
    """
    if text.isdecimal() and int(text) <= _A_FEW_BYTES:
        return f"{text} means {text} bytes. Did you mean {text}Mi?"
    return f"{text} is less than Python and Flyte need ({format_memory(needed_bytes)}). Write for example {write}."


def format_cpu(cores: float) -> str:
    """Return cores for people to read: ``1 CPU``, ``0.5 CPU``."""
    return f"{round(cores, 3):g} CPU"


def format_duration(duration_s: float) -> str:
    """Return seconds for people to read: ``4 ms``, ``0.21 s``, ``12.5 s``, ``1 min 30 s``, ``2 h 5 min``, ``3 d``."""
    if duration_s < 0:
        return "-" + format_duration(-duration_s)
    if 0 < duration_s < 0.01:  # noqa: PLR2004 - the edge of a unit, in plain sight
        return f"{max(round(duration_s * 1000, 1), 0.1):g} ms"
    short = round(duration_s, 2) if duration_s < 10 else round(duration_s, 1)  # noqa: PLR2004 - the edge of a unit, in plain sight
    if short < _MINUTE_S:
        return f"{short:g} s"
    whole = round(duration_s)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        parts.append((count, unit))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def _text(value: str, example: str) -> str:
    text = value.strip()
    if not text:
        raise UnitError(f"an empty text is not a quantity; {example}")
    if len(text) > _LONGEST_TEXT:
        raise UnitError(_not_a("quantity", text, example))
    return text


def _whole(value: SupportsIndex, example: str) -> int:
    if isinstance(value, bool):
        raise UnitError(_not_a("quantity", value, example))
    try:
        return operator.index(value)
    except TypeError:
        raise UnitError(_not_a("quantity", value, example)) from None


def _finite(value: float, example: str) -> float:
    if isinstance(value, bool):
        raise UnitError(_not_a("quantity", value, example))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UnitError(_not_a("quantity", value, example)) from None
    if not math.isfinite(number):
        raise UnitError(_not_a("quantity", value, example))
    return number


def _fraction(digits: str) -> Fraction:
    # Before Python 3.12 Fraction refuses "1." and ".5".
    whole, _, part = digits.partition(".")
    return Fraction(int((whole + part) or "0"), 10 ** len(part))


def _checked_bytes(memory_bytes: int, given: object) -> int:
    if memory_bytes <= 0:
        raise UnitError(f"{_shown(given)} means no memory; write more than zero, for example 250Mi")
    if memory_bytes > LARGEST_BYTES:
        raise UnitError(f"{_shown(given)} is more memory than can be counted (8Ei); write less, for example 250Mi")
    return memory_bytes


def _checked_cores(cores: float, given: object) -> float:
    if cores < 0.001:  # noqa: PLR2004 - the edge of a unit, in plain sight
        raise UnitError(f"{_shown(given)} is less than a thousandth of a core; {CPU_EXAMPLE}")
    return cores


def _checked_seconds(seconds: float, given: object) -> float:
    if seconds <= 0:
        raise UnitError(f"{_shown(given)} means no time; write more than zero, for example 30s")
    if seconds > LONGEST_S:
        most = f"{LONGEST_S:.0f} s, about 31 years"
        raise UnitError(f"{_shown(given)} is more than {most}; write less, for example 1h30m")
    return seconds


def _duration_seconds(text: str) -> Fraction | None:
    if re.fullmatch(_NUMBER, text):
        return _fraction(text.lstrip("+"))
    total, position, last = Fraction(0), 0, Fraction(2 * 86_400)
    while position < len(text):
        match = _DURATION.match(text, position)
        if match is None or SECONDS[match["unit"]] >= last:
            return None
        last = SECONDS[match["unit"]]
        total += _fraction(match["number"]) * last
        position = match.end()
    return total


def _memory_advice(text: str) -> str:
    """Return the message for a text that is not a memory quantity, with the spelling that was probably meant."""
    match = _LOOSE.match(text)
    if match is None:
        return _not_a("memory quantity", text, MEMORY_EXAMPLE)
    number, unit = match["number"], match["unit"].lower()
    if unit in {"b", "byte", "bytes"}:
        return f"{text} is not a quantity; write {number} for bytes, or for example 250Mi"
    letter, rest = unit[0], unit[1:]
    if letter not in "kmgtpe" or rest not in {"", "b", "i", "ib"}:
        return _not_a("memory quantity", text, MEMORY_EXAMPLE)
    power = "kmgtpe".index(letter) + 1
    decimal, binary = tuple(DECIMAL)[power - 1], tuple(BINARY)[power - 1]
    in_binary = f"{number}{binary} (2^{10 * power})"
    meant = in_binary if rest.startswith("i") else f"{number}{decimal} (10^{3 * power}) or {in_binary}"
    return f"{text} is not a quantity; write {meant}"


def _duration_advice(text: str) -> str:
    """Return the message for a text that is not a duration, with the spelling that was probably meant."""
    match = _LOOSE.match(text)
    if match is not None:
        unit = match["unit"].lower()
        for right, wrong in _LOOSE_SECONDS.items():
            if unit == right or unit in wrong:
                return f"{text} is not a duration; write {match['number']}{right}"
    return _not_a("duration", text, DURATION_EXAMPLE)


def _not_a(what: str, given: object, example: str) -> str:
    return f"{_shown(given)} is not a {what}; {example}"


def _shown(given: object) -> str:
    try:
        text = given if isinstance(given, str) else repr(given)
    except ValueError:  # Python refuses to write out integers of more than 4,300 digits
        text = f"this {type(given).__name__}"
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _rounded(value: float) -> float:
    return round(value, 1) if value < _TENS_UNTIL else float(round(value))
