"""What the supervisor saw of an attempt's code: its lines, with their text, which is where the notebook is."""

from __future__ import annotations

import linecache
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.outcome import Growth, LastLine, PendingAllocation, SourceLine

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE_BYTES: Final = 8 << 20
"""No source that is larger is read for one line."""


def last_line(facts: Mapping[str, Any]) -> LastLine | None:
    """Return where the attempt was seen last, ``None`` when it was not."""
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
    """Whether it is a cell, or a file of a usual size: the name comes from the task, and may be that of a device."""
    if file in linecache.cache:
        return True
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= SOURCE_BYTES
