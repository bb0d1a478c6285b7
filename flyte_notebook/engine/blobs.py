"""Bytes to and from a worker: in a message, or in a file if they are many, which a thread writes and reads.

What is small takes no way through a thread: that would take as long as all the rest.
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
