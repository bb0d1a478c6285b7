"""A cell that waits for a run hears messages for comms, and everything else stays as it was; in a real kernel."""

from __future__ import annotations

import concurrent.futures
import errno
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ipykernel
import pytest
from bounds import under_load
from kernels import started

from flyte_notebook.notebook.pump import ShellPump, finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernels import Kernel

PATIENCE_S = 60
PROMPT_S = 5.0
"""How soon something must happen that would otherwise happen when the run ends by itself, after 30 s."""

SETUP = """
import asyncio, time
heard, ran, comms = [], [], {}

def opened(channel, message):
    comms[channel.comm_id] = channel
    channel.send("opened")  # as a widget does: from then on 7.4 sends what is for it to the main shell

    @channel.on_msg
    def receive(message):
        data = message["content"]["data"]
        heard.append(data)
        print("printed in a handler")
        if data == "raise":
            raise ValueError("raised in a handler")
        if data == "stop":
            __import__("flyte_notebook.sdk.enforcement").sdk.enforcement.current().stop_all("the button was clicked")
        channel.send({"heard": data})

get_ipython().kernel.comm_manager.register_target("probe", opened)
flyte.init()
env = flyte.TaskEnvironment(name="pump")

def hold(seconds=30.0):
    print("running", flush=True)
    until_s = time.monotonic() + seconds
    while not os.path.exists(os.environ["GO"]) and time.monotonic() < until_s:
        time.sleep(0.02)

@env.task
def slow() -> int:
    hold()
    return 1

@env.task
def failing() -> int:
    hold()
    raise ValueError("as it should")

@env.task
async def slow_async() -> int:
    hold()
    return 1

_kept |= {*globals()}
"""
BLOCKING = "flyte.run(slow)\nprint('after')"
WAITING = {
    "blocks": BLOCKING,
    "blocks in a call": "slow()\nprint('after')",
    "awaits": "await flyte.run.aio(slow_async)\nprint('after')",
    "awaits in asyncio.run": "async def main():\n    await flyte.run.aio(slow)\nasyncio.run(main())\nprint('after')",
    "is a task": "%%flyte_task\nhold()\nprint('after')",
}


@dataclass
class Event:
    """One message of the kernel, and when it came."""

    at_s: float
    channel: str
    kind: str
    parent: str
    content: dict[str, Any]


