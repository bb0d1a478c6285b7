"""Messages to processes that may read late, or never: data that a socket does not accept yet is sent later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence


class Events(Protocol):
    """An object that calls back when a socket can be read, or written."""

    def listen(self, sock: socket.socket, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call a function when the socket can be read; with ``write`` also when it can be written."""

    def ignore(self, sock: socket.socket) -> None:
        """Stop calling it."""


class Sending:
    """A message being sent through a non-blocking socket, whose other side may be closed at any time."""

    def __init__(self, sock: socket.socket, message: dict[str, Any], fds: Sequence[int], events: Events) -> None:
        """Send as much as the socket accepts. Raises OSError when the other side is closed."""
        data = protocol.control_frame(message, fds=len(fds))
        self._rest = data[protocol.send_some(sock, data, fds) :]
        self._events = events
        self._sock: socket.socket | None = None
        if self._rest:
            self._sock = sock.dup()  # the caller may listen to its own copy, or close it
            events.listen(self._sock, self._go_on, write=True)

    def give_up(self) -> None:
        """Stop sending. Idempotent."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._events.ignore(sock)
            sock.close()

    def _go_on(self) -> None:
        assert self._sock is not None
        try:
            self._rest = self._rest[protocol.send_some(self._sock, self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._rest = b""  # the other side is closed
        if not self._rest:
            self.give_up()
