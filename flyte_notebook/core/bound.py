"""Functions of the standard library as they were when this package was imported, for processes with user code.

A notebook or a task may later replace any of them: ``uuid.uuid4`` by a counter, the clock by a frozen one, ``json`` by
a faster library, ``open`` by one that records calls. The user means such a replacement for his own code, and it must
not change this package. So this package never uses replaced functions to name a file, to measure a duration or to write
a message.

The clock is read with ``clock_gettime``: tools that freeze time replace ``time.monotonic`` and the references to it in
every module, but not this function. On Linux both are the same clock (Python's ``pymonotonic``).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

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
    """Return a unique name that cannot be guessed: 32 hexadecimal digits, from the kernel's random numbers."""
    return _random_bytes(UNIQUE_BYTES).hex()


to_json: Callable[[Any], str] = json.JSONEncoder().encode
"""Return a value as JSON. Raises TypeError and ValueError as ``json.dumps``."""

from_json: Callable[[str], Any] = json.JSONDecoder().decode
"""Return the value that a text of JSON holds. Raises ValueError as ``json.loads``."""
