"""Waiting for a future and for a message at the same time."""

from __future__ import annotations

import concurrent.futures
import os
import socket
import threading
import time

import zmq

from flyte_notebook.notebook.pump import Waker

LONG_S = 30.0


def test_the_end_of_the_future_ends_the_wait() -> None:
    """Whether it ends before or during it, in another thread."""
    done: concurrent.futures.Future[int] = concurrent.futures.Future()
    done.set_result(1)
    later: concurrent.futures.Future[int] = concurrent.futures.Future()
    for future in (done, later):
        began_s = time.monotonic()
        timer = threading.Timer(0.2, lambda: later.done() or later.set_result(2))
        with Waker(future) as bell:
            timer.start()
            bell.wait(LONG_S)
        assert future.done()
        assert time.monotonic() - began_s < LONG_S / 2
        timer.join()


def test_a_message_ends_the_wait_and_can_still_be_read() -> None:
    """While the future is not done; without one the wait lasts as long as was said."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    with zmq.Context() as context, context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        ours.bind("inproc://bell")
        theirs.connect("inproc://bell")
        with Waker(future) as bell:
            assert 0 == ours.getsockopt(zmq.EVENTS) & zmq.POLLIN
            began_s = time.monotonic()
            bell.wait(0.2, ours)
            assert time.monotonic() - began_s >= 0.2
            theirs.send(b"word")
            bell.wait(LONG_S, ours)
            assert time.monotonic() - began_s < LONG_S / 2
            assert not future.done()
            assert b"word" == ours.recv(zmq.NOBLOCK)


def test_a_future_that_is_done_after_the_wait_writes_to_nobody() -> None:
    """Its descriptors are given back, and what gets their numbers hears nothing."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - one way to count on each system
    with Waker(future):
        pass
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert before + 2 == len(os.listdir("/dev/fd"))  # noqa: PTH208 - as above
        future.set_result(1)
        ours.setblocking(False)
        theirs.setblocking(False)
        for end in (ours, theirs):
            try:
                heard = end.recv(1)
            except BlockingIOError:
                continue
            raise AssertionError(heard)
