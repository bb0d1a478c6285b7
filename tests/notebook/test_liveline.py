"""The live line in real kernels: when it comes, in which cell, and that nothing but HTML stays."""

from __future__ import annotations

import queue
import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import documents
import pytest
from bounds import under_load
from kernels import HELD_S, PATIENCE_S, WARM, Reply, started

from flyte_notebook.notebook import liveline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

NOT_GONE_ON = f"""
    until_s = time.monotonic() + {HELD_S}
    while not os.path.exists(go) and time.monotonic() < until_s:
        time.sleep(0.02)
"""
TASKS = f"""%load_ext flyte_notebook
import asyncio, datetime, os, threading, time
import flyte
flyte.init()
env = flyte.TaskEnvironment(name="live", resources=flyte.Resources(memory="250Mi"))

@env.task
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

@env.task
def hold(go: str) -> None:{NOT_GONE_ON}
@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=datetime.timedelta(seconds=2))))
def flaky(go: str) -> int:
    if flyte.ctx().attempt_number == 0:
        raise ValueError("the first attempt fails"){NOT_GONE_ON}
    return flyte.ctx().attempt_number

@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=datetime.timedelta(seconds=60))))
def fails() -> None:
    raise ValueError("again")

@env.task
async def caller(count: int, go: str) -> None:
    await asyncio.gather(*(hold.aio(go) for _ in range(count)))

from flyte_notebook.notebook import liveline
_waits = {{name: getattr(liveline, name) for name in ("SHOWN_AFTER_S", "STREAK_SHOWN_AFTER_S", "LINGER_S")}}
_kept = {{*globals(), "_kept"}}
"""
CELL = f"%%flyte_task {{options}} -m 250Mi\nimport os, time\nif True:{NOT_GONE_ON}{{end}}"


@pytest.fixture(scope="module")
def loaded_kernel() -> Iterator[Kernel]:
    """Give a kernel in which a first run has loaded everything that is loaded once."""
    with started() as kernel:
        kernel.run(TASKS).ok()
        kernel.run("flyte.run(sleep, 0.0)" + WARM).ok()
        yield kernel


@pytest.fixture
def go(kernel: Kernel, tmp_path: Path) -> Path:
    """Give a file that tasks and cells wait for; its path is ``go`` in the notebook."""
    kernel.run(f"go = {str(tmp_path / 'go')!r}").ok()
    return tmp_path / "go"


@pytest.fixture
def _waits(kernel: Kernel) -> Iterator[None]:
    """Put back how long lines wait."""
    yield
    kernel.run("vars(liveline).update(_waits)").ok()


def held(kernel: Kernel, source: str, go: Path, *signs: str) -> Reply:
    """Run a cell whose tasks hold until the line of it said, in one picture, all of these signs."""

    def look(reply: Reply) -> None:
        if displays_of(reply) and any(all(sign in rows for sign in signs) for rows in lines_said(reply)):
            go.touch()

    return kernel.run(source, meanwhile=look)


def displays_of(reply: Reply) -> list[tuple[str, dict[str, Any]]]:
    """Return what a cell displayed under the id of its live line, new or updated."""
    shown = [(kind, content) for kind, content in reply.displays if "data" in content]
    ids = {content["transient"]["display_id"] for _, content in shown if WIDGET_VIEW in content["data"]}
    ids = {one for one in ids if not one.startswith("fnb-form-")}
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


@pytest.mark.usefixtures("_waits")
def test_a_quick_cell_has_no_line(kernel: Kernel) -> None:
    """Neither a display nor a widget, when it takes less than what a line waits for."""
    # Nobody knows how long a machine under load takes to start a task, or between two: the waits grow instead.
    kernel.run("liveline.SHOWN_AFTER_S = liveline.STREAK_SHOWN_AFTER_S = liveline.LINGER_S = 60.0").ok()
    assert [] == kernel.run("for _ in range(2): flyte.run(sleep, 0.3)").ok().displays
    kernel.run("liveline.STREAK_SHOWN_AFTER_S = 0.1").ok()
    assert 2 == len(displays_of(kernel.run("for _ in range(3): flyte.run(sleep, 0.3)").ok()))


def test_a_line_comes_moves_and_is_replaced_in_its_cell(kernel: Kernel, go: Path) -> None:
    """One display; updates at most four times a second; at the end plain HTML, and every widget is closed."""
    began_s = time.monotonic()

    def look(reply: Reply) -> None:
        if len([rows for rows in lines_said(reply) if "of 250 MiB" in rows]) >= 3:
            go.touch()

    reply = kernel.run("flyte.run(hold, go)\n0", meanwhile=look).ok()
    took_s = time.monotonic() - began_s
    first, last = displays_of(reply)
    assert ("display_data", "update_display_data") == (first[0], last[0])
    assert {WIDGET_VIEW, "text/html", "text/plain"} == set(first[1]["data"])
    assert {"text/html", "text/plain"} == set(last[1]["data"])
    assert re.fullmatch(r"✓ live\.hold · \S+ s · peak \S+ MiB of 250 MiB", last[1]["data"]["text/plain"])
    said = lines_said(reply)
    assert 3 <= sum("of 250 MiB" in rows for rows in said)  # not the last: the task may be over, and its run not yet
    assert len(said) <= 4 * took_s + 1
    assert all("live.hold" in rows for rows in said)
    opened, closed = models(reply)
    assert opened
    assert opened == closed


