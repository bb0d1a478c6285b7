"""Waiting for two things at once, without looking at either again and again: a future, and a message on a ZMQ socket.

The socket is waited for by its descriptor, with ``select.poll`` and not with ``zmq.Poller``: that is Python code, and
would stand in the traceback of an interrupt.
"""

from __future__ import annotations

import contextlib
import select
import threading
from typing import TYPE_CHECKING, Any

from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    import concurrent.futures

    import zmq


class Waker:
    """Rings when a future is done. A context manager; for one thread. Raises OSError where no descriptor is left."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._ours, self._theirs = protocol.pair()
        self._lock = threading.Lock()
        """Held by who rings and who closes: the number of a closed descriptor may be somebody else's."""
        self._closed = False
        future.add_done_callback(self._ring)

    def __enter__(self) -> Waker:  # noqa: PYI034 - Self is of Python 3.11
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._closed = True
            self._ours.close()
            self._theirs.close()

    def wait(self, most_s: float, also: zmq.Socket[bytes] | None = None) -> None:
        """Block until it rings, for so long at most, or until something comes on the socket.

        Who waits for a socket has just taken in all that it held, and does so again afterwards, whatever ended the
        wait: the descriptor tells of each message once.
        """
        poller = select.poll()
        poller.register(self._ours, select.POLLIN)
        if also is not None:
            poller.register(also.fileno(), select.POLLIN)
        poller.poll(1000 * most_s)

    def _ring(self, _future: object) -> None:
        with self._lock, contextlib.suppress(OSError):
            if not self._closed:
                self._theirs.send(b"\0")
