"""The port that clients talk to: it hands every byte on to the plane, and can be slow, lost and back.

Pods talk to the plane directly. So a client that loses the network loses nothing of its run.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .faults import Faults

CHUNK_BYTES = 256 * 1024
SLOW_STEP_S = 0.02
"""On a slow network bytes are handed on so often."""


class Wire:
    """A listener on loopback in front of the plane's own port."""

    def __init__(self, faults: Faults, inner_port: int) -> None:
        self.faults = faults
        self.port = 0
        self._inner_port = inner_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._back: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen: first on any free port, later on the same one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and break every connection."""
        if self._back is not None:
            self._back.cancel()
        if self._server is not None:
            self._server.close()
        self.cut()

    def lose(self, seconds: float) -> None:
        """Break every connection and refuse new ones for so long."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        if self._back is not None:
            self._back.cancel()
        self._back = asyncio.get_running_loop().create_task(self._return(seconds))

    def cut(self) -> None:
        """Break every connection there is now; the next ones work."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _return(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.open()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner_port, limit=CHUNK_BYTES)
            ends = {writer, inner_writer}
            self._writers |= ends
            try:
                await asyncio.gather(self._copy(reader, inner_writer), self._copy(inner_reader, writer))
            finally:
                self._writers -= ends
                for end in ends:
                    end.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                rate = self.faults.bytes_per_s
                data = await reader.read(CHUNK_BYTES if rate is None else max(1, int(rate * SLOW_STEP_S)))
                if not data:
                    break
                if rate is not None:
                    await asyncio.sleep(len(data) / rate)
                writer.write(data)
                await writer.drain()
        writer.close()
