"""Uploads of inputs to a cluster's storage: their progress, and at the speed of the network.

The SDK hands its HTTP client a file object, which is sent line by line: 100 MiB of binary data took 80 s. Where its
progress is listened to it sends pieces of 1 MiB, which took 0.4 s.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import flyte.remote

from flyte_notebook.core.units import format_memory

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Uploads:
    """What has been sent, of all files of one submission; told by the SDK, on its loop."""

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}
        self._sent: dict[str, int] = {}

    @property
    def sent_bytes(self) -> int:
        """How much has been sent."""
        return sum(self._sent.values())

    @property
    def total_bytes(self) -> int:
        """How much there is to send, as far as it is known."""
        return sum(self._totals.values())

    @property
    def words(self) -> str:
        """How far it is; empty when there is nothing to send."""
        sent, total = self.sent_bytes, self.total_bytes
        return f"uploading {format_memory(sent)} of {format_memory(total)}" if sent < total else ""

    def start(self, key: str, *, name: str, phase: str, total: int) -> None:
        """Note that a file begins, or begins again."""
        if phase == "uploading":
            self._totals[key], self._sent[key] = total, 0

    def advance(self, key: str, size: int) -> None:
        """Note that so many more bytes were sent; those that were only hashed do not count."""
        if key in self._sent:
            self._sent[key] += size

    def finish(self, key: str, *, failed: bool = False) -> None:
        """Note the end of a file."""
        if not failed and key in self._sent:
            self._sent[key] = self._totals[key]

    def listening(self) -> AbstractContextManager[object]:
        """Let the SDK tell of its uploads meanwhile. Where it cannot, they are slow and without progress."""
        try:
            from flyte.remote._progress import report_uploads  # noqa: PLC0415 - loaded by the first run
        except ImportError:
            return contextlib.nullcontext()
        return report_uploads(self)


async def upload(path: str) -> str:
    """Send a file to the cluster's storage, and return its path there. Raises what the SDK raises."""
    _, there = await flyte.remote.upload_file.aio(Path(path))
    return str(there)
