"""A real Jupyter kernel for tests, and what its cells answer."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import zmq
from bounds import under_load
from jupyter_client import KernelManager
from jupyter_core.utils import ensure_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = under_load(60)
HELD_S = under_load(30)
"""How long something waits at most for the file that lets it go on."""
CARD = "application/vnd.flyte-notebook.failure+json"
LIVE_LINE = 'class="flyte-notebook-live'

WARM = """
import threading
for _thread in threading.enumerate():
    if _thread.name == "flyte-notebook warm":
        _thread.join(30)  # the first run has had loaded, aside, what the first card needs
"""
AT_REST = """
import threading, time

def rest():
    "Wait until what lives for a moment after a run is gone."
    for thread in threading.enumerate():
        # A live line lingers for half a second, as another run may follow; what a card needs is loaded once, aside.
        if thread.name in ("flyte-notebook-live", "flyte-notebook warm"):
            thread.join(10)
    # ipykernel has a pipe for each thread that published, and looks every ten seconds for those of threads that ended:
    # it is asked to look now.
    publishing = get_ipython().kernel.iopub_thread
    pipes, look = getattr(publishing, "_event_pipes", {}), getattr(publishing, "_event_pipe_gc", lambda: None)
    publishing.io_loop.add_callback(look)
    until_s = time.monotonic() + 15
    while not all(thread.is_alive() for thread in list(pipes)) and time.monotonic() < until_s:
        time.sleep(0.02)
"""


@dataclass
class Reply:
    """What one cell answered. ``events`` goes on growing if output lands in the cell later."""

    cell: str
    events: list[tuple[str, dict[str, Any]]]
    content: dict[str, Any] = field(default_factory=dict)
    late_s: float = 0.0
    """Seconds from the interrupt to the end of the cell."""

    @property
    def status(self) -> str:
        """Status of the execute reply: ok or error."""
        return str(self.content["status"])

    @property
    def ename(self) -> str | None:
        """Class of the exception in the execute reply, None when the cell succeeded."""
        return self.content.get("ename")

    @property
    def evalue(self) -> str:
        """Message of the exception in the execute reply."""
        return str(self.content.get("evalue", ""))

    @property
    def traceback(self) -> str:
        """The traceback that is shown under the cell, without colours."""
        lines = [line for kind, content in self.events if kind == "error" for line in content["traceback"]]
        return plain("\n".join(lines))

    @property
    def stdout(self) -> str:
        """What the cell has on standard output by now."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """What the cell has on standard error by now."""
        return self._stream("stderr")

    @property
    def displays(self) -> list[tuple[str, dict[str, Any]]]:
        """Everything that is no stream, result or error: kind of message and content."""
        return [event for event in self.events if event[0] not in {"stream", "execute_result", "error"}]

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The mime bundles that are displayed by now, in order, but for live lines: a slow machine has more."""
        bundles = [content["data"] for kind, content in self.events if kind == "display_data"]
        return [bundle for bundle in bundles if LIVE_LINE not in bundle.get("text/html", "")]

    @property
    def shown_text(self) -> str:
        """The plain text of all that is displayed by now."""
        return "\n".join(bundle.get("text/plain", "") for bundle in self.shown)

    @property
    def notes(self) -> list[str]:
        """Our own one-line remarks, without the brackets."""
        texts = [bundle.get("text/plain", "") for bundle in self.shown]
        return [text[len("[flyte_notebook: ") : -1] for text in texts if text.startswith("[flyte_notebook: ")]

    @property
    def card(self) -> dict[str, Any]:
        """The one failure card of the cell: its mime bundle."""
        cards = [bundle for bundle in self.shown if CARD in bundle]
        assert len(cards) == 1, f"{len(cards)} cards"
        return cards[0]

    @property
    def failure(self) -> dict[str, Any]:
        """What the card says to tools."""
        found: dict[str, Any] = self.card[CARD]
        return found

    @property
    def result(self) -> str | None:
        """Plain text of the value of the last expression, None when nothing is shown for it."""
        results = [content["data"] for kind, content in self.events if kind == "execute_result"]
        return results[0]["text/plain"] if results else None

    def ok(self) -> Reply:
        """Return itself; fails with what was shown when the cell did not succeed."""
        assert self.status == "ok", f"{self.ename}: {self.evalue}\n{self.traceback}"
        return self

    def _stream(self, name: str) -> str:
        return "".join(content["text"] for kind, content in self.events if kind == "stream" and content["name"] == name)


