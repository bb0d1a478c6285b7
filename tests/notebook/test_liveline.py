"""The live line in real kernels: when it comes, in which cell, and that nothing but HTML stays."""

from __future__ import annotations

import queue
import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from kernels import PATIENCE_S, Reply, started
from nbclient import NotebookClient

from flyte_notebook.notebook import liveline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

TASKS = """%load_ext flyte_notebook
import asyncio, datetime, threading, time
import flyte
flyte.init()
env = flyte.TaskEnvironment(name="live", resources=flyte.Resources(memory="250Mi"))

@env.task
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=datetime.timedelta(seconds=2))))
def flaky(seconds: float) -> int:
    time.sleep(seconds)
    if flyte.ctx().attempt_number == 0:
        raise ValueError("the first attempt fails")
    return flyte.ctx().attempt_number

@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=datetime.timedelta(seconds=60))))
def fails() -> None:
    raise ValueError("again")

@env.task
async def caller(count: int) -> float:
    return sum(await asyncio.gather(*(sleep.aio(1.2) for _ in range(count))))
_kept = {*globals(), "_kept"}
"""


@pytest.fixture(scope="module")
def loaded_kernel() -> Iterator[Kernel]:
    """Give a kernel in which a first run has loaded everything that is loaded once."""
    with started() as kernel:
        kernel.run(TASKS).ok()
        kernel.run("flyte.run(sleep, 0.0)").ok()
        yield kernel


def displays_of(reply: Reply) -> list[tuple[str, dict[str, Any]]]:
    """Return what a cell displayed under the id of its live line, new or updated."""
    shown = [(kind, content) for kind, content in reply.displays if "data" in content]
    ids = {content["transient"]["display_id"] for _, content in shown if WIDGET_VIEW in content["data"]}
    return [(kind, content) for kind, content in shown if content.get("transient", {}).get("display_id") in ids]


def lines_said(reply: Reply) -> list[str]:
    """Return what the line said, in order: the value of the widget with the rows."""
    values = []
    for kind, content in reply.events:
        if kind == "comm_msg" and (state := content["data"].get("state")):
            values.append(str(state.get("value", "")))
        elif kind == "comm_open":
            values.append(str(content["data"]["state"].get("value", "")))
    return [value for value in values if 'role="group"' in value]


def models(reply: Reply) -> tuple[set[str], set[str]]:
    """Return the comms that were opened and those that were closed."""
    opened = {content["comm_id"] for kind, content in reply.events if kind == "comm_open"}
    return opened, {content["comm_id"] for kind, content in reply.events if kind == "comm_close"}


def test_a_quick_cell_has_no_line(kernel: Kernel) -> None:
    """Neither a display nor a widget, when it takes less than what a line waits for."""
    # Nobody knows how long a machine under load takes to start a task: the wait grows instead.
    kernel.run(
        "from flyte_notebook.notebook import liveline\n"
        "waits = liveline.SHOWN_AFTER_S, liveline.STREAK_SHOWN_AFTER_S\n"
        "liveline.SHOWN_AFTER_S = liveline.STREAK_SHOWN_AFTER_S = 60.0"
    ).ok()
    try:
        assert [] == kernel.run("for _ in range(2): flyte.run(sleep, 0.3)").ok().displays
        kernel.run("liveline.STREAK_SHOWN_AFTER_S = 0.1").ok()
        assert 2 == len(displays_of(kernel.run("for _ in range(3): flyte.run(sleep, 0.3)").ok()))
    finally:
        kernel.run("liveline.SHOWN_AFTER_S, liveline.STREAK_SHOWN_AFTER_S = waits").ok()


def test_a_line_comes_moves_and_is_replaced_in_its_cell(kernel: Kernel) -> None:
    """One display; updates at most four times a second; at the end plain HTML, and every widget is closed."""
    began_s = time.monotonic()
    reply = kernel.run("flyte.run(sleep, 3.0).outputs()[0]").ok()
    took_s = time.monotonic() - began_s
    first, last = displays_of(reply)
    assert ("display_data", "update_display_data") == (first[0], last[0])
    assert {WIDGET_VIEW, "text/html", "text/plain"} == set(first[1]["data"])
    assert {"text/html", "text/plain"} == set(last[1]["data"])
    assert re.fullmatch(r"✓ live\.sleep · \S+ s · peak \S+ MiB of 250 MiB", last[1]["data"]["text/plain"])
    said = lines_said(reply)
    assert 3 <= len(said) <= 4 * took_s + 1
    assert all("live.sleep" in rows for rows in said)
    assert "of 250 MiB" in said[-1]
    opened, closed = models(reply)
    assert opened
    assert opened == closed


