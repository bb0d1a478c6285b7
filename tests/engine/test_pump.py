"""Output of a task: live, bounded, complete to its last line."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.engine.output_pump import LIVE_BYTES, READ_BYTES, TAIL_BYTES, Pump

if TYPE_CHECKING:
    from collections.abc import Callable


class Recorder:
    """A sink that keeps what it gets, and what came in one piece."""

    def __init__(self, heard: Callable[[str], object] = str) -> None:
        self.text = {"stdout": "", "stderr": ""}
        self.pieces: list[str] = []
        self._heard = heard

    def write(self, stream: str, text: str) -> None:
        self.text[stream] += text
        self.pieces.append(text)
        self._heard(text)

    def display(self, message: dict[str, Any]) -> None:
        raise AssertionError(message)

    def flush(self) -> None:
        pass


async def pumped(data: bytes, clock: Any = None) -> tuple[Recorder, Pump]:
    """Write ``data`` from another thread, as a task would, and pump it to its end."""
    read, write = os.pipe()
    err_read, err_write = os.pipe()
    os.close(err_write)
    sink = Recorder()
    arguments = {} if clock is None else {"clock": clock}
    pump = Pump(sink, {"stdout": read, "stderr": err_read}, **arguments)

    def writer() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(write, view[: 1 << 16]) :]
        os.close(write)

    thread = threading.Thread(target=writer)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110 - what is waited for happens on another thread
        await asyncio.sleep(0.005)
    thread.join()
    pump.finish()
    return sink, pump


async def test_everything_small_arrives_as_it_was() -> None:
    """Characters of several bytes, invalid bytes and a last line without a newline all arrive."""
    sink, pump = await pumped("grün\n".encode() + b"\xff bad\n" + "ende €".encode())
    assert "grün\n\ufffd bad\nende €" == sink.text["stdout"]
    assert sink.text["stdout"] == pump.tail


@pytest.mark.linux
async def test_what_is_still_in_the_pipes_at_the_end_is_taken() -> None:
    """The last words of a task that was killed, which the loop had no turn to read, are shown to the last byte."""
    sink = Recorder()
    (out, out_write), (err, err_write) = os.pipe(), os.pipe()
    pump = Pump(sink, {"stdout": out, "stderr": err})
    fcntl.fcntl(out_write, fcntl.F_SETPIPE_SZ, 4 * READ_BYTES)
    assert 3 * READ_BYTES == os.write(out_write, b"x" * (3 * READ_BYTES - 6) + b"\nlast\n")
    os.write(err_write, b"Killed")
    os.close(out_write)
    os.close(err_write)
    pump.finish()
    assert 3 * READ_BYTES == len(sink.text["stdout"])
    assert sink.text["stdout"].endswith("x\nlast\n")
    assert "Killed" == sink.text["stderr"]
    assert pump.tail.endswith("x\nlast\nKilled")


async def test_a_flood_is_cut_and_says_so() -> None:
    """Of 100 MB about one arrives live, then a notice, then the end of the output; memory stays bounded."""
    line = b"x" * 99 + b"\n"
    data = line * 1_000_000 + b"the very last line\n"
    sink, _ = await pumped(data, clock=lambda: 0.0)
    shown = len(sink.text["stdout"])
    assert LIVE_BYTES - (1 << 17) < shown < LIVE_BYTES + 2 * TAIL_BYTES
    assert sink.text["stdout"].endswith("x\nthe very last line\n")
    assert "more than 1 MiB of output at once" in sink.text["stderr"]
    lost = re.search(r"([\d.]+) MiB of output not shown", sink.text["stderr"])
    assert lost is not None
    # How much was shown before the notice is a matter of how the pipe was read, by up to a reading.
    assert (len(data) - shown) / (1 << 20) == pytest.approx(float(lost[1]), abs=0.051)
    assert all(99 == len(part) for part in sink.text["stdout"].split("\n")[-20:-2])


async def test_a_slow_talker_loses_nothing() -> None:
    """The allowance refills: the same megabytes spread over minutes all arrive."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    data = b"y" * (4 * LIVE_BYTES)
    sink, _ = await pumped(data, clock=clock)
    assert len(data) == len(sink.text["stdout"])
    assert "" == sink.text["stderr"]


async def test_a_line_waits_for_its_end_but_not_for_long() -> None:
    """Two tasks that share a sink do not mix their lines; a prompt without an end is shown soon all the same."""
    pipes = [os.pipe() for _ in range(4)]
    # The rest of the line is written as soon as the line before it is shown.
    sink = Recorder(heard=lambda text: text == "whole\n" and os.write(pipes[0][1], b"un\n50%"))
    first = Pump(sink, {"stdout": pipes[0][0], "stderr": pipes[1][0]})
    second = Pump(sink, {"stdout": pipes[2][0], "stderr": pipes[3][0]})
    os.write(pipes[0][1], b"whole\nbeg")
    os.write(pipes[2][1], b"other\n")
    until_s = time.monotonic() + 10
    while "%" not in sink.text["stdout"] or "other" not in sink.text["stdout"]:
        assert time.monotonic() < until_s, sink.pieces
        await asyncio.sleep(0.01)
    assert ["other\n", "whole\n"] == sorted(sink.pieces[:2])
    assert "begun\n50%" == "".join(sink.pieces[2:])
    for _, write in pipes:
        os.close(write)
    first.finish()
    second.finish()
