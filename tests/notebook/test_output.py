"""Output lands in the cell that started it, whichever thread writes it and whichever cell runs by then."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client import KernelManager
from jupyter_core.utils import ensure_event_loop
from traitlets.config import Config

from flyte_notebook.notebook.output import PublisherSink, StreamSink, cell_sink

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60


class Kernel:
    """A real kernel; keeps every output message by the cell it belongs to."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.manager = KernelManager(kernel_name="python3", context=self.context)
        self.manager.start_kernel(stderr=subprocess.DEVNULL)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)
        self.outputs: dict[str, list[tuple[str, Any]]] = {}

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.context.destroy(linger=0)
        ensure_event_loop().close()  # the blocking client keeps one for this thread

    def run(self, code: str) -> str:
        """Run a cell to its end; return its key in ``outputs``."""
        cell: str = self.client.execute(code)
        while True:
            event = self.client.get_iopub_msg(timeout=PATIENCE_S)
            kind, content = event["msg_type"], event["content"]
            owner = event["parent_header"].get("msg_id")
            if kind == "status" and content["execution_state"] == "idle" and owner == cell:
                break
            if kind not in {"status", "execute_input"}:
                self.outputs.setdefault(owner, []).append((kind, content))
        reply = self.client.get_shell_msg(timeout=PATIENCE_S)["content"]
        assert reply["status"] == "ok", reply
        return cell

    def text(self, cell: str, stream: str) -> str:
        """Return what stands in a stream of a cell by now."""
        contents = [content for kind, content in self.outputs.get(cell, []) if kind == "stream"]
        return "".join(content["text"] for content in contents if content["name"] == stream)

    def displays(self, cell: str) -> list[tuple[str, str]]:
        """Return kind and plain text of everything rich in a cell by now."""
        return [
            (kind, content.get("data", {}).get("text/plain", str(content.get("wait"))))
            for kind, content in self.outputs.get(cell, [])
            if kind != "stream"
        ]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Give a kernel with an engine: one thread, older than every cell that uses it, that calls what it is given."""
    kernel = Kernel()
    kernel.run("""
import queue, threading
from flyte_notebook.notebook.output import cell_sink
work, done = queue.Queue(), queue.Queue()
def engine():
    while True:
        done.put(work.get()())
threading.Thread(target=engine, daemon=True).start()
""")
    yield kernel
    kernel.close()


STARTS = {
    "sync": "sink = cell_sink()\nprint('one starts')",
    "async": "import asyncio\nawait asyncio.sleep(0)\nsink = cell_sink()\nprint('one starts')",
}


@pytest.mark.jupyter
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_while_another_cell_runs_output_lands_in_the_cell_that_started_it(kernel: Kernel, start: str) -> None:
    """Streams, displays, updates and clearing go to cell one, though an older thread sends them during cell two."""
    one = kernel.run(start)
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
""")
    assert kernel.text(one, "stdout") == "one starts\ntext of one\nend of one\n"
    assert kernel.text(one, "stderr") == "complaint of one\n"
    assert kernel.displays(one) == [
        ("display_data", "picture"),
        ("update_display_data", "newer"),
        ("clear_output", "True"),
    ]
    assert kernel.text(two, "stdout") == "two starts\ntwo ends\n"
    assert kernel.displays(two) == []
    # What was printed before a display stands above it.
    order = [kind if kind != "stream" else content["text"] for kind, content in kernel.outputs[one]]
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
""")
    assert kernel.text(cell, "stdout") == "".join(f"{number}\n" for number in range(10_000))
    assert len(kernel.outputs[cell]) < 1_000


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
""")
    shown = kernel.run("print(repr(seen.stdout), [output.data for output in seen.outputs])")
    assert kernel.text(shown, "stdout") == "'text' [{'text/plain': 'picture'}]\n"


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
