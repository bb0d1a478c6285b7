"""What a task prints is seen while it runs, whole, at the right place, and never at the price of our memory."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import psutil
import pytest

import flyte_notebook as fn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="output", resources=flyte.Resources(cpu=1, memory="300Mi"))
LIVE_BYTES = 1 << 20


class Keeping:
    """A sink that keeps what it is given, with the time of each piece."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, str, str]] = []

    def write(self, stream: str, text: str) -> None:
        self.pieces.append((time.monotonic(), stream, text))

    def display(self, message: dict[str, Any]) -> None:
        self.write("stdout", str(message))

    def flush(self) -> None:
        """Do nothing."""

    def text(self, stream: str = "stdout") -> str:
        return "".join(text for _, name, text in self.pieces if name == stream)

    def seen_s(self, words: str) -> float:
        return next(when for when, _, text in self.pieces if words in text)


@pytest.fixture
def sink(session: Session, monkeypatch: pytest.MonkeyPatch) -> Keeping:
    """Return the sink of every run in this test."""
    keeping = Keeping()
    monkeypatch.setattr(session, "_sink", lambda: keeping)
    return keeping


@env.task
def says_and_waits(path: str) -> None:
    print("first line")  # noqa: T201 - as a task does
    until = time.monotonic() + 30
    while not os.path.exists(path) and time.monotonic() < until:  # noqa: PTH110 - runs in a worker
        time.sleep(0.01)
    print("last line")  # noqa: T201 - as a task does


@env.task
def counts_and_dies(lines: int) -> None:
    for number in range(lines):
        print("line", number)  # noqa: T201 - as a task does
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(30)


@env.task
def counts_and_eats(lines: int) -> int:
    for number in range(lines):
        print("line", number)  # noqa: T201 - as a task does
    return len(bytearray(2**30))


@env.task
def speaks_in_every_way() -> None:
    print("by print", flush=True)  # noqa: T201 - as a task does
    os.write(1, b"by descriptor\n")
    libc = ctypes.CDLL(None)
    libc.printf(b"by printf %d\n", 7)
    libc.fflush(None)
    subprocess.run([sys.executable, "-c", "print('by child')"], check=True)
    subprocess.run("echo by shell; echo by shell error >&2", shell=True, check=True)  # noqa: S602 - the point
    sys.stderr.write("by stderr\n")
    print("unfinished ä €", end="")  # noqa: T201 - as a task does


@env.task
def prints_bytes() -> None:
    sys.stdout.buffer.write(b"valid \xc3\xa9 invalid \xff end\n")