def plain(text: str) -> str:
    """Return text without terminal colours."""
    while (start := text.find("\x1b[")) >= 0:
        end = next(at for at in range(start + 2, len(text)) if text[at].isalpha())
        text = text[:start] + text[end + 1 :]
    return text


class Kernel:
    """A real kernel, one cell at a time. Output is kept by the cell that it belongs to."""

    _open: ClassVar[set[Kernel]] = set()

    def __init__(self) -> None:
        self._open.add(self)
        # A context of our own: closing it closes every socket, whatever the client forgot.
        self.context = zmq.Context()
        self.manager = KernelManager(kernel_name="python3", context=self.context)
        self.manager.start_kernel(stderr=subprocess.DEVNULL)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)
        self._events: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.context.destroy(linger=0)
        self._open.discard(self)
        if not self._open:
            ensure_event_loop().close()  # the blocking clients of this thread keep one, which they share

    def run(
        self,
        source: str,
        *,
        interrupt_after: str | None = None,
        meanwhile: Callable[[Reply], object] = lambda _: None,
    ) -> Reply:
        """Run a cell to its end. ``interrupt_after`` is what it prints when it is ready to be interrupted.

        ``meanwhile`` is called after each message that comes until then, whichever cell it belongs to.
        """
        cell = self.client.execute(source)
        reply = Reply(cell, self._events.setdefault(cell, []))
        sent_s = time.monotonic()
        while True:
            try:
                event = self.client.get_iopub_msg(timeout=PATIENCE_S)
            except queue.Empty:
                pytest.fail(f"the kernel says nothing; so far {reply.events!r}")
            kind, content = event["msg_type"], event["content"]
            owner = event["parent_header"].get("msg_id")
            if kind == "status":
                if content["execution_state"] == "idle" and owner == cell:
                    break
                continue
            if kind != "execute_input":
                self._events.setdefault(owner, []).append((kind, content))
            meanwhile(reply)
            if interrupt_after is not None and interrupt_after in reply.stdout:
                interrupt_after = None
                time.sleep(0.3)  # the cell must be inside its wait, not on the way to it
                sent_s = time.monotonic()
                self.manager.interrupt_kernel()
        reply.late_s = time.monotonic() - sent_s
        reply.content = self._answer(cell)
        return reply

    def hold_until(self, condition: Callable[[], bool], go: Path) -> None:
        """Keep the kernel in a cell that awaits until a condition comes true here; then ``go`` is there.

        For what other cells began to show, and for what arrives by itself: no time has to be guessed.
        """

        def look(_: object = None) -> None:
            if condition():
                go.touch()

        self.run(
            f"import asyncio as _asyncio, os as _os, time as _time\n_until_s = _time.monotonic() + {HELD_S}\n"
            f"while not _os.path.exists({str(go)!r}):\n    assert _time.monotonic() < _until_s\n"
            "    await _asyncio.sleep(0.02)",
            meanwhile=look,
        ).ok()

    @property
    def earlier_notes(self) -> list[str]:
        """Our own one-line remarks in all cells so far."""
        return [note for cell, events in self._events.items() for note in Reply(cell, events).notes]

    def value(self, expression: str) -> Any:
        """Return what a plain cell says an expression is worth; strings, numbers, tuples and the like."""
        reply = self.run(f"print(repr({expression}))").ok()
        return eval(reply.stdout, {"__builtins__": {}})  # noqa: S307 - our own kernel wrote it

    def complete(self, source: str, at: int | None = None) -> list[str]:
        """Return what Tab offers at a position, the end if None."""
        return list(self._answer(self.client.complete(source, at))["matches"])

    def inspect(self, source: str) -> str:
        """Return the text that Shift-Tab shows."""
        answer = self._answer(self.client.inspect(source, detail_level=0))
        return plain(answer["data"].get("text/plain", ""))

    def paged(self, source: str) -> str:
        """Return the text that a cell shows in a pager, as a cell that ends in a question mark does."""
        pages = self.run(source).ok().content["payload"]
        return "".join(plain(page["data"]["text/plain"]) for page in pages)

    def _answer(self, asked: str) -> dict[str, Any]:
        while True:
            reply = self.client.get_shell_msg(timeout=PATIENCE_S)
            if asked == reply["parent_header"]["msg_id"]:
                content: dict[str, Any] = reply["content"]
                return content
            # A kernel that was slow to start was asked more than once whether it is there, and answers each time.
            assert "kernel_info_reply" == reply["msg_type"]


@contextlib.contextmanager
def started() -> Iterator[Kernel]:
    """Give a kernel, and end it."""
    kernel = Kernel()
    try:
        yield kernel
    finally:
        kernel.close()
