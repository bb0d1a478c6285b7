"""What is no message on a worker's channel ends that attempt at once, with an error that says so, and nothing else."""

from __future__ import annotations

import os
import pickle
import resource
import struct
import time
from typing import Any

import flyte
import flyte.errors
import pytest
from bounds import under_load
from programs import error_of

from flyte_notebook.worker.process import protocol

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="channel", resources=flyte.Resources(cpu=1, memory="250Mi"))

MIB = 1 << 20
PROMPT_S = 5.0


@env.task
def sends(data: bytes, then: str) -> None:
    """Write bytes where only the worker itself should, and end or go on."""
    os.write(3, data)
    if then == "ends":
        os._exit(0)
    if then == "closes":
        os.close(3)
    time.sleep(60)


@env.task
def claims_and_sends(claimed: int, sent_mib: int) -> None:
    """Claim a length, and send as much of it as is taken."""
    os.write(3, struct.pack("!Q", claimed))
    block = bytes(MIB)
    for _ in range(sent_mib):
        os.write(3, block)
    time.sleep(60)


@env.task
async def add(a: int, b: int) -> int:
    return a + b


def framed(message: Any) -> bytes:
    body = pickle.dumps(message)
    return struct.pack("!Q", len(body)) + body


def fails_with(words: str, task: Any, *args: Any) -> None:
    """Hold an attempt to a prompt failure of the system that says the words; the next run works."""
    began_s = time.monotonic()
    error = error_of(task, *args)
    assert flyte.errors.RuntimeSystemError is type(error)
    assert "Interrupted" == error.code
    assert words in error.failure.headline
    assert words in str(error) or not words.startswith("the worker's")
    assert time.monotonic() - began_s < under_load(PROMPT_S)
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack("!Q", 8) + b"no-pickle", "a frame that is no message"),
        (framed([1]), "a frame that is no message: list"),
        (framed({}), "a message that cannot be"),
        (framed({"kind": "answer"}), "a message that cannot be"),
        (framed({"kind": "call", "number": 1}), "could not be served: KeyError('job')"),
        (framed({"kind": "call", "number": 1, "job": "none"}), "could not be served: TypeError"),
        (struct.pack("!Q", 1 << 40), "claims 1099511627776 bytes, more than"),
        (b"print this, please", "bytes, more than"),
    ],
    ids=["no pickle", "no dict", "no kind", "no answer", "no job", "a job of another kind", "too long", "text"],
)
def test_what_is_no_message_is_the_end_of_its_attempt(data: bytes, words: str) -> None:
    """The worker is killed at once, and the error says what was wrong with its channel; the next run works."""
    fails_with(words, sends, data, "goes on")


@pytest.mark.parametrize("claimed", [100, protocol.MAX_FRAME_BYTES])
def test_a_message_cut_in_half_is_no_result(claimed: int) -> None:
    """A worker that ends in the middle of a message gave no result; the error has the exit status."""
    half = struct.pack("!Q", claimed) + b"half of it"
    fails_with("exited with status 0 before it gave a result", sends, half, "ends")


def test_a_length_that_lies_takes_no_memory() -> None:
    """A claim above the bound is refused unread; one below takes no more than what really came."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fails_with("bytes, more than", claims_and_sends, protocol.MAX_FRAME_BYTES + 1, 200)
    half = struct.pack("!Q", protocol.MAX_FRAME_BYTES) + b"half of it"
    fails_with("exited with status 0", sends, half, "ends")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50 << 10
