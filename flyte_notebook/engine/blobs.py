"""Bytes to and from a worker: small ones in a message, large ones in a file that a thread writes and reads.

Small values do not go through a thread: that would double the time they take.
"""

from __future__ import annotations

import asyncio
from typing import Any

from flyte_notebook.worker.process import protocol


async def parcelled(data: bytes, directory: str) -> dict[str, Any]:
    """Return `protocol.parcel` of an answer. Raises OSError."""
    if len(data) <= protocol.INLINE_BYTES:
        return protocol.parcel(data, directory)
    return await asyncio.to_thread(protocol.parcel, data, directory)


async def unpacked(message: dict[str, Any]) -> bytes:
    """Return `protocol.unpacked` of a message. Raises OSError."""
    if message["path"] is None:
        return protocol.unpacked(message)
    return await asyncio.to_thread(protocol.unpacked, message)
