"""Waits for a future and for a message on a ZMQ socket at the same time, without polling.

The socket is waited for by its descriptor, with ``select.poll`` and not with ``zmq.Poller``, which is Python code, and
would appear in the traceback of an interrupt.
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
    """Ends a wait when a future is done. A context manager; for one thread. Raises OSError if no descriptor is free."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._ours, self._theirs = protocol.pair()
        self._lock = threading.Lock()
        """Held while the descriptor is written or closed: the number of a closed descriptor may be used again."""
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
        """Block until the future is done, for that long at most, or until a message arrives on the socket.

        The caller has to read all messages of the socket before the wait, and again after it in any case: the
        descriptor reports each message only once.
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
