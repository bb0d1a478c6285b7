"""Python literals in the first line of a cell: their quotation marks are Python's, and not for splitting the line."""

from __future__ import annotations

import re
import shlex

_VALUES = re.compile(
    r"""(?<!\S)--sweep(?:=|\s+)(?P<text>(?!-)(?:[^\s"'\[({]|"[^"]*"|'[^']*'|\[[^\]]*\]|\([^)]*\)|\{[^}]*\})+)"""
)


def keep_literals(line: str) -> str:
    """Return a line in which the values of ``--sweep`` survive `shlex.split`: ``--sweep x='a','b'``.

    Quotation marks around all of it are not a part of it.
    """
    return _VALUES.sub(_kept, line)


def _kept(match: re.Match[str]) -> str:
    text = match["text"]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and "=" in text:
        text = text[1:-1]
    return f"--sweep={shlex.quote(text)}"
