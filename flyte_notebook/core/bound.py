"""What is taken from the standard library where user code runs too, as it was when this package was imported.

A notebook or a task may replace what it likes afterwards: ``uuid.uuid4`` by one that counts, the clock by one that
stands still, ``json`` by one that is faster, ``open`` by one that records. That is meant for its own code, and must not
change what this package does beside it. So nothing that such code can reach decides how a file is named, how long
something takes or what a message looks like.

The clock is asked for by ``clock_gettime``: tools that stop time replace ``time.monotonic`` and what refers to it in
every module, and leave this one alone. On Linux both are the same clock (Python's ``pymonotonic``).
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_read_clock = time.clock_gettime
_MONOTONIC, _REALTIME = time.CLOCK_MONOTONIC, time.CLOCK_REALTIME
_random_bytes = os.urandom

UNIQUE_BYTES = 16

open_file = open
sleep_s = time.sleep


def monotonic_s() -> float:
    """Return the time of a clock that never goes back, in seconds; only differences mean anything."""
    return _read_clock(_MONOTONIC)


def clock_s() -> float:
    """Return the time of day, in seconds since 1970."""
    return _read_clock(_REALTIME)


def unique() -> str:
    """Return a name that nobody else has or can guess: 32 hexadecimal digits, from the kernel's random numbers."""
    return _random_bytes(UNIQUE_BYTES).hex()


to_json: Callable[[Any], str] = json.JSONEncoder().encode
"""Return a value as JSON. Raises TypeError and ValueError as ``json.dumps``."""

from_json: Callable[[str], Any] = json.JSONDecoder().decode
"""Return the value that a text of JSON holds. Raises ValueError as ``json.loads``."""
