"""Errors in the text of a cell, shown as for a plain cell: the line, a caret under the position, the error."""

from __future__ import annotations

import ast
from typing import Any


class CellTextError(Exception):
    """A mixin for the class of an error in the text of a cell. ``lines`` are shown for it.

    The mixed class has the name of the plain one, and is caught where that one is. A handler can be set for these
    errors alone, so that IPython's display of a plain cell's syntax error is not changed.
    """

    lines: tuple[str, ...] = ()


def syntax_error(error: SyntaxError, source: str) -> SyntaxError:
    """Return the same error with the lines to show for it."""
    width = 1
    if error.end_lineno == error.lineno and error.end_offset is not None and error.offset is not None:
        width = error.end_offset - error.offset
    details = error.filename, error.lineno, error.offset, error.text, error.end_lineno, error.end_offset
    shown: Any = _mixed(type(error))(error.msg, details)
    number = error.lineno or 1
    # The compiler's own text may be only a part of the line, as for code in an f-string.
    text = next(iter(source.splitlines()[number - 1 : number]), error.text or "")
    place = _place(error.filename or "", number, text, (error.offset or 1) - 1, width)
    shown.lines = (*place, f"{type(error).__name__}: {error.msg}")
    return shown  # type: ignore[no-any-return]  # it has two bases


def name_error(error: NameError, source: str, filename: str) -> NameError:
    """Return a plain NameError that shows the line of the cell which reads the name first."""
    shown: Any = _mixed(NameError)(str(error))
    shown.name = error.name
    reads = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and node.id == error.name]
    first = min(reads, key=lambda node: (node.lineno, node.col_offset), default=None)
    place: tuple[str, ...] = ()
    if first is not None:
        line = source.splitlines()[first.lineno - 1]
        before = len(line.encode()[: first.col_offset].decode())  # ast counts bytes
        place = _place(filename, first.lineno, line, before, len(first.id))
    shown.lines = (*place, f"NameError: {error}")
    return shown  # type: ignore[no-any-return]  # it has two bases


def _mixed(kind: type[Exception]) -> type[Exception]:
    return type(kind.__name__, (kind, CellTextError), {"__module__": kind.__module__})


def _place(filename: str, number: int, text: str, before: int, width: int) -> tuple[str, ...]:
    """Return the line without its indentation, and under it a caret at ``before`` characters from its start."""
    line = text.rstrip("\n")
    stripped = line.lstrip()
    start = min(max(before - (len(line) - len(stripped)), 0), len(stripped))
    return f"  {filename}, line {number}", f"    {stripped}", f"    {' ' * start}{'^' * max(width, 1)}"