def test_a_cell_that_fails_keeps_no_line_above_its_card(kernel: Kernel, go: Path) -> None:
    """The display of the line is empty by then; the card says everything."""
    reply = held(kernel, CELL.format(options="", end="1 / 0"), go)
    assert "RuntimeUserError" == reply.ename
    assert {"text/html": "", "text/plain": ""} == displays_of(reply)[-1][1]["data"]


def test_quiet_shows_no_line(kernel: Kernel) -> None:
    """As long as it takes."""
    assert [] == kernel.run("%%flyte_task -m 250Mi --quiet\nimport time\ntime.sleep(1.5)").ok().displays


def test_runs_of_one_cell_share_one_line(kernel: Kernel, go: Path) -> None:
    """Side by side: a row each; the first five have rows, and what stays is a row each and a count."""
    source = "found = await asyncio.gather(*(flyte.run.aio(hold, go) for _ in range(7)))"
    reply = held(kernel, source, go, "and 2 more runs").ok()
    first, last = displays_of(reply)
    assert ("display_data", "update_display_data") == (first[0], last[0])
    assert any(rows.count("live.hold</bdi>") == 5 and "and 2 more runs" in rows for rows in lines_said(reply))
    rows = last[1]["data"]["text/plain"].splitlines()
    assert (6, "and 2 more runs") == (len(rows), rows[-1])


@pytest.mark.usefixtures("_waits")
def test_one_run_after_the_other_keeps_one_line(kernel: Kernel) -> None:
    """Between two runs it neither goes nor comes again."""
    kernel.run("liveline.LINGER_S = 60.0").ok()  # whatever a machine under load takes between two
    reply = kernel.run("for _ in range(4): flyte.run(sleep, 0.8)").ok()
    assert ["display_data", "update_display_data"] == [kind for kind, _ in displays_of(reply)]
    assert 4 == len(displays_of(reply)[-1][1]["data"]["text/plain"].splitlines())


def test_a_tree_and_a_retry_are_told(kernel: Kernel, go: Path) -> None:
    """A task that calls others has a row for them; between two attempts the line says why, and when it goes on."""
    said = lines_said(held(kernel, "flyte.run(caller, 5, go)", go, "of\u00a05\u00a0done").ok())
    assert any("of\u00a05\u00a0done" in rows for rows in said)
    go.unlink()
    reply = held(kernel, "flyte.run(flaky, go).outputs()[0]", go, "attempt 2 of 2").ok()
    asleep = [rows for rows in lines_said(reply) if "attempt 1 of 2 failed (ValueError); next in " in rows]
    assert asleep
    assert any("attempt 2 of 2" in rows for rows in lines_said(reply))
    assert not displays_of(reply)[-1][1]["data"]["text/plain"], "its tree says how it ended"
    (tree,) = [bundle["text/plain"] for bundle in reply.shown if " · run " in bundle.get("text/plain", "")]
    assert "ValueError" in tree


@pytest.mark.usefixtures("_waits")
def test_a_line_stays_in_the_cell_that_began_the_run(kernel: Kernel, go: Path, tmp_path: Path) -> None:
    """Other cells run meanwhile; the line comes, moves and ends where its run began."""
    kernel.run("liveline.SHOWN_AFTER_S = liveline.STREAK_SHOWN_AFTER_S = 60.0").ok()  # not before the cell is over
    first = kernel.run("behind = asyncio.ensure_future(flyte.run.aio(hold, go))\nawait asyncio.sleep(0.01)").ok()
    assert [] == displays_of(first)
    second = kernel.run("liveline.SHOWN_AFTER_S = 0.5").ok()
    kernel.hold_until(lambda: bool(displays_of(first)), tmp_path / "shown")
    go.touch()
    third = kernel.run("print((await behind).outputs())\nawait asyncio.sleep(1)").ok()
    assert ["display_data", "update_display_data"] == [kind for kind, _ in displays_of(first)]
    assert displays_of(first)[-1][1]["data"]["text/plain"].startswith("✓ live.hold")
    assert lines_said(first)
    assert [] == second.displays + third.displays


