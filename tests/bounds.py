"""How long something may take that is prompt on a machine with nothing else to do."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SLOWER = float(os.environ.get("FLYTE_NOTEBOOK_TEST_SLOWER", "1"))
"""How much slower this machine is than most people's. Set by what starts the tests in a virtual machine."""


def under_load(seconds: float) -> float:
    """Return a bound that holds on a quiet machine, longer by as much as each core has more than one thing to do."""
    busy = os.getloadavg()[0]
    with contextlib.suppress(OSError):  # elsewhere than on Linux
        # proc(5): the fourth field is what runs or waits for a core at this moment, of how many threads.
        busy = max(busy, float(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
    return seconds * SLOWER * max(1.0, busy / (os.cpu_count() or 1))