def test_a_cell_that_fails_keeps_no_line_above_its_card(kernel: Kernel) -> None:
    """The display of the line is empty by then; the card says everything."""
    reply = kernel.run("%%flyte_task -m 250Mi\nimport time\ntime.sleep(2)\n1 / 0")
    assert "RuntimeUserError" == reply.ename
    assert {"text/html": "", "text/plain": ""} == displays_of(reply)[-1][1]["data"]


def test_quiet_shows_no_line(kernel: Kernel) -> None:
    """As long as it takes."""
    assert [] == kernel.run("%%flyte_task -m 250Mi --quiet\nimport time\ntime.sleep(1.5)").ok().displays


def test_runs_of_one_cell_share_one_line(kernel: Kernel) -> None:
    """Side by side: a row each; the first five have rows, and what stays is a row each and a count."""
    reply = kernel.run("found = await asyncio.gather(*(flyte.run.aio(sleep, 2.0) for _ in range(7)))").ok()
    first, last = displays_of(reply)
    assert ("display_data", "update_display_data") == (first[0], last[0])
    assert any(rows.count("live.sleep</bdi>") == 5 and "and 2 more runs" in rows for rows in lines_said(reply))
    rows = last[1]["data"]["text/plain"].splitlines()
    assert (6, "and 2 more runs") == (len(rows), rows[-1])


def test_one_run_after_the_other_keeps_one_line(kernel: Kernel) -> None:
    """Between two runs it neither goes nor comes again."""
    reply = kernel.run("for _ in range(4): flyte.run(sleep, 0.8)").ok()
    assert ["display_data", "update_display_data"] == [kind for kind, _ in displays_of(reply)]
    assert 4 == len(displays_of(reply)[-1][1]["data"]["text/plain"].splitlines())


def test_a_tree_and_a_retry_are_told(kernel: Kernel) -> None:
    """A task that calls others has a row for them; between two attempts the line says why, and when it goes on."""
    said = lines_said(kernel.run("flyte.run(caller, 5)").ok())
    assert any("of\u00a05\u00a0done" in rows for rows in said)
    reply = kernel.run("flyte.run(flaky, 0.3).outputs()[0]").ok()
    asleep = [rows for rows in lines_said(reply) if "attempt 1 of 2 failed (ValueError); next in " in rows]
    assert asleep
    assert any("attempt 2 of 2" in rows for rows in lines_said(reply))
    assert "2 attempts" in displays_of(reply)[-1][1]["data"]["text/plain"]


def test_a_line_stays_in_the_cell_that_began_the_run(kernel: Kernel) -> None:
    """Other cells run meanwhile; the line comes, moves and ends where its run began."""
    first = kernel.run("behind = asyncio.ensure_future(flyte.run.aio(sleep, 2.5))\nawait asyncio.sleep(0.01)").ok()
    assert [] == displays_of(first)
    second = kernel.run("await asyncio.sleep(1.5)").ok()
    third = kernel.run("print((await behind).outputs()[0])\nawait asyncio.sleep(1)").ok()
    assert ["display_data", "update_display_data"] == [kind for kind, _ in displays_of(first)]
    assert displays_of(first)[-1][1]["data"]["text/plain"].startswith("✓ live.sleep")
    assert lines_said(first)
    assert [] == second.displays + third.displays


def test_a_stop_of_the_button_ends_the_runs_of_its_cell_only(kernel: Kernel) -> None:
    """The click comes while another cell is idle; the run ends with ActionAbortedError, the neighbour's goes on."""
    cell = kernel.run(
        "import asyncio\nstopped = asyncio.ensure_future(flyte.run.aio(sleep, 60.0))\nawait asyncio.sleep(0.01)"
    ).ok()
    other = kernel.run("other = asyncio.ensure_future(flyte.run.aio(sleep, 4.0))\nawait asyncio.sleep(0.01)").ok()
    kernel.run("await asyncio.sleep(1.5)").ok()
    click(kernel, cell)
    ended = kernel.run(
        "try:\n    await stopped\nexcept Exception as error:\n    print(type(error).__name__, other.done())"
    ).ok()
    assert "ActionAbortedError False\n" == ended.stdout
    kernel.run("await other\nawait asyncio.sleep(1)").ok()
    sent = [content["data"]["state"] for kind, content in cell.events if kind == "comm_msg"]
    assert {"description": "Stopping"} in sent
    assert {"text/html": "", "text/plain": ""} == displays_of(cell)[-1][1]["data"]
    assert displays_of(other)[-1][1]["data"]["text/plain"].startswith("✓ live.sleep")