@env.task
def floods(size: int) -> str:
    line = "x" * 99
    for _ in range(size // 100):
        print(line)  # noqa: T201 - as a task does
    print("the very last line")  # noqa: T201 - as a task does
    return "done"


@env.task
def floods_and_raises(size: int) -> None:
    floods.forward(size)
    raise ValueError("after all that")


@env.task
def talks(name: str, lines: int) -> str:
    for number in range(lines):
        print(f"{name} {number}")  # noqa: T201 - as a task does
        time.sleep(0.002)
    return name


@env.task
async def parent_talks() -> list[str]:
    print("parent before")  # noqa: T201 - as a task does
    names = await asyncio.gather(*(talks.aio(name, 20) for name in ("a", "b")))
    print("parent after")  # noqa: T201 - as a task does
    return list(names)


@contextmanager
def growth() -> Iterator[list[int]]:
    """Give the highest rise of this process's own memory in the block, in bytes, taken every few milliseconds."""
    process, stop, rise = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.is_set():
            rise[0] = max(rise[0], process.memory_info().rss - before)
            stop.wait(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield rise
    finally:
        stop.set()
        thread.join()


def test_a_line_is_seen_while_the_task_runs(sink: Keeping, tmp_path: Path) -> None:
    """The first line is there before the task ends: it waits for a file that is made when the line was seen."""
    go = tmp_path / "go"

    async def main() -> None:
        run = asyncio.ensure_future(flyte.run.aio(says_and_waits, str(go)))
        while "first line\n" not in sink.text():
            assert not run.done(), "the line came when the task was over"
            await asyncio.sleep(0.01)
        assert "last line" not in sink.text()
        go.touch()
        await run

    asyncio.run(main())
    assert "first line\nlast line\n" == sink.text()


@pytest.mark.parametrize("task", [counts_and_dies, counts_and_eats])
def test_output_is_complete_up_to_a_kill(sink: Keeping, task: Any) -> None:
    """Every line that was printed before SIGKILL is shown, and the last ones are in the failure."""
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, 3000)
    lines = [f"line {number}" for number in range(3000)]
    assert lines == sink.text().splitlines()
    assert caught.value.failure.output_tail.endswith("line 2998\nline 2999\n")
    assert len(caught.value.failure.output_tail) <= 8000


def test_every_way_of_printing_is_heard(sink: Keeping) -> None:
    """print, descriptors, C, children, shells, and a last line without its end; standard error apart."""
    flyte.run(speaks_in_every_way)
    expected = ["by print", "by descriptor", "by printf 7", "by child", "by shell", "unfinished ä €"]
    assert expected == sink.text().splitlines()
    assert ["by shell error", "by stderr"] == sink.text("stderr").splitlines()


def test_bytes_that_are_no_text_do_no_harm(sink: Keeping) -> None:
    """What is not UTF-8 is replaced, the rest is kept."""
    flyte.run(prints_bytes)
    assert "valid é invalid � end\n" == sink.text()


@pytest.mark.parametrize(("task", "size", "fails"), [(floods, 100 << 20, False), (floods_and_raises, 30 << 20, True)])
def test_a_flood_neither_hangs_nor_fills_memory(sink: Keeping, task: Any, size: int, *, fails: bool) -> None:
    """100 MiB of lines: a bounded part is shown, the loss is said, the end is there, and our memory stays."""
    flyte.run(talks, "warm", 1)
    sink.pieces.clear()
    began = time.monotonic()
    with growth() as rise:
        if fails:
            with pytest.raises(flyte.errors.RuntimeUserError) as caught:
                flyte.run(task, size)
            assert caught.value.failure.output_tail.endswith("\nthe very last line\n")
        else:
            assert "done" == flyte.run(task, size).outputs()[0]
    assert time.monotonic() - began < 40
    shown = sink.text()
    assert rise[0] < 24 << 20
    assert LIVE_BYTES // 2 < len(shown) < 4 * LIVE_BYTES
    assert shown.endswith("x\nthe very last line\n")
    assert "more than 1 MiB of output at once" in sink.text("stderr")
    assert "of output not shown; its end follows" in sink.text("stderr")


def test_output_of_nested_tasks_goes_where_their_run_belongs(sink: Keeping) -> None:
    """Lines of parent and children are all in the one sink, each task's own in order."""
    assert ["a", "b"] == flyte.run(parent_talks).outputs()[0]
    lines = sink.text().splitlines()
    assert ["parent before", "parent after"] == [lines[0], lines[-1]]
    for name in ("a", "b"):
        assert [f"{name} {number}" for number in range(20)] == [line for line in lines if line.startswith(name)]


def test_two_runs_at_a_time_keep_their_output_apart(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run writes to the sink that was its caller's when it began."""
    sinks = [Keeping(), Keeping()]
    waiting = list(sinks)
    monkeypatch.setattr(session, "_sink", lambda: waiting.pop(0))

    async def main() -> list[str]:
        runs = await asyncio.gather(*(flyte.run.aio(talks, name, 100) for name in ("left", "right")))
        return [run.outputs()[0] for run in runs]

    names = asyncio.run(main())
    assert ["left", "right"] == sorted(names)
    for sink in sinks:
        name = sink.text().partition(" ")[0]
        assert [f"{name} {number}" for number in range(100)] == sink.text().splitlines()
    assert {"left", "right"} == {sink.text().partition(" ")[0] for sink in sinks}


def test_output_without_a_notebook_is_on_the_streams_of_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Under fn.enable() in a script, standard output of a task is standard output of the script."""
    flyte.run(speaks_in_every_way)
    captured = capsys.readouterr()
    assert captured.out.startswith("by print\nby descriptor\n")
    assert "by stderr\n" in captured.err
    assert fn.last_run is not None
    assert fn.last_run.failure is None
