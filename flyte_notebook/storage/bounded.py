"""JSON of unknown origin, read in bounded memory and time, whatever it is made of.

What a text becomes in memory is known before it is read, from its brackets, commas and escapes: a list takes two
letters there and at least 56 bytes here, and one letter beyond Unicode's first plane makes a text four times as wide.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final

from flyte_notebook.storage.facts import FactsError

MAX_PARSED_BYTES: Final = 44 << 20
"""So much the values in one text may take."""

LIST_BYTES: Final = 64
DICT_BYTES: Final = 240
VALUE_BYTES: Final = 36
KEPT_BYTES: Final = 200
"""What stays of a dictionary: an object of ours without its texts."""

KEPT_VALUE_BYTES: Final = 6
"""What stays of a value beyond the two letters that it takes at least: a sample has 8 bytes."""

MAX_DIGITS: Final = 20
MAX_DEPTH: Final = 100
USUAL_RECURSION: Final = 10_000
"""Up to this limit of recursion Python itself gives a text up that is nested too deeply; above, its stack would end."""

_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+\\?(?:"|\Z)', re.DOTALL)
"""A string, or the rest of the text where it has no end: each letter is looked at once."""


def parsed(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    """Return the values of a text. Raises `FactsError`, also for one that would take too much memory or time."""
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
    """Return what a run takes, about, whose facts are this text."""
    return wide_bytes(text) + KEPT_VALUE_BYTES * text.count(",") + KEPT_BYTES * text.count("{")


def wide_bytes(text: str) -> int:
    """Return what a text takes, with its escapes read, at most."""
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
