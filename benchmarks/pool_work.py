"""What every pool is given to do. Light to import: some pools start an interpreter for each task."""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
STEP_BYTES = 64 << 10
"""How much memory is touched between two looks at the clock: 20 us."""
_NOTES = struct.Struct("ddq")


def nothing(wait_s: float) -> float:
    """Do nothing, or wait a while."""
    time.sleep(wait_s)
    return wait_s


def take(array: Any) -> float:  # noqa: ANN401 - numpy is loaded where it is needed, not for the type
    """Return when the array was there."""
    began_s = time.monotonic()
    assert array[0] == array[-1] == 1.0
    return began_s


def make(items: int) -> tuple[Any, float]:
    """Return an array, and when it was made."""
    import numpy as np  # noqa: PLC0415 - most tasks need none, and their process would load it

    array = np.full(items, 1.0)
    return array, time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a task that grew has noted: when it went past its limit (0: never), its last step, and what it held."""

    passed_s: float
    last_s: float
    held_bytes: int

    @property
    def since_s(self) -> float:
        """From when on somebody could have ended it: past the limit, or where it was ended before that."""
        return self.passed_s or self.last_s


def lay_out(place: Path) -> None:
    """Make the file into which `grow` notes; it is shared memory, and outlives who is killed."""
    place.write_bytes(_NOTES.pack(0.0, 0.0, 0))


def noted(place: Path) -> Growth:
    """Return what was noted."""
    passed_s, last_s, held_bytes = _NOTES.unpack(place.read_bytes())
    return Growth(passed_s=passed_s, last_s=last_s, held_bytes=held_bytes)


def grow(place: str, limit_bytes: int, most_bytes: int, hold_s: float) -> int:
    """Take memory step by step up to ``most_bytes``, note each step, and hold it for a while.

    What counts as held is anonymous memory of the whole process, as each mechanism counts it whatever else it counts.
    """
    with Path(place).open("r+b") as file:
        notes = mmap.mmap(file.fileno(), _NOTES.size)
    taken = mmap.mmap(-1, most_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    filling = b"x" * STEP_BYTES
    held_bytes, passed_s = _anonymous_bytes(), 0.0
    for at in range(0, most_bytes, STEP_BYTES):
        taken[at : at + STEP_BYTES] = filling[: most_bytes - at]
        held_bytes += STEP_BYTES
        now_s = time.monotonic()
        if not passed_s and held_bytes > limit_bytes:
            passed_s = now_s
        _NOTES.pack_into(notes, 0, passed_s, now_s, held_bytes)
    time.sleep(hold_s)
    taken.close()
    return os.getpid()


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
