"""``--on-oom`` in a real kernel: a cell that is killed for memory runs again with more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

CELL = """%%flyte_task {line}
size = len(bytearray(x << 20))
size
"""
KEPT = """(lambda last: "%dMi" % ((
    __import__("importlib").import_module("flyte_notebook.experiments.fitting").kept_after(last.trace)
    or last.limits.memory_bytes) >> 20))(fn.last_run.actions[0].attempts[-1])"""
"""The limit to keep after the last run, with the margin of a fit."""
LIMITS = "[run.actions[0].limits.memory_bytes >> 20 for run in list(fn.runs)[-{count}:]]"


def test_a_cell_grows_until_it_passes_and_its_outputs_land(kernel: Kernel) -> None:
    """Each attempt is shown with its limit and peak, one chart, the line to keep; the name holds what passed."""
    kernel.run("x = 220").ok()
    reply = kernel.run(CELL.format(line="oomer --memory 100Mi --cpu 1 --on-oom x2:1Gi")).ok()
    assert str(220 << 20) == reply.result
    assert [100, 200, 400] == kernel.value(LIMITS.format(count=3))
    text = reply.shown_text
    assert "oomer passed with 400Mi, after OOM at 100Mi and 200Mi" in text
    assert "1        100 MiB  ✗ killed at the limit  at least 100 MiB" in text
    assert "3        400 MiB  ✓ passed" in text
    kept = kernel.value(KEPT)
    assert 260 < int(kept.removesuffix("Mi"))
    assert 1 == text.count(f'keep: resources=flyte.Resources(cpu=1, memory="{kept}")')
    assert (
        f"[flyte_notebook: `oomer` has a limit of {kept} from now on; write --memory {kept} in the cell to keep it]"
        in text
    )
    assert (1, kept, 220 << 20) == kernel.value("(oomer.resources.cpu, oomer.resources.memory, size)")
    pages = "".join(bundle.get("text/html", "") for bundle in reply.shown)
    assert 1 == pages.count('class="flyte-notebook-growing"')
    assert "rerun 1 (200Mi)" in pages
    assert 'class="flyte-notebook-tree"' not in pages


def test_one_that_passes_at_once_says_nothing_of_it(kernel: Kernel) -> None:
    """Without an OOM the option changes nothing."""
    kernel.run("x = 1").ok()
    reply = kernel.run(CELL.format(line="oomer --memory 100Mi --on-oom x2:1Gi")).ok()
    assert "passed with" not in reply.shown_text
    assert "100Mi" == kernel.value("oomer.resources.memory")


def test_at_the_cap_the_card_says_all_that_was_tried(kernel: Kernel) -> None:
    """One card, of the last attempt, with those before it on its chart; the name keeps what it declares."""
    kernel.run("x = 900").ok()
    reply = kernel.run(CELL.format(line="oomer --memory 100Mi --on-oom +50Mi:200Mi"))
    assert "OOMError" == reply.ename
    said = "tried 100Mi, 150Mi and 200Mi, which is as far as it may grow"
    assert said in reply.evalue
    assert said in reply.failure["headline"]
    assert "rerun 1 (150Mi)" in reply.card["text/html"]
    assert 200 << 20 == reply.failure["limits"]["memory_bytes"]
    assert 1 == reply.shown_text.count("OOMError:")
    assert "100Mi" == kernel.value("oomer.resources.memory")
    assert said in kernel.value("fn.last_failure.headline")


def test_another_error_is_not_run_again(kernel: Kernel) -> None:
    """A MemoryError of Python's own is no kill: one run, its own card."""
    before = kernel.value("len(fn.runs)")
    reply = kernel.run("%%flyte_task --memory 100Mi --on-oom x2:1Gi\nraise MemoryError('mine')")
    assert "RuntimeUserError" == reply.ename
    assert 1 == kernel.value("len(fn.runs)") - before


def test_in_a_plain_cell_a_call_grows_and_shows_its_attempts_once(kernel: Kernel) -> None:
    """``await fn.retry_on_oom(task)(...)`` gives the value and one picture, and no tree for each failure on the way."""
    kernel.run("x = 130").ok()
    kernel.run(CELL.format(line="oomer --memory 200Mi")).ok()
    small = 'oomer.override(resources=flyte.Resources(cpu=1, memory="100Mi"))'
    reply = kernel.run(f"await fn.retry_on_oom({small}, factor=1.9, up_to='1Gi')(x=170)").ok()
    assert str(170 << 20) == reply.result
    pages = "".join(bundle.get("text/html", "") for bundle in reply.shown)
    assert 1 == pages.count('class="flyte-notebook-growing"')
    assert 'class="flyte-notebook-tree"' not in pages
    assert f'keep: resources=flyte.Resources(cpu=1, memory="{kernel.value(KEPT)}")' in reply.shown_text


def test_an_interrupt_in_the_middle_stops_it(kernel: Kernel) -> None:
    """Stopped in its second attempt, the cell says so, nothing goes on, and no third one begins."""
    kernel.run("import uuid; mark = f'/tmp/fnb-{uuid.uuid4().hex}'").ok()
    kernel.run(
        "import threading, time, signal\n"
        "def later():\n"
        "    while not os.path.exists(mark + '.again'): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "thread = threading.Thread(target=later); thread.start()"
    ).ok()
    before = kernel.value("len(fn.runs)")
    reply = kernel.run("""%%flyte_task --memory 100Mi --on-oom x2:1Gi
import os, time
if os.path.exists(mark):
    open(mark + ".again", "w").close()
    time.sleep(60)
open(mark, "w").close()
bytearray(300 << 20)
""")
    kernel.run("thread.join(); os.unlink(mark); os.unlink(mark + '.again')").ok()
    assert "ActionAbortedError" == reply.ename
    assert 2 == kernel.value("len(fn.runs)") - before
