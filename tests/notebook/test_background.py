"""``--background``: the cell returns at once with a handle, and its outputs land between cells or where one waits."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from bounds import under_load
from kernels import CARD, HELD_S

from flyte_notebook.notebook import output
from flyte_notebook.notebook.background import BackgroundRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kernels import Kernel, Reply

pytestmark = pytest.mark.jupyter

PATIENCE_S = 30.0
PROMPT_S = 2.0
"""How soon a cell is over that waits for nothing; the runs below take longer."""

SLOW = "%%flyte_task slow --background\nhold(go)\nx = 7\nx + 1"
HOLD = f"""
import os, time
go = {{go!r}}
def hold(go):
    until_s = time.monotonic() + {HELD_S}
    while not os.path.exists(go) and time.monotonic() < until_s:
        time.sleep(0.02)
def let_go():
    open(go, "w").close()
"""


@pytest.fixture(autouse=True)
def go(kernel: Kernel, tmp_path: Path) -> Path:
    """Give a file that slow runs wait for; a cell makes it with ``let_go()``."""
    kernel.run(HOLD.format(go=str(tmp_path / "go"))).ok()
    return tmp_path / "go"


def until(kernel: Kernel, expression: str, wanted: object = True) -> None:  # noqa: FBT002 - the value that is wanted
    """Ask again and again, a cell each, until an expression has a value."""
    end_s = time.monotonic() + PATIENCE_S
    while wanted != (found := kernel.value(expression)):
        assert time.monotonic() < end_s, (expression, found)
        time.sleep(0.1)


def begun(kernel: Kernel) -> Reply:
    """Begin a slow run in the background, and keep its handle as ``handle``."""
    reply = kernel.run(SLOW).ok()
    kernel.run("handle = _").ok()
    return reply


def once(word: str, act: Callable[[], object]) -> Callable[[Reply], None]:
    """Return what does something as soon as a cell has printed a word, once."""
    done: list[object] = []

    def look(reply: Reply) -> None:
        if not done and word in reply.stdout:
            done.append(act())

    return look


def test_a_cell_in_the_background_returns_at_once(kernel: Kernel, go: Path) -> None:
    """With a handle that says how it stands; NAME holds the task, and other cells run meanwhile, tasks too."""
    began_s = time.monotonic()
    reply = kernel.run(SLOW).ok()
    assert time.monotonic() - began_s < under_load(PROMPT_S)
    state, how = reply.shown_text.strip().splitlines()
    assert re.fullmatch(r"<BackgroundRun slow-\w+: running for [\d.]+ m?s>", state)
    assert "Keep it with `run = _`. Then `await run` waits for its value, and `run.stop()` ends it." == how
    kernel.run("handle = _").ok()
    assert ("running", False, None, None, "CellTask") == kernel.value(
        "(handle.state, handle.done(), handle.value, handle.error, type(slow).__name__)"
    )
    assert "2" == kernel.run("%%flyte_task\n1 + 1").ok().result
    assert ("running", False) == kernel.value("(handle.state, 'x' in globals())")
    go.touch()
    assert (True, 8, 7) == kernel.value("(handle.wait(), handle.result, x)")
    assert kernel.value("repr(handle)").startswith("<BackgroundRun slow-")
    assert ": succeeded after " in kernel.value("repr(handle)")


def test_what_is_shown_of_a_handle_follows_its_end() -> None:
    """The display that said "running" says how it ended; a stop is no failure."""
    shown: list[dict[str, Any]] = []

    class Shown(output.StreamSink):
        def display(self, message: Mapping[str, Any]) -> None:
            shown.append(dict(message))

    go = threading.Event()
    output.use(Shown())
    try:
        handle = BackgroundRun("slow-1", go.wait, stop=go.set, ended=lambda _: None).start()
        handle._ipython_display_()
        go.set()
        assert handle.wait(PATIENCE_S)
        first, second = shown
    finally:
        output.use(None)
    assert ": running for " in first["data"]["text/plain"]
    assert ": succeeded after " in second["data"]["text/plain"]
    assert (True, first["transient"]) == (second["update"], second["transient"])


@pytest.mark.parametrize("sleep", ["time.sleep", "await asyncio.sleep"])
def test_outputs_land_when_the_kernel_is_idle(kernel: Kernel, sleep: str) -> None:
    """Not in the middle of a cell that runs when the task ends, blocking or not, and before the next one."""
    begun(kernel)
    kernel.run(
        f"import asyncio\nlet_go()\nwhile not handle.done(): {sleep}(0.05)\n{sleep}(0.3)\nseen = 'x' in globals()"
    ).ok()
    assert (False, 7) == kernel.value("(seen, x)")


def test_outputs_land_while_nothing_runs(kernel: Kernel, go: Path) -> None:
    """No cell has to end for it; the value is there for whoever asks next."""
    begun(kernel)
    go.touch()
    until(kernel, "handle.done() and 'x' in globals() and x == 7")


def test_a_later_cell_can_await_the_handle(kernel: Kernel) -> None:
    """It gives the value of the last expression, and the outputs have landed when it returns."""
    begun(kernel)
    assert "(8, 7)" == kernel.run("let_go()\n(await handle), x").ok().result


def test_a_wait_may_be_bounded(kernel: Kernel, go: Path) -> None:
    """It returns whether the run has ended; nothing lands before the end."""
    begun(kernel)
    assert (False, False) == kernel.value("(handle.wait(0.2), 'x' in globals())")
    go.touch()
    assert (True, 7) == kernel.value("(handle.wait(30), x)")


def test_waiting_for_one_run_lands_its_outputs_only(kernel: Kernel) -> None:
    """What another run returned stays out of a cell that did not ask for it."""
    kernel.run("%%flyte_task --background\ny = 2").ok()
    kernel.run("first = _").ok()
    begun(kernel)
    kernel.run(
        "let_go()\nwhile not handle.done(): time.sleep(0.05)\n"
        "seen = [first.wait() and 'x' in globals(), handle.wait() and 'x' in globals()]"
    ).ok()
    assert ([False, True], 2) == kernel.value("(seen, y)")


def test_a_run_that_is_stopped_fails_with_the_error_of_one(kernel: Kernel) -> None:
    """``stop`` returns at once; the result raises ActionAbortedError, and the card stands in the cell that began it."""
    reply = begun(kernel)
    kernel.run("handle.wait(1)").ok()
    began_s = time.monotonic()
    kernel.run("handle.stop()").ok()
    kernel.run("handle.wait()").ok()
    assert time.monotonic() - began_s < under_load(PROMPT_S * 2)
    assert ("failed", "ActionAbortedError", "stopped") == kernel.value(
        "(handle.state, type(handle.error).__name__, handle.failure.reason)"
    )
    assert "stopped after " in kernel.value("repr(handle)")
    assert "ActionAbortedError" == reply.failure["error"]
    raised = kernel.run("handle.result")
    assert "ActionAbortedError" == raised.ename
    assert "x" not in kernel.value("sorted(globals())")
    kernel.run("handle.stop()").ok()


@pytest.mark.parametrize("options", ["", " --no-raise", " --quiet", " --no-raise --quiet"])
def test_a_failure_shows_its_card_in_the_cell_that_began_it(kernel: Kernel, options: str) -> None:
    """Whichever cell runs by then; that one succeeds, shows nothing of it, and the result raises where it is asked."""
    kernel.run("x = 'mine'").ok()
    reply = kernel.run(f"%%flyte_task dying --background{options}\nimport time\ntime.sleep(0.2)\nx = 1\n1 / 0").ok()
    kernel.run("handle = _").ok()
    other = kernel.run("assert handle.wait(30)\nprint('over')").ok()
    assert "ZeroDivisionError" == reply.failure["code"]
    assert [] == [bundle for bundle in other.shown if CARD in bundle or "flyte-notebook-run" in str(bundle)]
    assert ("mine", "ZeroDivisionError") == kernel.value("(x, handle.failure.code)")
    assert "RuntimeUserError" == kernel.run("handle.result").ename
    assert "RuntimeUserError" == kernel.run("await handle").ename


def test_a_wait_for_a_failure_has_no_second_card_and_only_its_own_lines(kernel: Kernel) -> None:
    """It says where the card is; the lines of another cell that waited before are not in the traceback."""
    kernel.run("%%flyte_task dying --background\n1 / 0").ok()
    kernel.run("handle = _\nassert handle.wait(30)").ok()
    first, second = kernel.run("await handle  # first"), kernel.run("await handle  # second")
    assert ["its card is below the cell that began it"] == first.notes == second.notes
    assert [] == [bundle for bundle in (*first.shown, *second.shown) if CARD in bundle]
    assert "# first" in first.traceback
    assert "# second" in second.traceback
    assert "# first" not in second.traceback


def test_what_cannot_travel_is_said_in_the_cell(kernel: Kernel) -> None:
    """An input that cannot be pickled gives one line; the run is in no history."""
    kernel.run("import threading\nlock = threading.Lock()\nbefore = len(fn.runs)").ok()
    reply = kernel.run("%%flyte_task --background\nlock").ok()
    kernel.run("handle = _\nhandle.wait()").ok()
    assert "UsageError: %%flyte_task: " in reply.stderr
    assert "`lock`" in reply.stderr or "lock" in reply.stderr
    assert (0, "failed") == kernel.value("(len(fn.runs) - before, handle.state)")


def test_an_interrupt_ends_the_wait_and_not_the_run(kernel: Kernel, go: Path) -> None:
    """Blocking and awaiting; the run goes on, and its outputs land."""
    begun(kernel)
    for waiting in ("handle.wait()", "handle.result", "await handle"):
        reply = kernel.run(f"print('waiting', flush=True)\n{waiting}", interrupt_after="waiting")
        assert reply.ename in {"KeyboardInterrupt", "CancelledError"}
        assert reply.late_s < under_load(PROMPT_S)
        assert "running" == kernel.value("handle.state")
    go.touch()
    assert (True, 7) == kernel.value("(handle.wait(), x)")


def test_an_interrupt_of_another_task_leaves_it_alone(kernel: Kernel, go: Path) -> None:
    """What a cell waits for is stopped, what nobody waits for is not."""
    begun(kernel)
    reply = kernel.run("%%flyte_task\nprint('ready', flush=True)\nimport time\ntime.sleep(60)", interrupt_after="ready")
    assert "ActionAbortedError" == reply.ename
    assert reply.late_s < under_load(PROMPT_S * 2)
    kernel.run(
        "env = flyte.TaskEnvironment(name='b')\n@env.task\ndef nap() -> None:\n"
        "    import time; print('ready', flush=True); time.sleep(60)"
    ).ok()
    assert "KeyboardInterrupt" == kernel.run("flyte.run(nap)", interrupt_after="ready").ename
    assert "running" == kernel.value("handle.state")
    go.touch()
    assert (True, 7) == kernel.value("(handle.wait(), x)")


def test_the_front_end_is_heard_while_a_cell_waits(kernel: Kernel) -> None:
    """A click on a widget, as the Stop button is one, is answered before the wait is over."""
    begun(kernel)
    kernel.run("import ipywidgets\nbutton = ipywidgets.Button()\nbutton.on_click(lambda _: handle.stop())").ok()
    comm = kernel.value("button.model_id")
    click = {"comm_id": comm, "data": {"method": "custom", "content": {"event": "click"}}}
    message = kernel.client.session.msg("comm_msg", click)
    click_it = once("waiting", lambda: kernel.client.shell_channel.send(message))
    began_s = time.monotonic()
    waited = kernel.run(f"print('waiting', flush=True)\nhandle.wait({HELD_S})", meanwhile=click_it)
    assert "True" == waited.ok().result
    assert time.monotonic() - began_s < HELD_S / 2
    assert "ActionAbortedError" == kernel.value("type(handle.error).__name__")


def test_two_runs_go_on_at_once(kernel: Kernel) -> None:
    """Each has its own outputs."""
    kernel.run("%%flyte_task -m 100Mi --background\nimport time; time.sleep(1)\na = 1").ok()
    kernel.run("one = _").ok()
    kernel.run("%%flyte_task -m 100Mi --background\nimport time; time.sleep(1)\nb = 2").ok()
    kernel.run("two = _").ok()
    assert (True, True, 1, 2) == kernel.value("(one.wait(), two.wait(), a, b)")


def test_output_streams_into_its_own_cell(kernel: Kernel) -> None:
    """What the task prints while another cell runs stands in the cell that began it."""
    reply = kernel.run("%%flyte_task --background\nimport time\ntime.sleep(0.3)\nprint('from the task')").ok()
    kernel.run("handle = _").ok()
    other = kernel.run("handle.wait()\nprint('from the cell')").ok()
    assert "from the task\n" == reply.stdout
    assert "from the cell\n" == other.stdout


def test_a_handle_holds_no_inputs(kernel: Kernel) -> None:
    """What went in is freed once it is over, though the handle is kept."""
    kernel.run("class Thing:\n    pass\nimport gc, weakref\nthing = Thing()\nseen = weakref.ref(thing)").ok()
    kernel.run("%%flyte_task --background\nn = type(thing).__name__").ok()
    kernel.run("handle = _\nhandle.wait()\nhandle.join(10)").ok()
    assert "Thing" == kernel.value("n")
    kernel.run("del thing").ok()
    assert kernel.value("[gc.collect(), seen() is None][1]")


def test_it_is_offered_and_explained(kernel: Kernel) -> None:
    """Tab offers the option, and the help says what the handle has."""
    assert "--background" in kernel.complete("%%flyte_task --ba")
    text = " ".join(kernel.paged("%%flyte_task?").split())
    assert "--background" in text
    assert ".wait(), await, .stop(), .result" in text
    assert "An interrupt" in kernel.paged("import flyte_notebook.notebook.background as b\n?b.BackgroundRun")
