"""Tests of timing run alone: no other test runs beside them in another process of the same run.

A test takes its turn by locks of files that all processes of the run share. Many may be in the room at the same time,
or one that asked to be alone. Whoever waits to be alone holds the gate, so that no other comes in before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE_VARIABLE = "FLYTE_NOTEBOOK_TEST_TURNS"
"""The directory of this run, of all of its processes together; the locks are in it."""


@contextlib.contextmanager
def taken(*, alone: bool) -> Iterator[None]:
    """Wait for a turn, and have it until the end of the block."""
    place = os.environ[PLACE_VARIABLE]
    with Path(place, "gate").open("w") as gate, Path(place, "room").open("w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # a child that was forked meanwhile has it as well
