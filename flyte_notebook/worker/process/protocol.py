"""The bytes between kernel, supervisor and worker; only this module reads or writes them.

Every message is a frame: eight bytes of length, then that many bytes. Frames between kernel and worker hold a pickled
``dict`` (both run as the same user, in the same trust). Frames between kernel and supervisor hold JSON, and may have
file descriptors with their first byte (``SCM_RIGHTS``), as many as their ``"fds"`` entry says.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from flyte_notebook.core import private
from flyte_notebook.core.bound import from_json, to_json, unique

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

CHANNEL_FD = 3
"""The descriptor of a worker's end of the channel."""

STACK_FD = 4
"""The descriptor of the socket on which a fresh interpreter hands over its memory for reading stacks."""

INLINE_BYTES = 1 << 20
"""A larger payload is sent as a file in the session directory, so that it is not held in memory twice."""

MAX_FRAME_BYTES = 32 << 20
"""Longer than any valid message: large values are sent as files. A frame with a greater length is refused unread."""

MAX_FDS = 16

_HEADER = struct.Struct("!Q")
_Socket, _new_pair = socket.socket, socket.socketpair
_send_fds, _recv_fds = socket.send_fds, socket.recv_fds
_to_pickle, _from_pickle = pickle.dumps, pickle.loads

Message = dict[str, Any]


class ChannelClosedError(ConnectionError):
    """The other side has closed the channel, or sent bytes that are no frame."""


class TooLargeMessageError(ValueError):
    """A message has more bytes than the other side accepts."""


class BrokenMessageError(ChannelClosedError):
    """The other side is there, but sent bytes that are no message: nothing more can be read from it."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected blocking sockets, whatever ``socket.setdefaulttimeout`` was called with. Raises OSError.

    All copies of a socket share the blocking mode, in other processes too.
    """
    ends = _new_pair()
    for end in ends:
        end.settimeout(None)
    return ends


def taken(descriptor: int) -> socket.socket:
    """Return the blocking socket of a descriptor. Raises OSError if it is no socket."""
    sock = _Socket(fileno=descriptor)
    sock.settimeout(None)
    return sock


def frame(message: Message) -> bytes:
    """Return the bytes of a message between kernel and worker. Raises `TooLargeMessageError`."""
    body = _to_pickle(message, protocol=pickle.HIGHEST_PROTOCOL)
    if len(body) > MAX_FRAME_BYTES:
        raise TooLargeMessageError(f"{len(body) >> 20} MiB, above the {MAX_FRAME_BYTES >> 20} that a message may have")
    return _HEADER.pack(len(body)) + body


def send(sock: socket.socket, message: Message) -> None:
    """Send a message to the other side of a worker's channel; blocks. The caller holds the lock.

    Raises `TooLargeMessageError`, and `ChannelClosedError`.
    """
    data = frame(message)
    try:
        sock.sendall(data)
    except OSError as error:
        raise ChannelClosedError(f"the other side of the channel is gone: {error}") from error


def receive(sock: socket.socket) -> Message:
    """Wait for the next message on a worker's channel. Raises `ChannelClosedError` at its end."""
    (length,) = _HEADER.unpack(_read_exactly(sock, _HEADER.size))
    return _loads(_read_exactly(sock, _checked(length)))


def parcel(data: bytes, directory: str) -> Message:
    """Return the part of a message that carries bytes: the bytes themselves, or a file if they are many.

    Raises `private.UnwritableError`.
    """
    if len(data) <= INLINE_BYTES:
        return {"data": data, "path": None}
    path = f"{directory}/{unique()}.parcel"
    private.write(path, data)
    return {"data": None, "path": path}


def unpacked(message: Message) -> bytes:
    """Return the bytes of a `parcel`, once: its file is removed. Raises OSError."""
    if message["path"] is None:
        data: bytes = message["data"]
        return data
    with private.read(message["path"]) as file:
        private.remove(message["path"])
        return file.read()


async def receive_async(reader: asyncio.StreamReader) -> Message:
    """As `receive`, on an asyncio stream."""
    import asyncio  # noqa: PLC0415 - supervisor and worker never need it

    try:
        (length,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        return _loads(await reader.readexactly(_checked(length)))
    except BrokenMessageError:
        raise
    except (asyncio.IncompleteReadError, OSError) as error:
        raise ChannelClosedError(f"the worker's channel ended: {error}") from error


def control_frame(message: Message, *, fds: int = 0) -> bytes:
    """Return the bytes of a message between kernel and supervisor that comes with that many descriptors."""
    body = to_json({**message, "fds": fds}).encode()
    return _HEADER.pack(len(body)) + body


def send_control(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a message between kernel and supervisor, with descriptors; blocks."""
    data = control_frame(message, fds=len(fds))
    sent = send_some(sock, data, fds)
    if sent < len(data):
        sock.sendall(data[sent:])


def send_some(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> int:
    """Send as much of a `control_frame` as the socket accepts, with its descriptors; return the number of bytes.

    The rest is sent without them.
    """
    return _send_fds(sock, [data], fds) if fds else sock.send(data)


class ControlReader:
    """Cuts the byte stream between kernel and supervisor into messages, and gives each its descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._fds: deque[list[int]] = deque()

    def read(self) -> list[tuple[Message, list[int]]]:
        """Read once and return the messages that are complete now. Raises `ChannelClosedError` at the end.

        If some descriptors of a message did not arrive, as this process has too many open, it is returned without any.
        """
        try:
            data, received, flags, _address = _recv_fds(self._sock, 1 << 16, MAX_FDS)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        for fd in received:
            os.set_inheritable(fd, False)  # another program that is started meanwhile must not hold it open
        if received or flags & socket.MSG_CTRUNC:
            self._fds.append(received)  # one read brings the descriptors of one message at most (unix(7))
        if not data:
            raise ChannelClosedError("the other side closed the connection")
        self._buffer += data
        return list(self._whole())

    def _whole(self) -> list[tuple[Message, list[int]]]:
        messages = []
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + _checked(length)
            if len(self._buffer) < end:
                break
            message = _control_message(bytes(self._buffer[_HEADER.size : end]))
            del self._buffer[:end]
            messages.append((message, self._fds_of(message.pop("fds", 0))))
        return messages

    def _fds_of(self, count: int) -> list[int]:
        if not count:
            return []
        fds = self._fds.popleft() if self._fds else []
        if len(fds) == count:
            return fds
        for fd in fds:
            os.close(fd)
        return []


def _control_message(body: bytes) -> Message:
    try:
        message = from_json(body.decode())
    except ValueError as error:
        raise BrokenMessageError(f"a frame that is no message: {error}") from error
    if not isinstance(message, dict) or "kind" not in message:
        raise BrokenMessageError("a frame that is no message of ours")
    return message


def _loads(body: bytes) -> Message:
    try:
        message = _from_pickle(body)  # kernel and worker run as the same user, in the same trust
    except Exception as error:
        raise BrokenMessageError(f"a frame that is no message: {error!r}") from error
    if not isinstance(message, dict):
        raise BrokenMessageError(f"a frame that is no message: {type(message).__name__}")
    return message


def _checked(length: int) -> int:
    if length > MAX_FRAME_BYTES:
        msg = f"a frame that claims {length} bytes, more than the {MAX_FRAME_BYTES} that any message has"
        raise BrokenMessageError(msg)
    return length


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        try:
            count = sock.recv_into(view[done:])
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        if not count:
            raise ChannelClosedError(f"the channel ended after {done} of {size} bytes")
        done += count
    view.release()
    return bytes(buffer)
