"""The plane on loopback, and the kernels of the notebook's tests, for the tests in this folder."""

from __future__ import annotations

import sys
from pathlib import Path

from loopback.fixtures import plane

__all__ = ["plane"]

sys.path.append(str(Path(__file__).resolve().parent.parent / "notebook"))  # the kernels that tests there use
