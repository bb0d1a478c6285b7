"""Tells whether a file holds code of the user, of an installed package, of the standard library, or ours.

Separate from the modules that read frames: the supervisor uses this too, and imports only what it needs.
"""

from __future__ import annotations

import os
import sysconfig
from functools import cache
from pathlib import Path

HERE = str(Path(__file__).parent.parent) + os.sep


def is_user_file(filename: str) -> bool:
    """Whether code with this file name is the user's: a notebook's cell is, code that was run with ``exec`` is not."""
    if filename.startswith("<") and not filename.startswith(("<ipython", "<cell")):
        return False
    installed = f"{os.sep}site-packages{os.sep}" in filename or f"{os.sep}dist-packages{os.sep}" in filename
    return bool(filename) and not installed and not filename.startswith((HERE, *_installed()))


@cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[key] + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib"))
