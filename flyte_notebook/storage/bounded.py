"""Reads JSON of unknown origin in bounded memory and time.

The size of a text's values in memory is estimated before reading, from its brackets, commas and escapes: a list takes
two letters in the text and at least 56 bytes in memory, and one letter beyond Unicode's first plane makes a text four
times as wide.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final

from flyte_notebook.storage.facts import FactsError

MAX_PARSED_BYTES: Final = 44 << 20
"""The maximum size of the values in one text."""

LIST_BYTES: Final = 64
DICT_BYTES: Final = 240
VALUE_BYTES: Final = 36
KEPT_BYTES: Final = 200
"""The size of an object made from a dictionary, without its texts."""

KEPT_VALUE_BYTES: Final = 6
"""The size of a value beyond its minimum of two letters: a sample has 8 bytes."""

MAX_DIGITS: Final = 20
MAX_DEPTH: Final = 100
USUAL_RECURSION: Final = 10_000
"""Up to this recursion limit Python itself refuses a text that is nested too deeply; above, its stack overflows."""

_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+\\?(?:"|\Z)', re.DOTALL)
"""A string, or the rest of the text where it has no end: each letter is read once."""


def parsed(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the values of a text. Raises `FactsError`, also if it would take too much memory or time."""
    takes = wide_bytes(text) + LIST_BYTES * text.count("[") + DICT_BYTES * text.count("{")
    takes += VALUE_BYTES * text.count(",")
    if takes > MAX_PARSED_BYTES:
        raise FactsError(f"it would take {takes >> 20} MiB to read it, above {MAX_PARSED_BYTES >> 20}")
    if sys.getrecursionlimit() > USUAL_RECURSION:
        _check_depth(text)
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        raise FactsError(f"it is no JSON: {error}") from None


def kept_bytes(text: str) -> int:
    """Estimate the size in memory of a run with these facts."""
    return wide_bytes(text) + KEPT_VALUE_BYTES * text.count(",") + KEPT_BYTES * text.count("{")


def wide_bytes(text: str) -> int:
    """Return the maximum size of a text, after its escapes are decoded."""
    escaped = (found[0] for found in _STRING.finditer(text) if "\\u" in found[0]) if "\\u" in text else ()
    return sys.getsizeof(text) + 3 * sum(map(len, escaped))


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # a million of them take minutes
        raise FactsError(f"it has a number of {len(digits):,} digits")
    return int(digits)


_parse = json.JSONDecoder(parse_int=_whole).decode


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise FactsError(f"it is nested more than {MAX_DEPTH} times")
