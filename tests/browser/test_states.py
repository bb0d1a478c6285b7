"""What else a person meets at a card: with a variable that changed, in a tree, after a reload, on a narrow page.

One notebook with one kernel, in which each test runs cells of its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from pages import expect

if TYPE_CHECKING:
    from conftest import Notebook, Opening, Pictures
    from playwright.sync_api import Locator

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow]

LOAD = "%load_ext flyte_notebook\nx = 15"
FAILS = "%%flyte_task hungry --memory 100Mi\nsize = len([0] * (x * 1_000_000))\nsize"
CAUGHT = """
import asyncio
import flyte
env = flyte.TaskEnvironment(name="e", resources=flyte.Resources(memory="100Mi"))

@env.task
async def hungry(size: int) -> int:
    return len([0] * size)

@env.task
async def careful() -> int:
    try:
        await hungry(30_000_000)
    except flyte.errors.OOMError:
        pass
    return sum(await asyncio.gather(*(hungry(size) for size in range(12))))

flyte.run(careful).outputs()[0]
"""
SLOW = "%%flyte_task slow --memory 100Mi\nimport time\ntime.sleep(60)"
CELLS = [LOAD, FAILS, "size = 'mine'", "size", FAILS, CAUGHT, "%flyte runs", FAILS, "size + 1", SLOW, FAILS]
NAME = "states.ipynb"


@pytest.fixture(scope="module")
def first(opened: Opening) -> Notebook:
    """Give the notebook in JupyterLab, with the extension loaded."""
    notebook = opened(NAME, CELLS)
    notebook.run(0)
    return notebook


def _form(outputs: Locator) -> Locator:
    form = outputs.locator(".flyte-notebook-form")
    form.get_by_label("Memory", exact=True).wait_for()
    return form


def _rerun(outputs: Locator, memory: str) -> None:
    form = _form(outputs)
    form.get_by_label("Memory", exact=True).fill(memory)
    form.locator(".fnb-code").get_by_text(f'memory="{memory}"').wait_for()  # the kernel has heard what was typed
    form.get_by_role("button", name="Rerun").click()


def test_a_variable_that_changed_meanwhile_is_asked_about(first: Notebook, pictures: Pictures) -> None:
    """The card asks before it replaces what the notebook has bound anew, and does what it is told."""
    notebook = first
    outputs = notebook.run(1)
    _form(outputs)
    notebook.run(2)
    notebook.show(1)
    _rerun(outputs, "300Mi")
    question = outputs.get_by_role("button", name="Replace")
    question.wait_for()
    pictures.take_in_both_themes(notebook, 1, "asked")
    notebook.gives(3, "'mine'")
    notebook.show(1)
    question.click()
    outputs.get_by_text("is in the notebook").first.wait_for()
    notebook.gives(3, "15000000")


def test_a_rerun_that_fails_shows_both_attempts_on_one_card(first: Notebook, pictures: Pictures) -> None:
    """The card stays one card: its chart and its list tell of both attempts, and the form is there for a third."""
    notebook = first
    outputs = notebook.run(4)
    _rerun(outputs, "150Mi")
    outputs.get_by_text("✗ rerun with 150Mi: OOMError").first.wait_for()
    expect(outputs.locator("section.flyte-notebook-card")).to_have_count(1)
    words = re.compile(r"rerun 1 \(150Mi\) used up to 150 MiB of 150 MiB allowed and was killed")
    expect(outputs.locator(".flyte-notebook-card img.fnb-wide")).to_have_attribute("alt", words)
    pictures.take_in_both_themes(notebook, 4, "failed_again")
    _rerun(outputs, "300Mi")
    outputs.get_by_text("✓ rerun with 300Mi succeeded").first.wait_for()
    pictures.take_in_both_themes(notebook, 4, "passed_at_last")


def test_what_a_program_caught_is_a_tree_whose_failures_open(first: Notebook, pictures: Pictures) -> None:
    """The run that recovered shows its actions, siblings counted; the failed one opens its card by the keyboard."""
    notebook = first
    outputs = notebook.run(5)
    failed = outputs.locator("summary", has_text="e.hungry").first
    failed.focus()
    notebook.page.keyboard.press("Enter")
    outputs.locator("section.flyte-notebook-card").first.wait_for(state="visible")
    expect(outputs).to_contain_text("(caught)")
    pictures.take_in_both_themes(notebook, 5, "caught_tree")
    notebook.run(6)
    pictures.take_in_both_themes(notebook, 6, "runs")


def test_the_form_answers_after_the_page_was_loaded_again(opened: Opening, first: Notebook) -> None:
    """A tab that was closed comes back with the form while the kernel lives, and a click on it works."""
    _form(first.run(7))
    first.save()
    notebook = opened.reopen(NAME)
    notebook.show(7)
    outputs = notebook.cell(7).locator(".jp-OutputArea")
    _rerun(outputs, "300Mi")
    outputs.get_by_text("✓ rerun with 300Mi succeeded").first.wait_for()
    notebook.gives(8, "15000001")


def test_stop_is_heard_and_everything_is_readable_on_a_narrow_page(
    opened: Opening, first: Notebook, pictures: Pictures
) -> None:
    """In Notebook 7, 420 pixels wide: the line, its Stop, the card of what was stopped; nothing is cut off."""
    notebook = opened.reopen(NAME, notebook7=True)
    notebook.page.set_viewport_size({"width": 420, "height": 900})
    outputs = notebook.start(9)
    stop = outputs.get_by_role("button", name="Stop")
    stop.wait_for()
    pictures.take_in_both_themes(notebook, 9, "narrow_live")
    stop.click()
    outputs.locator("section.flyte-notebook-card[data-error='ActionAbortedError']").wait_for()
    notebook.page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )
    outputs = notebook.run(10)
    form = _form(outputs)
    pictures.take_in_both_themes(notebook, 10, "narrow_card")
    wide = outputs.locator("section.flyte-notebook-card").evaluate("card => card.scrollWidth - card.clientWidth")
    assert wide <= 1, "the card is wider than its place"
    assert form.evaluate("form => form.scrollWidth - form.clientWidth") <= 1
