"""Output lands in the cell that started it, whichever thread writes it and whichever cell runs by then."""

from __future__ import annotations

import io
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from IPython.core.interactiveshell import InteractiveShell
from kernels import started
from traitlets.config import Config

from flyte_notebook.notebook.output import PublisherSink, StreamSink, cell_sink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel, Reply


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Give a kernel with an engine: one thread, older than every cell that uses it, that calls what it is given."""
    with started() as kernel:
        kernel.run("""
import queue, threading
from flyte_notebook.notebook.output import cell_sink
work, done = queue.Queue(), queue.Queue()
def engine():
    while True:
        done.put(work.get()())
threading.Thread(target=engine, daemon=True).start()
""").ok()
        yield kernel


def displays(reply: Reply) -> list[tuple[str, str]]:
    """Return kind and plain text of everything rich in a cell by now."""
    return [
        (kind, content.get("data", {}).get("text/plain", str(content.get("wait")))) for kind, content in reply.displays
    ]


STARTS = {
    "sync": "sink = cell_sink()\nprint('one starts')",
    "async": "import asyncio\nawait asyncio.sleep(0)\nsink = cell_sink()\nprint('one starts')",
}


@pytest.mark.jupyter
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_while_another_cell_runs_output_lands_in_the_cell_that_started_it(kernel: Kernel, start: str) -> None:
    """Streams, displays, updates and clearing go to cell one, though an older thread sends them during cell two."""
    one = kernel.run(start).ok()
    two = kernel.run("""
print("two starts")
def write():
    sink.write("stdout", "text of one\\n")
    sink.write("stderr", "complaint of one\\n")
    sink.display({"data": {"text/plain": "picture"}, "metadata": {}, "transient": {"display_id": "x"}, "update": False})
    sink.display({"data": {"text/plain": "newer"}, "metadata": {}, "transient": {"display_id": "x"}, "update": True})
    sink.display({"clear": True})
    sink.write("stdout", "end of one\\n")
    sink.flush()
work.put(write)
done.get(timeout=30)
print("two ends")
""").ok()
    assert one.stdout == "one starts\ntext of one\nend of one\n"
    assert one.stderr == "complaint of one\n"
    assert displays(one) == [
        ("display_data", "picture"),
        ("update_display_data", "newer"),
        ("clear_output", "True"),
    ]
    assert two.stdout == "two starts\ntwo ends\n"
    assert displays(two) == []
    # What was printed before a display stands above it.
    order = [kind if kind != "stream" else content["text"] for kind, content in one.events]
    assert order.index("display_data") > max(order.index("text of one\n"), order.index("complaint of one\n"))


@pytest.mark.jupyter
def test_many_small_writes_are_sent_in_few_messages(kernel: Kernel) -> None:
    """Ten thousand writes from another thread arrive whole and in order, in far fewer messages."""
    cell = kernel.run("""
sink = cell_sink()
def write():
    for number in range(10_000):
        sink.write("stdout", f"{number}\\n")
    sink.flush()
work.put(write)
done.get(timeout=30)
""").ok()
    assert cell.stdout == "".join(f"{number}\n" for number in range(10_000))
    assert len(cell.events) < 1_000


@pytest.mark.jupyter
def test_a_captured_cell_captures_what_its_task_says(kernel: Kernel) -> None:
    """Inside ``%%capture`` text and displays of another thread go into the capture, not below the cell."""
    kernel.run("""%%capture seen
sink = cell_sink()
def write():
    sink.write("stdout", "text")
    sink.display({"data": {"text/plain": "picture"}})
    sink.flush()
work.put(write)
done.get(timeout=30)
""").ok()
    shown = kernel.run("print(repr(seen.stdout), [output.data for output in seen.outputs])").ok()
    assert shown.stdout == "'text' [{'text/plain': 'picture'}]\n"


def test_a_script_writes_to_its_standard_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a shell text goes to the streams; of a display its plain text; updates and clearing are left out."""
    sink = cell_sink()

    def write() -> None:
        sink.write("stdout", "out\n")
        sink.write("stderr", "err\n")
        sink.display({"data": {"text/plain": "picture", "text/html": "<p>"}})
        sink.display({"data": {"text/plain": "newer"}, "update": True})
        sink.display({"data": {"text/html": "<p>"}})
        sink.display({"clear": False})
        sink.flush()

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert isinstance(sink, StreamSink)
    assert capsys.readouterr() == ("out\npicture\n", "err\n")


def test_the_streams_of_the_moment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces ``sys.stdout`` later does not get the output of an earlier cell."""
    early, late = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", early)
    sink = cell_sink()
    monkeypatch.setattr(sys, "stdout", late)
    sink.write("stdout", "text")
    assert (early.getvalue(), late.getvalue()) == ("text", "")


def test_a_stream_that_is_gone_or_cannot_spell_does_not_stop_the_task() -> None:
    """A closed stream swallows the text, and a character that the stream cannot encode is written as its number."""
    closed, latin = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    closed.close()
    sink = StreamSink(closed, latin)
    sink.write("stdout", "text")
    sink.write("stderr", "a → é\n")
    sink.flush()
    assert latin.buffer.getvalue() == b"a \\u2192 \xe9\n"  # type: ignore[attr-defined]


def test_a_terminal_shell_shows_displays_through_its_own_publisher(capsys: pytest.CaptureFixture[str]) -> None:
    """In a shell that is no kernel the shell's publisher decides how a display looks."""
    settings = Config()
    settings.HistoryManager.enabled = False
    settings.HistoryAccessor.enabled = False
    shell = InteractiveShell.instance(config=settings)
    try:
        sink = cell_sink()
        sink.display({"data": {"text/plain": "picture", "text/html": "<p>"}, "metadata": {}})
        assert isinstance(sink, PublisherSink)
        assert cell_sink(shell).__class__ is PublisherSink
        assert capsys.readouterr().out == "picture\n"
    finally:
        InteractiveShell.clear_instance()
