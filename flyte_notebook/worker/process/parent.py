"""How a process ends with another one: the kernel kills it when its parent is gone (prctl(2))."""

from __future__ import annotations

import os
import signal
import sys
import time

from flyte_notebook.worker.process import prctl

EXIT_LOST = 70
"""The status of a process whose kernel or supervisor is gone."""

PARENT_BOUND_S = 5.0
LOOK_EVERY_S = 0.0002


def depend_on(pid: int, *, after: int | None = None) -> None:
    """End with that process, which is the parent or becomes it now; ``after`` is the parent that ends first, if known.

    Other systems than Linux have nothing like it, and none of ours there has a parent that ends first.
    """
    if sys.platform != "linux":
        return
    until_s = time.monotonic() + PARENT_BOUND_S
    while (parent := os.getppid()) != pid:
        if time.monotonic() > until_s or (after is not None and parent != after):
            os._exit(EXIT_LOST)
        time.sleep(LOOK_EVERY_S)
    prctl.end_with_parent(signal.SIGKILL)
    if os.getppid() != pid:
        os._exit(EXIT_LOST)
