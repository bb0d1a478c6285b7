"""Records in the lines of a log, beside what the user's code prints; on both sides.

A record is JSON, compressed, in pieces that are short enough for one write that no other one is mixed into. A piece may
begin in the middle of a user's line, which has no end yet: it is cut out, and the rest of the line is joined again.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import zlib
from typing import Any

from flyte_notebook.core.bound import from_json, to_json, unique

PIECE_CHARS = 3_000
"""Characters of data in a piece: with its frame it is less than the 4,096 bytes that a pipe takes in one write."""

_PIECE = re.compile(r"\[fnb ([0-9a-f]{8}) (\d+)/(\d+) ([A-Za-z0-9+/=]*) ([0-9a-f]{8})\]\n?")
KEPT_PARTS = 64
"""How many records may be incomplete at the same time; a log that was cut has some that stay so."""


def lines(record: dict[str, Any]) -> list[str]:
    """Return a record as lines of text, each with its end."""
    data = base64.b64encode(zlib.compress(to_json(record).encode())).decode()
    parts = [data[at : at + PIECE_CHARS] for at in range(0, len(data), PIECE_CHARS)]
    name = unique()[:8]
    return [f"[fnb {name} {at}/{len(parts)} {part} {_sum(part)}]\n" for at, part in enumerate(parts)]


def write(record: dict[str, Any], descriptor: int = 1) -> None:
    """Write a record to a file descriptor, each piece at once."""
    for line in lines(record):
        os.write(descriptor, line.encode())


class Reader:
    """Separates records from the user's text, in the order of the lines of one log."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[int, str]] = {}

    def read(self, line: str) -> tuple[str, list[dict[str, Any]]]:
        """Return the user's text of a line, and the records that it completes.

        A line without an end gets one, unless a record had it.
        """
        records: list[dict[str, Any]] = []

        def cut(match: re.Match[str]) -> str:
            name, at, count, part, checksum = match.groups()
            if _sum(part) != checksum:
                return match[0]
            parts = self._parts.setdefault(name, {})
            parts[int(at)] = part
            if len(parts) == int(count):
                record = _record(self._parts.pop(name))
                if record is None:
                    return match[0]
                records.append(record)
            while len(self._parts) > KEPT_PARTS:
                del self._parts[next(iter(self._parts))]
            return ""

        text = line if line.endswith("\n") else f"{line}\n"
        return _PIECE.sub(cut, text), records


def _record(parts: dict[int, str]) -> dict[str, Any] | None:
    """Return the record in its pieces; ``None`` where they hold none, and only look like ours."""
    try:
        data = base64.b64decode("".join(parts[at] for at in sorted(parts)))
        found = from_json(zlib.decompress(data).decode())
    except (ValueError, zlib.error):
        return None
    return found if isinstance(found, dict) else None


def _sum(part: str) -> str:
    return f"{binascii.crc32(part.encode()):08x}"
