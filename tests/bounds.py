"""How long things may take in tests: what is meant for a machine as people have it, longer on one that is emulated."""

from __future__ import annotations

import os

SLOWER = float(os.environ.get("FLYTE_NOTEBOOK_TEST_SLOWER", "1"))
"""How much slower this machine is than that. Set by what starts the tests in a virtual machine."""


def bound_s(seconds: float) -> float:
    """Return how long what is meant to take at most so many seconds may take here."""
    return seconds * SLOWER
