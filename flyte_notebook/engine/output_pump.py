"""Shows a task's stdout and stderr in the cell: live, bounded, complete to the last line.

Output is shown or dropped at once, never queued: a task that prints faster than a notebook can show must neither hang
nor fill memory. A bucket of bytes refills over time, so that a task that prints much, but slowly, loses nothing. When
the bucket is empty, output is counted, its tail is kept, and a line reports the loss.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.units import format_memory

READ_BYTES = 1 << 16
FLUSH_EVERY_S = 0.05
LIVE_BYTES = 1 << 20
REFILL_BYTES_PER_S = 1 << 16
TAIL_BYTES = 1 << 16
REPORT_TAIL_CHARS = 8_000

StreamName = Literal["stdout", "stderr"]


class Sink(Protocol):
    """The target of a run's output. Called on the engine's thread; must not block for long and must not raise."""

    def write(self, stream: StreamName, text: str) -> None:
        """Show text of a stream."""

    def display(self, message: dict[str, object]) -> None:
        """Show rich output; the message is as in `flyte_notebook.worker.process.context.publish`."""

    def flush(self) -> None:
        """Flush the written output."""


class StandardSink:
    """Writes a task's output to ``sys.stdout`` and ``sys.stderr``; for rich output it writes the text.

    A stream may be closed, ``None``, or an object of the user: the run goes on all the same.
    """

    def write(self, stream: StreamName, text: str) -> None:
        """Write text to the stream of that name."""
        target = sys.stdout if stream == "stdout" else sys.stderr
        with contextlib.suppress(Exception):
            try:
                target.write(text)
            except UnicodeEncodeError as error:  # a terminal of another encoding
                target.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))

    def display(self, message: dict[str, Any]) -> None:
        """Write the plain text of rich output."""
        text = (message.get("data") or {}).get("text/plain")
        if text:
            self.write("stdout", f"{text}\n")

    def flush(self) -> None:
        """Flush both streams."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


class Nowhere:
    """Discards all output: for the canary, and for a run that only repeats another."""

    def write(self, stream: StreamName, text: str) -> None:
        """Forget the text."""

    def display(self, message: dict[str, Any]) -> None:
        """Forget the message."""

    def flush(self) -> None:
        """Do nothing."""


class Pump:
    """Reads the pipes of one attempt until they end."""

    def __init__(self, sink: Sink, fds: dict[StreamName, int], clock: Callable[[], float] = monotonic_s) -> None:
        self._sink = sink
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._open = dict(fds)
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")(errors="replace") for name in fds}
        self._pending: list[tuple[StreamName, str]] = []
        self._flush_handle: asyncio.TimerHandle | None = None
        self._waited: set[StreamName] = set()
        self._allowance = float(LIVE_BYTES)
        self._refilled_s = clock()
        self._tail = bytearray()
        self._held = bytearray()
        self._held_name: StreamName = "stdout"
        self._dropped_bytes = 0
        self._holding = False
        for name, fd in fds.items():
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read, name)

    @property
    def tail(self) -> str:
        """The last output of the attempt, both streams in the order of arrival."""
        return bytes(self._tail).decode(errors="replace")[-REPORT_TAIL_CHARS:]

    def finish(self) -> None:
        """Read the rest from the pipes, close them, and show it; called when all writers have ended."""
        for name in list(self._open):
            while name in self._open and self._read(name):
                pass
            self._close(name)
        for name, decoder in self._decoders.items():
            self._queue(name, decoder.decode(b"", final=True))
        if self._holding:
            lost = self._dropped_bytes - len(self._held)
            note = f"\n[flyte_notebook: {format_memory(lost)} of output not shown; its end follows]\n"
            self._queue("stderr", note)
            self._queue(self._held_name, _from_line_start(self._held))
        self._flush(everything=True)
        self._sink.flush()

    def _read(self, name: StreamName) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = os.read(self._open[name], READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close(name)
            return False
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        self._take(name, data)
        return True

    def _take(self, name: StreamName, data: bytes) -> None:
        now = self._clock()
        self._allowance = min(LIVE_BYTES, self._allowance + (now - self._refilled_s) * REFILL_BYTES_PER_S)
        self._refilled_s = now
        if self._holding or len(data) > self._allowance:
            if not self._holding:
                self._holding = True
                note = (
                    f"\n[flyte_notebook: more than {format_memory(LIVE_BYTES)} of output at once; "
                    "the rest is not shown, only its end when the task is over]\n"
                )
                self._queue("stderr", note)
            self._dropped_bytes += len(data)
            self._held += data
            self._held_name = name
            del self._held[:-TAIL_BYTES]
            return
        self._allowance -= len(data)
        self._queue(name, self._decoders[name].decode(data))

    def _queue(self, name: StreamName, text: str) -> None:
        if not text:
            return
        if self._pending and self._pending[-1][0] == name:
            self._pending[-1] = (name, self._pending[-1][1] + text)
        else:
            self._pending.append((name, text))
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_later(FLUSH_EVERY_S, self._flush)

    def _flush(self, *, everything: bool = False) -> None:
        """Show pending output; an incomplete line waits once, so that tasks that share a sink do not mix lines."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        pending, self._pending = self._pending, []
        last = dict(pending)
        for name, text in pending:
            begun = "" if everything or name in self._waited or text is not last[name] else text.rpartition("\n")[2]
            whole = text[: len(text) - len(begun)]
            if whole:
                self._sink.write(name, whole)
            if begun:
                self._queue(name, begun)
        self._waited = {name for name, _ in self._pending}

    def show_now(self) -> None:
        """Show pending output before other output is shown, to keep the order."""
        for name in list(self._open):
            while name in self._open and self._read(name):
                pass
        self._flush(everything=True)

    def _close(self, name: StreamName) -> None:
        fd = self._open.pop(name, None)
        if fd is not None:
            self._loop.remove_reader(fd)
            with contextlib.suppress(OSError):
                os.close(fd)


def _from_line_start(data: bytearray) -> str:
    text = bytes(data).decode(errors="replace")
    if len(data) < TAIL_BYTES:
        return text
    _, newline, rest = text.partition("\n")
    return rest if newline else text
