"""Shows output of a task in the cell that started it, even if another cell runs by then, and from any thread.

Output belongs to a cell by the header of the message that the kernel was answering. ipykernel keeps it in context
variables for the streams (6.29 and later) and for displays (7.1 and later; before that in one attribute, shared by all
threads). A sink is made on the cell's thread: it copies the context for the streams, and for displays the header
itself, and sends the message with that. Streams are coalesced by the kernel's own buffers (0.2 s), which are keyed by
header.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TextIO

Stream = Literal["stdout", "stderr"]


written: dict[str, int] = {}
"""How many texts were written to a cell, by `KernelSink.cell`: of those that have an entry."""


class Sink(Protocol):
    """The target of one cell's output. Every method may be called from any thread."""

    def write(self, stream: Stream, text: str) -> None:
        """Append text to standard output or standard error of the cell."""

    def display(self, message: Mapping[str, Any]) -> None:
        """Show rich output; ``message`` as in `flyte_notebook.worker.process.context.publish`."""

    def flush(self) -> None:
        """Send buffered output."""


class StreamSink:
    """A sink for terminals and scripts: writes text, and the plain text of rich output, to the streams."""

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self._streams: dict[str, TextIO | None] = {"stdout": stdout or sys.stdout, "stderr": stderr or sys.stderr}
        # The streams of a notebook get their cell from the context; only one thread at a time can enter a context.
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()

    def write(self, stream: Stream, text: str) -> None:
        """Append text to standard output or standard error."""
        try:
            self._to_stream(self._streams[stream], "write", text)
        except UnicodeEncodeError as error:  # a terminal with another encoding; a notebook accepts all text
            readable = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            self._to_stream(self._streams[stream], "write", readable)

    def display(self, message: Mapping[str, Any]) -> None:
        """Print the plain text of a new display; updates and clearing are ignored."""
        text = message.get("data", {}).get("text/plain")
        if text is not None and not message.get("update"):
            self.write("stdout", f"{text}\n")

    def flush(self) -> None:
        """Flush both streams."""
        for stream in self._streams.values():
            self._to_stream(stream, "flush")

    def _to_stream(self, stream: object, method: str, *arguments: object) -> None:
        try:
            self._in_cell(getattr(stream, method), *arguments)
        except UnicodeEncodeError:
            raise
        except Exception:  # noqa: BLE001 - closed, without a reader, None, or a user's object: the task goes on
            return

    def _in_cell(self, call: Callable[..., object], *arguments: object) -> None:
        with self._lock:
            self._context.run(call, *arguments)


class PublisherSink(StreamSink):
    """A sink that shows rich output through a shell's own publisher (``%%capture``, shells without a kernel)."""

    def __init__(self, publisher: Any) -> None:
        super().__init__()
        self._publisher = publisher

    def display(self, message: Mapping[str, Any]) -> None:
        """Show rich output through the cell's publisher."""
        if "clear" in message:
            self._in_cell(self._publisher.clear_output, bool(message["clear"]))
        elif "data" in message:
            self._in_cell(lambda: self._publisher.publish(**_content(message), update=bool(message.get("update"))))


class KernelSink(StreamSink):
    """A sink of a Jupyter kernel: rich output is sent with the cell's header at the time when the sink was made."""

    def __init__(self, publisher: Any) -> None:
        super().__init__()
        self._publisher = publisher
        self._header = dict(publisher.parent_header)
        self.before_bar: Callable[[], object] | None = None
        """Called once before the first text that returns to the start of its line, as progress bars do.

        A display between two states of a bar would leave both.
        """

    def write(self, stream: Stream, text: str) -> None:
        """Append text to standard output or standard error."""
        if self.cell in written:
            written[self.cell] += 1
        before, self.before_bar = (self.before_bar, None) if "\r" in text else (None, self.before_bar)
        if before is not None:
            before()
        super().write(stream, text)

    @property
    def cell(self) -> str:
        """Identifies a run of a cell: the id of the message that the kernel answers."""
        return str(self._header.get("msg_id", ""))

    def display(self, message: Mapping[str, Any]) -> None:
        """Show rich output in the cell."""
        if "comm" in message or "widget" in message:
            from flyte_notebook.notebook import widgets_of_tasks  # noqa: PLC0415 - only if a task makes widgets

            if "comm" in message:
                widgets_of_tasks.take(message["comm"])
                return
            message = widgets_of_tasks.as_far_as_known(message)
        self.flush()  # so that earlier output is above
        if "clear" in message:
            self._send("clear_output", {"wait": bool(message["clear"])})
            return
        self._send("update_display_data" if message.get("update") else "display_data", _content(message))

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        # The socket is the kernel's thread-safe one; the session signs and numbers the message.
        publisher = self._publisher
        with self._lock:
            publisher.session.send(publisher.pub_socket, kind, content, parent=self._header, ident=publisher.topic)


def _content(message: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(message.get(name) or {}) for name in ("data", "metadata", "transient")}


_chosen: contextvars.ContextVar[Sink | None] = contextvars.ContextVar("flyte_notebook sink", default=None)


def use(sink: Sink | None) -> None:
    """Let runs that begin in this context write to a sink, even if the kernel runs another cell; ``None`` ends it."""
    _chosen.set(sink)


def cell_sink(shell: Any = None) -> Sink:
    """Return the sink of the cell that runs now; call it on the cell's own thread.

    ``shell`` is the running IPython shell if ``None``; without one (a script) output goes to ``sys.stdout`` and
    ``sys.stderr`` as they are now.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    shell = shell or _running_shell()
    if shell is None:
        return StreamSink()
    publisher = shell.display_pub
    if all(hasattr(publisher, name) for name in ("session", "pub_socket", "parent_header", "topic")):
        return KernelSink(publisher)
    return PublisherSink(publisher)


def _running_shell() -> Any:
    ipython = sys.modules.get("IPython")  # a script that never loaded IPython has no shell
    return None if ipython is None else ipython.get_ipython()
