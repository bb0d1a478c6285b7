"""``--memory fit`` and ``%flyte fit`` in a real kernel, and what is said of a cell that was given far too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

CELL = """%%flyte_task {line}
print("working")
size = len([0] * 5_000_000 * x)
size
"""


def test_a_cell_is_fitted_and_its_outputs_land(kernel: Kernel) -> None:
    """The limit and the line to keep are shown, output of one run, the value; and the name holds the limit."""
    kernel.run("x = 4").ok()
    reply = kernel.run(CELL.format(line="oomer --memory fit --cpu 1")).ok()
    assert "working\n" == reply.stdout
    assert "20000000" == reply.result
    assert "(found in 2 runs)" in reply.shown_text
    kept = kernel.value("(oomer.resources.memory, oomer.resources.cpu, size)")
    assert f'keep: resources=flyte.Resources(cpu=1, memory="{kept[0]}")' in reply.shown_text
    assert (1, 20_000_000) == kept[1:]
    assert 'class="flyte-notebook-fit"' in "".join(bundle.get("text/html", "") for bundle in reply.shown)


def test_a_cell_that_fails_otherwise_fails_like_a_cell(kernel: Kernel) -> None:
    """One run, the card and the exception, and the sentence that more memory does not help."""
    reply = kernel.run("%%flyte_task --memory fit\n1 / 0")
    assert "RuntimeUserError" == reply.ename
    assert "ZeroDivisionError" == reply.failure["code"]
    assert "Nothing to fit after 1 run" in reply.shown_text


def test_the_last_run_or_a_named_task_is_fitted(kernel: Kernel) -> None:
    """``%flyte fit`` takes the inputs that the last run had; with a name those that are written, else by name."""
    kernel.run("x = 2").ok()
    kernel.run(CELL.format(line="oomer --memory 500Mi")).ok()
    kernel.run("x = 8").ok()
    _, again = kernel.run("%flyte fit").ok(), kernel.value("fn.last_fit.memory_bytes >> 20")
    _, named = kernel.run("%flyte fit oomer").ok(), kernel.value("fn.last_fit.memory_bytes >> 20")
    _, given = kernel.run("%flyte fit oomer x=4").ok(), kernel.value("fn.last_fit.memory_bytes >> 20")
    assert again < given < named
    assert ["oomer"] == kernel.complete("%flyte fit oo")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%flyte fit nothing", "`nothing` does not exist; name a task and its inputs, as in %flyte fit oomer x=5"),
        ("%flyte fit fn", "`fn` is of type module, no Flyte task"),
        ("%flyte fit small y=2", "small has no input `y`; it takes x"),
        ("%flyte fit small x=1/0", "x=1/0: ZeroDivisionError: division by zero"),
        ("%flyte fit small 5", "'5' is no input"),
        ("%flyte rerun --memory fit", "write %flyte fit"),
        ("%%flyte_task --memory fit --background\n1", "leave out --background"),
    ],
)
def test_wrong_use_gets_one_sentence(kernel: Kernel, line: str, words: str) -> None:
    """Each mistake is named, with what would be right; nothing runs."""
    kernel.run("x = 1").ok()
    kernel.run("%%flyte_task small --memory 200Mi\nx").ok()
    before = kernel.value("len(fn.runs)")
    assert words in kernel.run(line).stderr
    assert before == kernel.value("len(fn.runs)")


def test_a_cell_that_was_given_far_too_much_is_told_once(kernel: Kernel) -> None:
    """Once for each cell and limit, and not for a limit that is nearly right or an environment's, nor with --quiet."""
    # A run that takes half a second has a line, and that line says it instead.
    names = "liveline.SHOWN_AFTER_S, liveline.STREAK_SHOWN_AFTER_S"
    kernel.run(f"from flyte_notebook.notebook import liveline\n_waits = {names}\n{names} = 60.0, 60.0").ok()
    cell = "%%flyte_task --memory {}\nlen(bytearray(100 << 20))"
    (note,) = kernel.run(cell.format("1Gi")).ok().notes
    assert note.startswith("peak ")
    assert note.endswith(" of 1 GiB · 176Mi would be enough")
    assert [] == kernel.run(cell.format("1Gi")).ok().notes
    assert 1 == len(kernel.run(cell.format("2Gi")).ok().notes)
    assert [] == kernel.run(cell.format("200Mi")).ok().notes
    assert [] == kernel.run(cell.format("3Gi --quiet")).ok().notes
    kernel.run("roomy = flyte.TaskEnvironment(name='roomy', resources=flyte.Resources(memory='3Gi'))").ok()
    assert [] == kernel.run("%%flyte_task --env roomy\nlen(bytearray(100 << 20))").ok().notes
    kernel.run(f"from flyte_notebook.notebook import liveline\n{names} = _waits").ok()


def test_an_interrupt_shows_what_was_measured(kernel: Kernel) -> None:
    """Stopped in its second run, the cell shows the peak of the first, and nothing goes on."""
    kernel.run("import uuid; mark = f'/tmp/fnb-{uuid.uuid4().hex}'").ok()
    cell = """%%flyte_task --memory fit
import os, time
size = len(bytearray(60 << 20))
if os.path.exists(mark):
    open(mark + ".again", "w").close()
    time.sleep(60)
open(mark, "w").close()
"""
    kernel.run(
        "import threading, time, signal\n"
        "def later():\n"
        "    while not os.path.exists(mark + '.again'): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "thread = threading.Thread(target=later); thread.start()"
    ).ok()
    reply = kernel.run(cell)
    kernel.run("thread.join(); os.unlink(mark); os.unlink(mark + '.again')").ok()
    assert "ActionAbortedError" == reply.ename
    assert "interrupted after 2 runs; its peak was" in reply.shown_text


HALTS = """import os, time
env = flyte.TaskEnvironment(name="halting", resources=flyte.Resources(memory="500Mi"))
@env.task
def halts(mark: str) -> int:
    "Pass at once, and take a minute when called again."
    if os.path.exists(mark):
        open(mark + ".again", "w").close()
        time.sleep(60)
    open(mark, "w").close()
    return len(bytearray(60 << 20))
import signal, threading, uuid
mark = f"/tmp/fnb-{uuid.uuid4().hex}"
def later():
    while not os.path.exists(mark + ".again"):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=later); thread.start()
"""
TIDY = """thread.join(); os.unlink(mark); os.unlink(mark + ".again")
"""


@pytest.mark.parametrize("call", ["fn.fit(halts, mark=mark)", "%flyte fit halts", "await fn.fit.aio(halts, mark=mark)"])
def test_an_interrupt_of_a_call_keeps_what_was_measured(kernel: Kernel, call: str) -> None:
    """However a fit was called: the peak of the first run is shown and kept, and the next cell runs at once."""
    kernel.run(HALTS).ok()
    reply = kernel.run(call)
    kernel.run(TIDY).ok()
    assert reply.ename in {"KeyboardInterrupt", "ActionAbortedError", "CancelledError"}
    assert 1 == reply.shown_text.count("interrupted after 2 runs; its peak was")
    verdict, limit, peak, runs = kernel.value(
        "(fn.last_fit.verdict, fn.last_fit.memory, fn.last_fit.task.peak_bytes >> 20, len(fn.last_fit.runs))"
    )
    assert ("interrupted", None, 2) == (verdict, limit, runs)
    assert 95 <= peak <= 105
