"""Holds all tasks of a session together to what the groups above have left, where those limit memory (a container).

When a group above us runs out, the kernel kills a process anywhere below it, by size and ``oom_score_adj``. A task has
the highest score, but a victim with several threads that is already giving its memory back is passed over (its leader
counts as gone while another thread still tears the memory down), and a second shortage in those milliseconds takes the
next larger process: the notebook's kernel. Measured: 1 in 50. A limit on the session's own group, a little below what
is left above, lets the tasks run short among themselves, where the notebook is no candidate.

Where no group above is limited this does nothing.
"""

from __future__ import annotations

import contextlib

from flyte_notebook.limiters import machine
from flyte_notebook.limiters.kernel_files import read_number, write

SPARE_BYTES = 8 << 20
"""What is kept for the notebook's kernel and the supervisor between two calls of `Room.keep`."""

STEP_BYTES = 1 << 20
"""Smaller changes are not worth a write."""


class Room:
    """The limit on a session's group. ``usage_file`` and ``limit_file`` are that group's."""

    def __init__(self, usage_file: str, limit_file: str) -> None:
        self._usage_file = usage_file
        self._limit_file = limit_file
        self._held_bytes = 0

    def keep(self) -> None:
        """Set the limit to what the tasks use plus what is left above them; 0.2 ms. Never raises.

        What they take or give back between two readings, where this process had to wait for a core, must not be counted
        twice, as used and as left: so the usage is read on both sides.
        """
        before_bytes = read_number(self._usage_file)
        left_bytes = machine.left_above_bytes()
        usage_bytes = read_number(self._usage_file)
        if before_bytes is None or left_bytes is None or usage_bytes is None:
            return
        wanted_bytes = max(usage_bytes, min(before_bytes, usage_bytes) + left_bytes - SPARE_BYTES)
        if abs(wanted_bytes - self._held_bytes) < STEP_BYTES:
            return
        # Version 1 refuses a limit below what is used by now; the next call will see more clearly.
        with contextlib.suppress(OSError):
            write(self._limit_file, str(wanted_bytes))
            self._held_bytes = wanted_bytes
