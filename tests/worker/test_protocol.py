"""Frames between kernel, supervisor and worker."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.worker.process import child, protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two connected sockets."""
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def test_messages_arrive_whole_and_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    """Two messages sent in one go are two messages."""
    left, right = pair
    protocol.send(left, {"kind": "a", "data": b"\0" * 1000})
    protocol.send(left, {"kind": "b"})
    assert {"kind": "a", "data": b"\0" * 1000} == protocol.receive(right)
    assert {"kind": "b"} == protocol.receive(right)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        struct.pack("!Q", 100) + b"too short",
        struct.pack("!Q", protocol.MAX_FRAME_BYTES + 1),
        struct.pack("!Q", 4) + b"junk",
        protocol.frame([1])[:8] + protocol.frame([1])[8:],  # type: ignore[arg-type]  # no dict
    ],
    ids=["nothing", "half a header", "half a body", "a length that lies", "no pickle", "no dict"],
)
def test_what_is_no_frame_ends_the_channel(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    """A message cut in half, a wrong length and junk are the end of the channel, for both ways of reading."""
    left, right = pair
    left.sendall(data)
    left.close()
    with pytest.raises(protocol.ChannelClosedError):
        protocol.receive(right)

    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        with pytest.raises(protocol.ChannelClosedError):
            await protocol.receive_async(reader)

    asyncio.run(main())


def test_control_messages_carry_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each message gets its own descriptors, also when several messages are read at once."""
    left, right = pair
    pipes = [os.pipe(), os.pipe()]
    protocol.send_control(left, {"kind": "plain"})
    protocol.send_control(left, {"kind": "two"}, [pipes[0][1], pipes[1][1]])
    protocol.send_control(left, {"kind": "after"})
    reader = protocol.ControlReader(right)
    messages = []
    while len(messages) < 3:
        messages += reader.read()
    assert ["plain", "two", "after"] == [message["kind"] for message, _ in messages]
    assert [0, 2, 0] == [len(fds) for _, fds in messages]
    for (read, write), fd in zip(pipes, messages[1][1], strict=True):
        assert not os.get_inheritable(fd)  # else a program that is started now would hold it open
        os.write(fd, b"x")
        assert b"x" == os.read(read, 1)
        for each in (read, write, fd):
            os.close(each)


def test_a_control_message_larger_than_the_buffer_arrives(pair: tuple[socket.socket, socket.socket]) -> None:
    """A long message (a full environment, a long trace) is put together from several reads."""
    left, right = pair
    reader = protocol.ControlReader(right)
    left.setblocking(False)
    text = "x" * 150_000
    left.setblocking(True)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    protocol.send_control(left, {"kind": "long", "text": text})
    messages: list[tuple[protocol.Message, list[int]]] = []
    while not messages:
        messages = reader.read()
    assert text == messages[0][0]["text"]


def test_the_end_of_control_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    """A closed socket is the end of the other side."""
    left, right = pair
    left.close()
    with pytest.raises(protocol.ChannelClosedError):
        protocol.ControlReader(right).read()


@pytest.mark.parametrize(
    "data", [struct.pack("!Q", 4) + b"junk", struct.pack("!Q", 2) + b"{}", struct.pack("!Q", 2) + b"[]", b"Traceback"]
)
def test_what_is_no_control_message_is_an_error_of_its_own(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    """No JSON, no object, no kind, or a length that lies: whoever sends that cannot be understood any more."""
    left, right = pair
    left.sendall(data)
    with pytest.raises(protocol.BrokenMessageError):
        protocol.ControlReader(right).read()


def test_descriptors_that_do_not_fit_leave_their_message_and_the_next_one(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """With no room for them a message comes without its descriptors, none stays open, and the next has its own."""
    left, right = pair
    read, write = os.pipe()
    reader = protocol.ControlReader(right)
    protocol.send_control(left, {"kind": "hit"}, [read, write])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    listed = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - also the one that lists them
    highest = max(fd for fd in listed if Path(f"/proc/self/fd/{fd}").exists())  # of all, whoever opened them
    taken = []
    while (fd := os.dup(read)) < highest:
        taken.append(fd)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, before[1]))
    try:
        assert [({"kind": "hit"}, [])] == reader.read()
        os.close(os.dup(read))  # there is room for one, as before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    protocol.send_control(left, {"kind": "next"}, [read, write])
    ((message, fds),) = reader.read()
    assert ("next", 2) == (message["kind"], len(fds))
    for each in (*taken, read, write, *fds):
        os.close(each)


def test_a_message_that_nobody_would_read_is_not_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    """It is refused where it is made, and the channel goes on."""
    left, right = pair
    with pytest.raises(protocol.TooLargeMessageError, match="MiB, above the"):
        protocol.send(left, {"kind": "a", "data": bytes(protocol.MAX_FRAME_BYTES)})
    protocol.send(left, {"kind": "b"})
    assert {"kind": "b"} == protocol.receive(right)


def test_an_output_that_is_too_large_is_told_instead(pair: tuple[socket.socket, socket.socket]) -> None:
    """What a task shows is replaced by a sentence, in the place where it would stand; other messages are an error."""
    left, right = pair
    channel = child.Channel(left)
    large = {"data": {"text/html": "x" * protocol.MAX_FRAME_BYTES}, "transient": {"display_id": "1"}, "update": True}
    channel.tell({"kind": "display", "message": large})
    told = protocol.receive(right)["message"]
    assert ({"display_id": "1"}, True) == (told["transient"], told["update"])
    assert "an output is not shown: it has 32 MiB" in told["data"]["text/plain"]
    with pytest.raises(protocol.TooLargeMessageError):
        channel.tell({"kind": "call", "data": bytes(protocol.MAX_FRAME_BYTES)})