def test_a_stop_of_the_button_ends_the_runs_of_its_cell_only(kernel: Kernel, go: Path, tmp_path: Path) -> None:
    """The click comes while another cell is idle; the run ends with ActionAbortedError, the neighbour's goes on."""
    cell = kernel.run(
        "import asyncio\nstopped = asyncio.ensure_future(flyte.run.aio(sleep, 60.0))\nawait asyncio.sleep(0.01)"
    ).ok()
    other = kernel.run("other = asyncio.ensure_future(flyte.run.aio(hold, go))\nawait asyncio.sleep(0.01)").ok()
    kernel.hold_until(lambda: bool(displays_of(cell) and displays_of(other)), tmp_path / "shown")
    click(kernel, cell)
    ended = kernel.run(
        "try:\n    await stopped\nexcept Exception as error:\n    print(type(error).__name__, other.done())"
    ).ok()
    assert "ActionAbortedError False\n" == ended.stdout
    go.touch()
    kernel.run("await other\nawait asyncio.sleep(1)").ok()
    sent = [content["data"]["state"] for kind, content in cell.events if kind == "comm_msg"]
    assert {"description": "Stopping"} in sent
    assert {"text/html": "", "text/plain": ""} == displays_of(cell)[-1][1]["data"]
    assert displays_of(other)[-1][1]["data"]["text/plain"].startswith("✓ live.hold")


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
    assert time.monotonic() - clicked_s < under_load(10)


def click(kernel: Kernel, cell: Reply) -> None:
    """Do what a front end does when the button of a cell's line is clicked."""
    button = next(
        content["comm_id"]
        for kind, content in cell.events
        if kind == "comm_open" and content["data"]["state"].get("_model_name") == "ButtonModel"
    )
    message = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", message))


@pytest.mark.leaves("process", "group", "file", reason="loaded again, the module's kernel has another supervisor")
def test_unloading_ends_lines_and_threads(kernel: Kernel, go: Path, tmp_path: Path) -> None:
    """A run that is under way is stopped with its line; no thread, no widget is left; loading again works."""
    cell = kernel.run("behind = asyncio.ensure_future(flyte.run.aio(sleep, 60.0))\nawait asyncio.sleep(0.01)").ok()
    kernel.hold_until(lambda: bool(displays_of(cell)), tmp_path / "shown")
    assert 1 == len(displays_of(cell))
    kernel.run("%unload_ext flyte_notebook").ok()
    names = kernel.value("[thread.name for thread in threading.enumerate()]")
    assert [] == [name for name in names if name.startswith("flyte-notebook")]
    assert {"text/html": "", "text/plain": ""} == displays_of(cell)[-1][1]["data"]
    opened, closed = models(cell)
    assert opened == closed
    kernel.run("%load_ext flyte_notebook").ok()
    assert displays_of(held(kernel, "flyte.run(hold, go)", go).ok())


def test_a_saved_notebook_holds_no_widget(tmp_path: Path) -> None:
    """As nbclient and papermill save it: what stays of the line is HTML and text."""
    from nbclient import NotebookClient  # noqa: PLC0415 - takes more than a second

    class Saving(NotebookClient):
        """Runs a notebook, and makes a file when a widget is displayed."""

        def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
            """Look at a message, and deal with it as ever."""
            if WIDGET_VIEW in msg["content"].get("data", {}):
                go.touch()
            return super().process_message(msg, cell, cell_index)

    go = tmp_path / "go"
    cells = [f"%load_ext flyte_notebook\ngo = {str(go)!r}", CELL.format(options="waits", end="")]
    notebook = documents.made(cells)
    Saving(notebook, timeout=int(PATIENCE_S), kernel_name="python3").execute()
    assert go.exists(), "the line was shown"
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


BAR = """%%flyte_task bar -m 250Mi
import sys, time
for step in range(8):
    sys.stderr.write(f"\\r{step} of 7")
    sys.stderr.flush()
    time.sleep(0.15)"""


def test_a_progress_bar_is_not_cut_in_two(kernel: Kernel) -> None:
    """The line comes before the first state of the bar and not into it; what passed is said below."""
    reply = kernel.run(BAR).ok()
    new = [
        kind if "stream" == kind else WIDGET_VIEW in content["data"]
        for kind, content in reply.events
        if kind in {"stream", "display_data"}
    ]
    assert True is new[0]
    assert False is new[-1]
    assert {"stream"} == set(new[1:-1])
    said = [content["data"] for kind, content in reply.displays if "display_data" == kind]
    assert "✓ bar" in said[-1]["text/plain"], reply.displays


NOISY = """@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=datetime.timedelta(seconds=2))))
def noisy() -> int:
    print("attempt", flyte.ctx().attempt_number)
    if flyte.ctx().attempt_number == 0:
        raise ValueError("the first attempt fails")
    return 1"""


def test_the_time_of_a_run_has_the_pauses_between_its_attempts(kernel: Kernel) -> None:
    """Two seconds of back-off are in it, and its tree is below what the second attempt wrote."""
    kernel.run(NOISY).ok()
    reply = kernel.run("flyte.run(noisy).outputs()[0]").ok()
    said = [str(content.get("data", {}).get("text/plain")) for _, content in reply.displays]
    last = [kind for kind, content in reply.events if "stream" == kind or "live.noisy · run" in str(content)]
    assert "display_data" == last[-1], "it is below what the second attempt wrote"
    took = re.search(r"live.noisy · run \S+ · succeeded · ([\d.]+) s\n", "\n".join(said))
    assert took is not None, said
    assert 2.0 <= float(took[1]) < under_load(10)
    assert "retrying" not in reply.stderr, "the SDK says the same again"
