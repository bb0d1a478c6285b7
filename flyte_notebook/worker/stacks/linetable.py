"""Finds the line of an instruction in CPython's line table, which is read as bytes of another process.

Entries of a head byte and varints, with columns (Objects/locations.md, later InternalDocs/code_objects.md); the same
from 3.11 to 3.15. For any bytes, the answer is a number or ``None``.
"""

from __future__ import annotations

_LONG, _NO_COLUMNS, _NO_LINE = 14, 13, 15
_ONE_LINE_0, _ONE_LINE_2 = 10, 12


def line_of(table: bytes, first_line: int, offset: int) -> int | None:
    """Return the line of the instruction at ``offset`` bytes. ``None`` when the table ends before it.

    Code without a line belongs to the line before it, and code before all lines to the first line.
    """
    line = known = first_line
    end = index = 0
    try:
        while index < len(table):
            head = table[index]
            kind, index = (head >> 3) & 15, index + 1
            if kind < _ONE_LINE_0:
                index += 1
            elif kind <= _ONE_LINE_2:
                line += kind - _ONE_LINE_0
                index += 2
            elif kind != _NO_LINE:
                value, index = _varint(table, index)
                line += -(value >> 1) if value & 1 else value >> 1
                for _ in range(3 if kind == _LONG else 0):
                    _, index = _varint(table, index)
            known = known if kind == _NO_LINE else line
            end += 2 * ((head & 7) + 1)
            if offset < end:
                return known
    except IndexError:
        return None
    return None


def _varint(table: bytes, index: int) -> tuple[int, int]:
    """Return a number stored with six bits per byte, the lowest first, and the next position. Raises IndexError."""
    value = shift = 0
    while True:
        byte = table[index]
        value |= (byte & 63) << shift
        index, shift = index + 1, shift + 6
        if not byte & 64:
            return value, index
