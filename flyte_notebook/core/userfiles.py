"""Whose code a file is: the user's, or installed, the standard library's, ours.

Apart from what reads frames, because the supervisor asks as well, and loads nothing that it does not need.
"""

from __future__ import annotations

import os
import sysconfig
from functools import cache
from pathlib import Path

HERE = str(Path(__file__).parent.parent) + os.sep


def is_user_file(filename: str) -> bool:
    """Whether code of this name is the user's. Code that a program made with ``exec`` is not, a notebook's cell is."""
    if filename.startswith("<") and not filename.startswith(("<ipython", "<cell")):
        return False
    installed = f"{os.sep}site-packages{os.sep}" in filename or f"{os.sep}dist-packages{os.sep}" in filename
    return bool(filename) and not installed and not filename.startswith((HERE, *_installed()))


@cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[key] + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib"))
