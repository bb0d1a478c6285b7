"""Messages to processes that may read late, or never: what a socket has no room for is sent as soon as it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence


class Events(Protocol):
    """What calls back when something can be read, or written."""

    def listen(self, sock: socket.socket, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call when there is something to read; with ``write`` also when there is room for something to write."""

    def ignore(self, sock: socket.socket) -> None:
        """Call no more."""


class Sending:
    """A message on its way through a socket that does not block, whose other side may be closed at any time."""

    def __init__(self, sock: socket.socket, message: dict[str, Any], fds: Sequence[int], events: Events) -> None:
        """Send what there is room for. Raises OSError when the other side is gone."""
        data = protocol.control_frame(message, fds=len(fds))
        self._rest = data[protocol.send_some(sock, data, fds) :]
        self._events = events
        self._sock: socket.socket | None = None
        if self._rest:
            self._sock = sock.dup()  # the caller may listen to its own, or close it
            events.listen(self._sock, self._go_on, write=True)

    def give_up(self) -> None:
        """Send no more. Idempotent."""
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
            self._rest = b""  # nobody is there to read it
        if not self._rest:
            self.give_up()
