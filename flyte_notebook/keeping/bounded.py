"""JSON of unknown origin, read in bounded memory and time, whatever it is made of.

What a text becomes in memory is known from its brackets and commas before it is read: a list takes two letters there,
and at least 56 bytes here.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final

from flyte_notebook.keeping.facts import FactsError

MAX_PARSED_BYTES: Final = 56 << 20
"""So much the values in one text may take."""

LIST_BYTES: Final = 64
DICT_BYTES: Final = 240
VALUE_BYTES: Final = 40

MAX_DIGITS: Final = 300
_LONG_NUMBER: Final = re.compile(rf"[0-9]{{{MAX_DIGITS}}}")
MAX_DEPTH: Final = 100
USUAL_RECURSION: Final = 10_000
"""Up to this limit of recursion Python itself gives a text up that is nested too deeply; above, its stack would end."""

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parsed(text: str) -> Any:  # noqa: ANN401 - whatever it holds
    """Return the values of a text. Raises `FactsError`, also for one that would take too much memory or time."""
    takes = sys.getsizeof(text) + LIST_BYTES * text.count("[") + DICT_BYTES * objects(text)
    takes += VALUE_BYTES * text.count(",")
    if takes > MAX_PARSED_BYTES:
        raise FactsError(f"it would take {takes >> 20} MiB to read it, above {MAX_PARSED_BYTES >> 20}")
    if _LONG_NUMBER.search(text):
        raise FactsError(f"it has a number of {MAX_DIGITS} digits or more")
    if sys.getrecursionlimit() > USUAL_RECURSION:
        _check_depth(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FactsError(f"it is no JSON: {error}") from None


def objects(text: str) -> int:
    """Return of how many dictionaries a text consists, at most."""
    return text.count("{")


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise FactsError(f"it is nested more than {MAX_DEPTH} times")
