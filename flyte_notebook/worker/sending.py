"""The rest of a message that a socket had no room for: nobody waits until the other side reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyte_notebook.worker import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from flyte_notebook.worker.launching import Events, Message


class Sending:
    """A message on its way, and the socket that it takes, which is closed at the end of it."""

    def __init__(self, sock: socket.socket, data: bytes, events: Events) -> None:
        self._sock = sock
        self._data = data
        self._events = events
        events.listen(sock, self._send, write=True)

    def _send(self) -> None:
        try:
            self._data = self._data[protocol.send_some(self._sock, self._data) :]
        except BlockingIOError:
            return
        except OSError:
            self._data = b""  # nobody is there to read it
        if not self._data:
            self._events.ignore(self._sock)
            self._sock.close()


def send(sock: socket.socket, message: Message, fds: Sequence[int], events: Events) -> None:
    """Send a message as far as there is room, and the rest as soon as there is. The caller keeps its socket.

    The socket does not block. Raises OSError when the other side is gone.
    """
    data = protocol.control_frame(message, fds=len(fds))
    rest = data[protocol.send_some(sock, data, fds) :]
    if rest:
        Sending(sock.dup(), rest, events)