@pytest.mark.parametrize(
    ("source", "sign"), [("flyte.run(sleep, 60.0)", "running"), ("flyte.run(fails)", "failed (ValueError); next in")]
)
def test_a_stop_is_heard_by_a_cell_that_blocks(kernel: Kernel, source: str, sign: str) -> None:
    """A click ends the cell with ActionAbortedError at once, in the task and in the sleep between two attempts."""
    cell = kernel.client.execute(source)
    reply = Reply(cell, kernel._events.setdefault(cell, []))
    until_s = time.monotonic() + PATIENCE_S
    clicked, clicked_s = False, 0.0
    while True:
        try:
            event = kernel.client.get_iopub_msg(timeout=PATIENCE_S)
        except queue.Empty:
            pytest.fail(f"the kernel says nothing; so far {reply.events!r}")
        kind, content = event["msg_type"], event["content"]
        reply.events.append((kind, content))
        if not clicked and any(sign in rows for rows in lines_said(reply)):
            clicked = True
            clicked_s = time.monotonic()
            click(kernel, reply)
        if kind == "status" and content["execution_state"] == "idle" and event["parent_header"]["msg_id"] == cell:
            break
        assert time.monotonic() < until_s
    reply.content = kernel._answer(cell)
    assert "ActionAbortedError" == reply.ename
    assert time.monotonic() - clicked_s < 10


def click(kernel: Kernel, cell: Reply) -> None:
    """Do what a front end does when the button of a cell's line is clicked."""
    button = next(
        content["comm_id"]
        for kind, content in cell.events
        if kind == "comm_open" and content["data"]["state"].get("_model_name") == "ButtonModel"
    )
    message = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", message))
    if kernel.client.shell_channel is not None:
        time.sleep(0.3)  # a cell that follows must not be there first


@pytest.mark.leaves("process", "group", "file", reason="loaded again, the module's kernel has another supervisor")
def test_unloading_ends_lines_and_threads(kernel: Kernel) -> None:
    """A run that is under way is stopped with its line; no thread, no widget is left; loading again works."""
    cell = kernel.run("behind = asyncio.ensure_future(flyte.run.aio(sleep, 60.0))\nawait asyncio.sleep(1.5)").ok()
    assert 1 == len(displays_of(cell))
    kernel.run("%unload_ext flyte_notebook").ok()
    names = kernel.value("[thread.name for thread in threading.enumerate()]")
    assert [] == [name for name in names if name.startswith("flyte-notebook")]
    assert {"text/html": "", "text/plain": ""} == displays_of(cell)[-1][1]["data"]
    opened, closed = models(cell)
    assert opened == closed
    kernel.run("%load_ext flyte_notebook").ok()
    assert displays_of(kernel.run("flyte.run(sleep, 1.5)").ok())


def test_a_saved_notebook_holds_no_widget() -> None:
    """As nbclient and papermill save it: what stays of the line is HTML and text."""
    cells = ["%load_ext flyte_notebook", "%%flyte_task waits -m 250Mi\nimport time\ntime.sleep(2)"]
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3").execute()
    (shown,) = notebook.cells[1].outputs
    assert {"text/html", "text/plain"} == set(shown["data"])
    assert shown["data"]["text/plain"].startswith("✓ waits · ")


def test_who_has_watched_for_a_while_gets_half_as_many_pictures() -> None:
    """Four a second while any run is young, or a line waits for the next one; two when all of them go on for long."""
    lines = liveline.LiveLines(lambda: None)
    assert liveline.INTERVAL_S == lines._pause_s()
    cell: Any = SimpleNamespace(began_s={"old": time.monotonic() - 2 * liveline.CALM_AFTER_S})
    lines._cells["cell"] = cell
    assert 2 * liveline.INTERVAL_S == lines._pause_s()
    cell.began_s["young"] = time.monotonic()
    assert liveline.INTERVAL_S == lines._pause_s()
