"""The line of an instruction: CPython's tables of lines, read as bytes of another process.

3.10: pairs of an instruction delta and a line delta (Objects/lnotab_notes.txt, PEP 626). Since 3.11: entries of a head
byte and varints, with columns (Objects/locations.md). Whatever the bytes hold, the answer is a number or ``None``.
"""

from __future__ import annotations

_NO_LINE_310 = -128
_LONG, _NO_COLUMNS, _NO_LINE = 14, 13, 15
_ONE_LINE_0, _ONE_LINE_2 = 10, 12


def line_310(table: bytes, first_line: int, offset: int) -> int | None:
    """Return the line of the instruction at ``offset`` bytes. ``None`` when the table says none or ends before it."""
    line, end = first_line, 0
    for index in range(0, len(table) - 1, 2):
        end += table[index]
        delta = table[index + 1] - 256 if table[index + 1] > 127 else table[index + 1]  # noqa: PLR2004 - a signed byte
        if delta != _NO_LINE_310:
            line += delta
        if offset < end:
            return None if delta == _NO_LINE_310 else line
    return None


def line_311(table: bytes, first_line: int, offset: int) -> int | None:
    """As `line_310`, for the tables since 3.11. The code between two lines counts to the one before."""
    line, end, index, known = first_line, 0, 0, None
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
    """Return a number of six bits a byte, the lowest first, and where the next begins. Raises IndexError."""
    value = shift = 0
    while True:
        byte = table[index]
        value |= (byte & 63) << shift
        index, shift = index + 1, shift + 6
        if not byte & 64:
            return value, index
