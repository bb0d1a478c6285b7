"""Output of a task lands in the cell that started it, whichever cell runs by then and whichever thread writes.

What ties output to a cell is the header of the message that the kernel was answering. ipykernel keeps it in context
variables for the streams (6.29 and later) and for displays (7.1 and later; before that in one attribute, shared by all
threads). A sink is made on the cell's thread: it copies the context for the streams, and for displays the header
itself, and sends the message with that. Streams are coalesced by the kernel's own buffers (0.2 s), which are keyed by
header.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Stream = Literal["stdout", "stderr"]


class Sink(Protocol):
    """Where the output of one cell goes. Every method may be called from any thread."""

    def write(self, stream: Stream, text: str) -> None:
        """Append text to standard output or standard error of the cell."""

    def display(self, message: Mapping[str, Any]) -> None:
        """Show something rich; ``message`` as in `flyte_notebook.worker.process.context.publish`."""

    def flush(self) -> None:
        """Send what is still buffered."""


class StreamSink:
    """A sink for terminals and scripts: text to the streams, of rich output its plain text, nothing else."""

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self._streams: dict[str, TextIO | None] = {"stdout": stdout or sys.stdout, "stderr": stderr or sys.stderr}
        # The streams of a notebook find their cell in the context; a context can be entered by one thread at a time.
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()

    def write(self, stream: Stream, text: str) -> None:
        """Append text to standard output or standard error."""
        try:
            self._to_stream(self._streams[stream], "write", text)
        except UnicodeEncodeError as error:  # a terminal of another encoding; a notebook takes everything
            readable = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            self._to_stream(self._streams[stream], "write", readable)

    def display(self, message: Mapping[str, Any]) -> None:
        """Print the plain text of a new display; updates and clearing mean nothing here."""
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
        except Exception:  # noqa: BLE001 - closed, its reader gone, nothing at all, or the user's: the task goes on
            return

    def _in_cell(self, call: Callable[..., object], *arguments: object) -> None:
        with self._lock:
            self._context.run(call, *arguments)


class PublisherSink(StreamSink):
    """A sink that shows rich output through a shell's own publisher (``%%capture``, shells that are no kernel)."""

    def __init__(self, publisher: Any) -> None:
        super().__init__()
        self._publisher = publisher

    def display(self, message: Mapping[str, Any]) -> None:
        """Show something rich through the publisher that the cell had."""
        if "clear" in message:
            self._in_cell(self._publisher.clear_output, bool(message["clear"]))
        elif "data" in message:
            self._in_cell(self._publish, message)

    def _publish(self, message: Mapping[str, Any]) -> None:
        self._publisher.publish(
            data=dict(message["data"]),
            metadata=dict(message.get("metadata") or {}),
            transient=dict(message.get("transient") or {}),
            update=bool(message.get("update")),
        )


class KernelSink(StreamSink):
    """A sink of a Jupyter kernel: rich output is sent under the header that the cell had when the sink was made."""

    def __init__(self, publisher: Any) -> None:
        super().__init__()
        self._publisher = publisher
        self._header = dict(publisher.parent_header)

    @property
    def cell(self) -> str:
        """Which run of which cell it belongs to: the id of the message that the kernel answers."""
        return str(self._header.get("msg_id", ""))

    def display(self, message: Mapping[str, Any]) -> None:
        """Show something rich in the cell."""
        if "comm" in message or "widget" in message:
            from flyte_notebook.notebook import widgets_of_tasks  # noqa: PLC0415 - only where a task makes widgets

            if "comm" in message:
                widgets_of_tasks.take(message["comm"])
                return
            message = widgets_of_tasks.as_far_as_known(message)
        self.flush()  # what was printed before stands above
        if "clear" in message:
            self._send("clear_output", {"wait": bool(message["clear"])})
            return
        content = {
            "data": dict(message["data"]),
            "metadata": dict(message.get("metadata") or {}),
            "transient": dict(message.get("transient") or {}),
        }
        self._send("update_display_data" if message.get("update") else "display_data", content)

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        # The socket is the kernel's thread-safe one; the session signs and numbers the message.
        publisher = self._publisher
        with self._lock:
            publisher.session.send(publisher.pub_socket, kind, content, parent=self._header, ident=publisher.topic)


_chosen: contextvars.ContextVar[Sink | None] = contextvars.ContextVar("flyte_notebook sink", default=None)


def use(sink: Sink) -> None:
    """Have runs that begin in this context write to a sink, whichever cell the kernel answers by then."""
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
