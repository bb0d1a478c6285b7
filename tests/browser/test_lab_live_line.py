"""The live line in JupyterLab: it comes, it moves, its Stop is heard while the cell blocks, and plain HTML stays."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import documents
import pytest
from pages import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Lab, Notebook, Pictures

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow]

SETUP = """%load_ext flyte_notebook
import asyncio, time
import flyte
flyte.init()
env = flyte.TaskEnvironment(name="live", resources=flyte.Resources(memory="250Mi"))

@env.task
def fill(mebibytes: int, seconds: float) -> int:
    held = bytearray(mebibytes << 20)
    time.sleep(seconds)
    return len(held) >> 20

@env.task(retries=flyte.RetryStrategy(count=2))
def flaky(seconds: float) -> int:
    time.sleep(seconds)
    if flyte.ctx().attempt_number == 0:
        raise ValueError("the first attempt fails")
    return flyte.ctx().attempt_number

@env.task
async def many(count: int) -> int:
    return sum(await asyncio.gather(*(fill.aio(20, 6.0) for _ in range(count))))
"""
CELLS = [
    SETUP,
    "%%flyte_task oomer --memory 250Mi\nimport time\nheld = bytearray(180 << 20)\ntime.sleep(60)",
    "flyte.run(fill, 150, 2.0).outputs()[0]",
    """%%flyte_task --quiet
import ipywidgets, time
bar = ipywidgets.IntProgress(max=10, description="steps")
button = ipywidgets.Button(description="press")
display(bar, button)
for _ in range(10):
    bar.value += 1
    time.sleep(0.5)
del bar, button""",
]
START = """(index) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = index;
    window.jupyterapp.commands.execute("notebook:run-cell").catch(() => null);
}"""
IDLE = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
SAVE = "async () => { await window.jupyterapp.commands.execute('docmanager:save'); }"


def test_the_line_comes_and_its_stop_is_heard_while_the_cell_blocks(
    opened: Callable[[str, list[str]], Notebook], lab: Lab, pictures: Pictures
) -> None:
    """Usage against limit is read from it; Stop ends the task with ActionAbortedError; no widget is saved."""
    notebook = opened("live_line.ipynb", CELLS)
    notebook.run(0)
    notebook.page.evaluate(START, 1)
    line = notebook.cell(1).locator(".flyte-notebook-live")
    meter = line.get_by_role("meter")
    meter.and_(notebook.page.locator("[aria-valuenow='87'], [aria-valuenow='88']")).wait_for()
    expect(line).to_have_text(re.compile(r"oomer\s*\d+\.\d s\s*running\s*2\d\d of 250 MiB"))
    pictures.take_in_both_themes(notebook, 1, "live")
    notebook.cell(1).get_by_role("button", name="Stop").click()
    notebook.cell(1).locator("[data-mime-type='application/vnd.jupyter.stderr']").wait_for()
    expect(notebook.cell(1)).to_contain_text("ActionAbortedError")
    line.wait_for(state="detached")
    # A cell that fails takes those with it that wait. The click of Stop alone made the kernel idle for a moment.
    expect(notebook.cell(1).locator(".jp-InputPrompt")).not_to_contain_text("*")
    notebook.page.wait_for_function(IDLE)
    notebook.run(2)
    ended = re.compile(r"live\.fill · \S+ s · peak 1\d\d MiB of 250 MiB")
    expect(notebook.cell(2)).to_have_text(ended, use_inner_text=True)
    pictures.take(notebook.cell(2), "live_ended")
    notebook.page.evaluate(SAVE)
    saved = documents.read(lab.place / "live_line.ipynb")
    kinds = [set(output.get("data", {})) for output in saved.cells[2].outputs]
    assert {"text/html", "text/plain"} in kinds
    assert not any("application/vnd.jupyter.widget-view+json" in kind for kind in kinds)
    _progress_of_a_task_moves(notebook, pictures)


def _progress_of_a_task_moves(notebook: Notebook, pictures: Pictures) -> None:
    """While the cell blocks; a button of the task is text, and the page misses no model."""
    notebook.page.evaluate(START, 3)
    bar = notebook.cell(3).locator(".progress-bar")
    for width in ("50%", "100%"):
        bar.and_(notebook.page.locator(f"[style*='width: {width}']")).wait_for()
    notebook.page.wait_for_function(IDLE)
    expect(notebook.cell(3)).to_contain_text("Button(description='press'")
    assert "model not found" not in notebook.cell(3).inner_text()
    pictures.take(notebook.cell(3), "progress_of_a_task")
