"""The engine's own loop of asyncio."""

from __future__ import annotations

import asyncio

from flyte_notebook.bound import monotonic_s


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock goes on when a notebook stops its own, and whose kind no policy of a notebook's chooses."""

    def time(self) -> float:
        """Return the time that bounds of waits are measured by."""
        return monotonic_s()