class Conversation:
    """Sends messages without waiting for their answers, and keeps what comes back in order."""

    def __init__(self, kernel: Kernel, go: Path) -> None:
        self.go = go
        self.client = kernel.client
        self.manager = kernel.manager
        self.events: list[Event] = []

    def release(self) -> None:
        """Let the tasks end."""
        self.go.touch()

    def send(self, kind: str, content: dict[str, Any], *, channel: str = "shell", subshell: str | None = None) -> str:
        """Send a message on a channel; return its id."""
        message = self.client.session.msg(kind, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        getattr(self.client, f"{channel}_channel").send(message)
        return str(message["header"]["msg_id"])

    def cell(self, source: str) -> str:
        """Send a cell."""
        return str(self.client.execute(source))

    def comm(self, data: str, *, comm_id: str = "probe-1", subshell: str | None = None) -> str:
        """Send data to a comm."""
        return self.send("comm_msg", {"comm_id": comm_id, "data": data}, subshell=subshell)

    def listen(self, timeout_s: float = 0.01) -> None:
        """Take what has arrived."""
        for name, receive in (
            ("shell", self.client.get_shell_msg),
            ("control", self.client.get_control_msg),
            ("iopub", self.client.get_iopub_msg),
        ):
            timeout = timeout_s if name == "iopub" else 0
            while True:
                try:
                    message = receive(timeout=timeout)
                except queue.Empty:
                    break
                parent = message["parent_header"].get("msg_id", "")
                self.events.append(Event(time.monotonic(), name, message["msg_type"], parent, message["content"]))

    def until(self, what: str, parent: str, **content: Any) -> Event:
        """Listen until a message of a kind comes that answers ``parent`` and has this content."""
        seen = 0
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            for event in self.events[seen:]:
                wanted = {name: event.content.get(name) for name in content}
                if (event.kind, event.parent) == (what, parent) and wanted == content:
                    return event
            seen = len(self.events)
            self.listen()
        raise AssertionError((what, content, self.events))

    def printed(self, cell: str, text: str) -> None:
        """Listen until a cell has printed a text."""
        while text not in self.output(cell):
            seen = len(self.events)
            until_s = time.monotonic() + PATIENCE_S
            while len(self.events) == seen:
                assert time.monotonic() < until_s, self.events
                self.listen()

    def output(self, cell: str) -> str:
        """Return what a cell has printed so far."""
        return "".join(e.content["text"] for e in self.events if (e.kind, e.parent) == ("stream", cell))

    def heard(self, data: str) -> Event:
        """Listen until a handler has answered to data."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            for event in self.events:
                if event.kind == "comm_msg" and event.content["data"] == {"heard": data}:
                    return event
            self.listen()
        raise AssertionError((data, self.events))

    def reply(self, cell: str) -> Event:
        """Listen until a cell is answered."""
        return self.until("execute_reply", cell)

    def ended(self, asked: str) -> Event:
        """Listen until the kernel has done with a message."""
        return self.until("status", asked, execution_state="idle")


@pytest.fixture
def talk(kernel: Kernel, tmp_path: Path) -> Iterator[Conversation]:
    """Give a conversation with a kernel that has an open comm, and tasks that run until `Conversation.release`."""
    if not kernel.value("'slow' in globals()"):
        kernel.run(SETUP).ok()
    go = tmp_path / "go"
    kernel.run(f"heard.clear(); ran.clear(); os.environ['GO'] = {str(go)!r}").ok()
    conversation = Conversation(kernel, go)
    if not kernel.value("bool(comms)"):
        conversation.ended(conversation.send("comm_open", {"comm_id": "probe-1", "target_name": "probe", "data": {}}))
    yield conversation
    conversation.release()
    conversation.ended(conversation.send("kernel_info_request", {}))
    conversation.listen(0.1)


def subshell_of(talk: Conversation) -> str:
    """Return a new subshell of the kernel; skips the test where there are none."""
    info = talk.until("kernel_info_reply", talk.send("kernel_info_request", {}))
    if "kernel subshells" not in info.content.get("supported_features", []):
        pytest.skip("this ipykernel has no subshells")
    reply = talk.until("create_subshell_reply", talk.send("create_subshell_request", {}, channel="control"))
    return str(reply.content["subshell_id"])


@pytest.mark.jupyter
@pytest.mark.parametrize("way", WAITING)
def test_a_waiting_cell_answers_a_comm(talk: Conversation, way: str, record_property: Any) -> None:
    """However a cell waits for its run, a message for a comm is answered at once, and the cell ends as it would."""
    cell = talk.cell(WAITING[way])
    talk.printed(cell, "running")
    sent_s = time.monotonic()
    asked = talk.comm("click")
    answered = talk.heard("click")
    done = talk.ended(asked)
    talk.release()
    record_property("delay_s", answered.at_s - sent_s)
    assert answered.at_s - sent_s < under_load(PROMPT_S)
    assert "ok" == talk.reply(cell).content["status"]
    end = talk.ended(cell)
    assert answered.at_s <= done.at_s < end.at_s
    assert "after" in talk.output(cell)


@pytest.mark.jupyter
@pytest.mark.parametrize("way", ["blocks", "awaits"])
def test_a_comm_in_a_subshell_is_answered_too(talk: Conversation, way: str, record_property: Any) -> None:
    """A front end that sends messages for comms through a subshell, as JupyterLab does, is answered as soon."""
    subshell = subshell_of(talk)
    # A comm of its own: 7.4 goes on sending to the subshell that used it.
    talk.ended(talk.send("comm_open", {"comm_id": f"to {way}", "target_name": "probe", "data": {}}))
    cell = talk.cell(WAITING[way])
    talk.printed(cell, "running")
    sent_s = time.monotonic()
    talk.comm("through a subshell", comm_id=f"to {way}", subshell=subshell)
    answered = talk.heard("through a subshell")
    talk.release()
    record_property("delay_s", answered.at_s - sent_s)
    assert answered.at_s - sent_s < under_load(PROMPT_S)
    assert "ok" == talk.reply(cell).content["status"]
    talk.ended(cell)
    talk.ended(talk.cell(f"comms.pop('to {way}').close()"))
    talk.until(
        "delete_subshell_reply", talk.send("delete_subshell_request", {"subshell_id": subshell}, channel="control")
    )


@pytest.mark.jupyter
@pytest.mark.parametrize("way", ["blocks", "awaits", "is a task"])
def test_a_click_stops_the_run(talk: Conversation, way: str) -> None:
    """A handler that stops the run ends the cell at once, with the error that says so."""
    cell = talk.cell(WAITING[way])
    talk.printed(cell, "running")
    sent_s = time.monotonic()
    talk.comm("stop")
    reply = talk.reply(cell)
    talk.ended(cell)
    assert reply.at_s - sent_s < under_load(PROMPT_S)
    assert "ActionAbortedError" == reply.content["ename"]


@pytest.mark.jupyter
@pytest.mark.parametrize("way", ["blocks", "awaits"])
def test_what_is_queued_keeps_its_order(talk: Conversation, way: str) -> None:
    """Cells and other requests behind a waiting cell are answered once each, in order, after it; comms overtake."""
    cell = talk.cell(WAITING[way])
    talk.printed(cell, "running")
    asked = []
    for number in range(5):
        asked.append((talk.cell(f"ran.append({number})"), "execute_reply"))
        talk.comm(f"between {number}")
        if number == 2:
            asked.append((talk.send("complete_request", {"code": "heard.app", "cursor_pos": 9}), "complete_reply"))
            asked.append((talk.send("kernel_info_request", {}), "kernel_info_reply"))
    last_comm = talk.heard("between 4")
    talk.release()
    for one, kind in asked:
        assert "ok" == talk.until(kind, one).content["status"]
        talk.ended(one)
    replies = [(event.parent, event.kind) for event in talk.events if event.channel == "shell"]
    assert [(cell, "execute_reply"), *asked] == [reply for reply in replies if reply[0] in {cell, *dict(asked)}]
    assert last_comm.at_s < talk.ended(cell).at_s
    check = talk.cell("print((ran, heard))")
    talk.ended(check)
    assert f"{([*range(5)], [f'between {number}' for number in range(5)])}\n" == talk.output(check)


@pytest.mark.jupyter
@pytest.mark.parametrize("source", ["flyte.run(failing)", "await flyte.run.aio(failing)"])
def test_an_error_still_aborts_what_is_queued(talk: Conversation, source: str) -> None:
    """Cells that were queued when a waiting cell fails are aborted, and the one after them runs."""
    cell = talk.cell(source)
    talk.printed(cell, "running")
    queued = []
    for number in range(3):
        queued.append(talk.cell(f"ran.append({number})"))
        talk.comm(f"before the error {number}")
    talk.heard("before the error 2")
    talk.release()
    assert "error" == talk.reply(cell).content["status"]
    assert ["aborted"] * 3 == [talk.reply(one).content["status"] for one in queued]
    for one in queued:
        talk.ended(one)
    later = talk.cell("print(ran)")
    assert "ok" == talk.reply(later).content["status"]
    talk.ended(later)
    assert "[]\n" == talk.output(later)


@pytest.mark.jupyter
@pytest.mark.parametrize("way", ["blocks", "awaits"])
def test_a_handler_that_raises_hurts_nobody(talk: Conversation, way: str) -> None:
    """The run goes on, the next message is heard, and the cell shows neither error nor output of the handler."""
    cell = talk.cell(WAITING[way])
    talk.printed(cell, "running")
    talk.comm("raise")
    talk.comm("after the error")
    talk.heard("after the error")
    talk.release()
    assert "ok" == talk.reply(cell).content["status"]
    talk.ended(cell)
    assert "after" in talk.output(cell)
    assert "handler" not in talk.output(cell)
    assert not [event for event in talk.events if (event.kind, event.parent) == ("error", cell)]


@pytest.mark.jupyter
def test_an_interrupt_ends_a_cell_that_hears(talk: Conversation) -> None:
    """Among messages for comms an interrupt is KeyboardInterrupt at once, and what is queued is aborted, not lost.

    It ends the one handler that it meets, if any.
    """
    cell = talk.cell("flyte.run(slow)")
    talk.printed(cell, "running")
    queued = [talk.cell(f"ran.append({number})") for number in range(20)]
    talk.comm("behind the cells")
    talk.heard("behind the cells")  # a signal overtakes messages, and the kernel aborts those that it has
    for number in range(20):
        talk.comm(f"with the interrupt {number}")
    sent_s = time.monotonic()
    talk.manager.interrupt_kernel()
    reply = talk.reply(cell)
    assert "KeyboardInterrupt" == reply.content["ename"]
    assert reply.at_s - sent_s < under_load(PROMPT_S)
    assert ["aborted"] * 20 == [talk.reply(one).content["status"] for one in queued]
    talk.comm("after the interrupt")
    talk.heard("after the interrupt")
    answers = [event.content["data"] for event in talk.events if event.kind == "comm_msg"]
    unheard = [n for n in range(20) if {"heard": f"with the interrupt {n}"} not in answers]
    assert len(unheard) <= 1, unheard


@pytest.mark.jupyter
def test_an_interrupt_ends_a_handler_that_hangs(talk: Conversation) -> None:
    """A handler that never ends is interrupted together with the cell that waits."""
    setup = talk.cell("comms['probe-1'].on_msg(lambda message: (print('hangs', flush=True), time.sleep(30)))")
    talk.ended(setup)
    cell = talk.cell("flyte.run(slow)")
    talk.printed(cell, "running")
    asked = talk.comm("hang")
    talk.printed(asked, "hangs")
    talk.manager.interrupt_kernel()
    assert "KeyboardInterrupt" == talk.reply(cell).content["ename"]
    talk.ended(cell)
    talk.ended(talk.cell("opened(comms['probe-1'], None)"))


@pytest.mark.jupyter
def test_a_handler_cannot_swallow_the_interrupt(talk: Conversation) -> None:
    """A handler that catches it, as IPython does around callbacks, ends; and so does the cell that waits."""
    talk.ended(
        talk.cell(
            "def swallow(message):\n    try:\n        print('hangs', flush=True)\n        time.sleep(30)\n"
            "    except KeyboardInterrupt:\n        pass\n"
            "comms['probe-1'].on_msg(swallow)"
        )
    )
    cell = talk.cell("try:\n    flyte.run(slow)\nexcept Exception as error:\n    print('swallowed', error)")
    talk.printed(cell, "running")
    talk.printed(talk.comm("hang"), "hangs")
    talk.manager.interrupt_kernel()
    reply = talk.reply(cell)
    assert ("error", "KeyboardInterrupt") == (reply.content["status"], reply.content.get("ename"))
    talk.ended(cell)
    assert "swallowed" not in talk.output(cell)
    talk.ended(talk.cell("opened(comms['probe-1'], None)"))


@pytest.mark.jupyter
def test_a_message_for_what_is_not_there_yet_waits_for_it(talk: Conversation) -> None:
    """A comm whose target a queued cell makes is opened after that cell, and not refused before."""
    cell = talk.cell(BLOCKING)
    talk.printed(cell, "running")
    talk.cell("get_ipython().kernel.comm_manager.register_target('later', opened)")
    talk.send("comm_open", {"comm_id": "later-1", "target_name": "later", "data": {}})
    talk.comm("to the later one", comm_id="later-1")
    talk.comm("to the one that is there")
    heard = talk.heard("to the one that is there")
    talk.release()
    assert heard.at_s < talk.ended(cell).at_s < talk.heard("to the later one").at_s
    talk.ended(talk.cell("comms.pop('later-1').close()"))


@pytest.mark.jupyter
def test_the_kernel_looks_busy_while_the_cell_waits(talk: Conversation) -> None:
    """After each message for a comm the kernel says again that it is busy with the cell; then once that it is idle."""
    cell = talk.cell(BLOCKING)
    talk.printed(cell, "running")
    asked = talk.comm("click")
    info = talk.until("comm_info_reply", talk.send("comm_info_request", {}))
    assert "probe-1" in info.content["comms"]
    talk.release()
    talk.ended(cell)
    said = [event for event in talk.events if event.kind == "status"]
    states = [(event.parent == cell, event.content["execution_state"]) for event in said]
    states = states[states.index((True, "busy")) :]
    one = [(False, "busy"), (False, "idle"), (True, "busy")]
    assert [(True, "busy"), *one, *one, (True, "idle")] == states
    assert asked in {event.parent for event in said}


@pytest.mark.jupyter
def test_a_cell_without_runs_is_left_alone(talk: Conversation) -> None:
    """Where nothing of ours runs the kernel treats messages as it always did, also after a run in an earlier cell."""
    talk.release()
    talk.ended(talk.cell("flyte.run(slow)"))
    cell = talk.cell("print('blocked', flush=True)\ntime.sleep(1)")
    talk.printed(cell, "blocked")
    talk.comm("late")
    assert talk.ended(cell).at_s < talk.heard("late").at_s


@pytest.mark.jupyter
def test_the_doctor_says_that_the_button_is_heard(kernel: Kernel) -> None:
    """The magic and the function say it, once."""
    assert 1 == str(kernel.run("%flyte doctor").ok().result).count("stop button")
    assert "works while a cell is running" in kernel.value("str(fn.doctor())")


SHORT = """
from flyte_notebook.notebook import extension

@env.task
def slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

_pump = next(iter(extension._loaded.values())).pump

def looks(seconds):
    count, pump = [], _pump.pump
    _pump.pump = lambda: (count.append(1), pump())
    try:
        flyte.run(slept, seconds)
    finally:
        del _pump.pump
    return len(count)

_kept |= {*globals()}
"""


@pytest.mark.jupyter
def test_a_cell_that_waits_sleeps(kernel: Kernel, talk: Conversation) -> None:
    """It looks at its channel when something comes there, and by itself a few times a second only."""
    kernel.run(SHORT).ok()
    began_s = time.monotonic()
    quiet = kernel.value("looks(3.0)")
    assert 1 <= quiet <= 5 * (time.monotonic() - began_s)
    cell = talk.cell("looked = looks(3.0)")
    for number in range(60):
        talk.comm(f"click {number}")
        time.sleep(0.03)
    talk.reply(cell)
    talk.ended(cell)
    assert kernel.value("looked") > quiet


@pytest.mark.jupyter
def test_no_message_is_lost_when_a_wait_ends(kernel: Kernel, talk: Conversation) -> None:
    """Messages for comms and cells that arrive while runs end are all dealt with, each once, cells in their order.

    A message for a comm that is read before its cell begins to wait stands behind the cell; those that follow do not.
    """
    if (7, 1) <= ipykernel.version_info[:2] < (7, 4):
        pytest.skip("this ipykernel itself loses messages that come while it answers, and stands still")
    kernel.run(SHORT).ok()
    cells = []
    for number in range(30):
        cells.append(talk.cell(f"ran.append(flyte.run(slept, 0.0).outputs()[0] + {number})"))
        for part in range(4):
            talk.comm(f"{number}.{part}")
            time.sleep(0.005)
        cells.append(talk.cell(f"ran.append({number + 0.5})"))
    for cell in cells:
        talk.reply(cell)
    talk.heard("29.3")
    assert [half / 2 for half in range(60)] == kernel.value("ran")
    assert sorted(f"{number}.{part}" for number in range(30) for part in range(4)) == kernel.value("sorted(heard)")


LOOK = """
from flyte_notebook.notebook import extension, pump
from flyte.syncify import _api
_pump = next(iter(extension._loaded.values())).pump
_stream = pump._shell_stream(get_ipython().kernel)
_ours = _stream._recv_callback == _pump._receive
_ours = _ours and "replace_wait" in _api._BackgroundLoop.call_in_loop_sync.__qualname__
"""


@pytest.mark.jupyter
def test_unloading_gives_the_channel_back() -> None:
    """After %unload_ext the kernel's own callback stands where ours did, and the SDK waits by itself."""
    with started() as kernel:
        kernel.run("%load_ext flyte_notebook").ok()
        kernel.run(LOOK).ok()
        assert kernel.value("_ours")
        kernel.run("%unload_ext flyte_notebook").ok()
        assert kernel.value("_stream._recv_callback == _pump._deliver")
        assert "replace_wait" not in kernel.value("_api._BackgroundLoop.call_in_loop_sync.__qualname__")


class Unknown:
    """A kernel of another make."""

    shell_stream = None
    shell_handlers: dict[str, object] = {}  # noqa: RUF012 - never changed


def test_an_unknown_kernel_is_not_touched() -> None:
    """Where the names that are needed are not there, the reason names them and the doctor the other way to stop."""
    reason = ShellPump.probe(Unknown())
    assert "_recv_callback" in reason
    assert "comm_msg" in reason
    said = finding(reason)
    assert reason == said.detail
    assert "interrupt the kernel" in said.holds


def test_without_a_kernel_there_is_nothing_to_pump() -> None:
    """In a terminal nothing is installed."""
    pump = ShellPump(object(), lambda: True)
    pump.install()
    pump.pump()
    pump.uninstall()
    assert "this is no Jupyter kernel" == pump.reason


def test_without_a_descriptor_a_cell_waits_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bell can be had the wait looks now and then, and ends with the run."""

    def none_left(_future: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("flyte_notebook.notebook.pump.Waker", none_left)
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    timer = threading.Timer(0.2, future.set_result, (1,))
    timer.start()
    ShellPump(object(), lambda: True).wait(future)
    assert future.done()
    timer.join()
