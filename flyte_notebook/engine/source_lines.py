"""The lines that the supervisor saw an attempt at, with their text, which only the notebook's side has."""

from __future__ import annotations

import linecache
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flyte_notebook.core.outcome import Growth, LastLine, PendingAllocation, SourceLine

SOURCE_BYTES: Final = 8 << 20
"""A larger source file is not read for one line."""


def last_line(facts: Mapping[str, Any]) -> LastLine | None:
    """Return the last sampled line of the attempt, ``None`` if there was no sample."""
    seen = facts.get("last_line")
    if seen is None:
        return None
    return LastLine(
        stack=tuple(_line(*place) for place in seen["stack"]),
        age_s=seen["age_s"],
        how=seen["how"] if seen["how"] in {"stopped", "grew"} else "sampled",
    )


def grew(facts: Mapping[str, Any]) -> tuple[Growth, ...]:
    """Return the lines on which memory changed most."""
    return tuple(
        Growth(line=_line(file, number, function), grew_bytes=change)
        for file, number, function, change in facts.get("grew", ())
    )


def asked(facts: Mapping[str, Any]) -> PendingAllocation | None:
    """Return the last large allocation, ``None`` when none was seen."""
    seen = facts.get("asked")
    return None if seen is None else PendingAllocation(size_bytes=seen[0], before_bytes=seen[1])


def _line(file: str, number: int, function: str) -> SourceLine:
    text = linecache.getline(file, number).strip() if _is_readable(file) else ""
    return SourceLine(file=file, number=number, text=text, function=function)


def _is_readable(file: str) -> bool:
    """Whether it is a cell, or a file of usual size: the task chooses the name, and it may be a device."""
    if file in linecache.cache:
        return True
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= SOURCE_BYTES
