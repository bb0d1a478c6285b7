"""The card and its form as one thing: what to do first, from the keyboard, at any width, and after a restart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Notebook, Opening, Pictures
    from playwright.sync_api import Locator

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow]

CELLS = [
    "%load_ext flyte_notebook\nx = 5",
    "%%flyte_task oomer --memory 250Mi\nlarge_list = [0] * 10_000_000 * x\nsize = len(large_list)\nsize",
    "x = 6",
    "%%flyte_task\n{}['plum']",
]
RESTART = "async () => { await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); }"
CRASH = """() => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    kernel.requestExecute({code: "import os; os.kill(os.getpid(), 9)", store_history: false});
}"""
SMALLEST_TEXT = 9.0
"""The least height of letters in a chart, in pixels."""

LETTERS = """(image) => {
    const svg = new DOMParser().parseFromString(atob(image.src.split(",")[1]), "image/svg+xml").documentElement;
    const scale = image.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const size = (text) => parseFloat(text.getAttribute("style").match(/([\\d.]+)px/)[1]);
    const sizes = [...svg.querySelectorAll("text")].map(size);
    return scale * Math.min(...sizes);
}"""


@pytest.fixture(scope="module")
def notebook(opened: Opening) -> Notebook:
    """Open the one notebook of these tests."""
    return opened("card.ipynb", CELLS)


@pytest.fixture
def failed(notebook: Notebook) -> Iterator[Notebook]:
    """Give it with a cell that was killed, in a window of 1000 to 800 pixels."""
    notebook.page.set_viewport_size({"width": 1000, "height": 800})
    notebook.run(0)
    notebook.run(1)
    _form(notebook).get_by_role("button", name="Rerun").wait_for()
    yield notebook
    notebook.theme("Light")


def _form(notebook: Notebook, index: int = 1) -> Locator:
    return notebook.cell(index).locator(".flyte-notebook-form")


def _box(locator: Locator) -> dict[str, float]:
    box: Any = locator.bounding_box()
    assert box is not None
    return dict(box)


def test_what_to_do_is_on_the_screen_and_the_evidence_below_it(failed: Notebook, pictures: Pictures) -> None:
    """Headline, action and form come first; the rest of the card is below the form and not shown twice."""
    card, form = failed.cell(1).locator(".flyte-notebook-card"), _form(failed)
    expect(card.locator(".fnb-rest")).to_be_hidden()
    rest = form.locator(".flyte-notebook-rest")
    expect(rest).to_be_visible()
    parts = [card.locator("h3"), card.locator(".fnb-action"), form.get_by_role("button", name="Rerun"), rest]
    tops = [_box(part)["y"] for part in parts]
    assert sorted(tops) == tops
    button = _box(form.get_by_role("button", name="Rerun"))
    assert button["y"] + button["height"] < 800
    failed.page.set_viewport_size({"width": 1050, "height": 1400})
    pictures.take_in_both_themes(failed, 1, "card_with_form")


def test_enter_reruns_and_what_passed_is_the_title(failed: Notebook, pictures: Pictures) -> None:
    """From the keyboard alone, at once after typing; the card then says with what, and what to write to keep that."""
    memory = _form(failed).get_by_label("Memory", exact=True)
    memory.focus()
    memory.press("Control+a")
    memory.press_sequentially("600Mi", delay=20)
    memory.press("Enter")
    card = failed.cell(1).locator(".flyte-notebook-card")
    expect(card.locator("h3")).to_contain_text("Passed with 600Mi")
    kept = card.locator(".fnb-run")
    expect(kept.nth(0)).to_have_text("--memory 600Mi")
    expect(kept.nth(1)).to_have_text('resources=flyte.Resources(memory="600Mi")')
    expect(card.locator("img.fnb-wide")).to_be_visible()
    expect(card.locator("summary", has_text="Before: OOMError")).to_be_visible()
    failed.page.set_viewport_size({"width": 1050, "height": 1400})
    pictures.take_in_both_themes(failed, 1, "card_passed")


def test_inputs_of_then_and_of_today_are_told_apart(failed: Notebook) -> None:
    """After ``x`` changed the form says which it takes, as code too, and offers the other."""
    form = _form(failed)
    expect(form).not_to_contain_text("inputs of then")
    failed.run(2)
    failed.show(1)
    expect(form).to_contain_text("with the inputs of then (x=5)")
    expect(form).to_contain_text("(x=5)")
    box = form.get_by_label("with today's x")
    box.check()
    expect(form).to_contain_text("(x=x)")
    expect(form).to_contain_text("with today's inputs")
    memory = form.get_by_label("Memory", exact=True)
    memory.fill("800Mi")
    memory.press("Enter")
    expect(failed.cell(1).locator(".flyte-notebook-card h3")).to_contain_text("Passed with 800Mi")
    failed.show(2)
    assert 60_000_000 == _value(failed, "size")


def _value(notebook: Notebook, expression: str) -> int:
    code = f"""async () => {{
        const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
        const reply = await kernel.requestExecute(
            {{code: "", user_expressions: {{value: {expression!r}}}, store_history: false}}).done;
        return Number(reply.content.user_expressions.value.data["text/plain"]);
    }}"""
    return int(notebook.page.evaluate(code))


def test_the_letters_of_a_chart_can_be_read_at_any_width(failed: Notebook, pictures: Pictures) -> None:
    """In a window of 700 pixels with the file browser open as in a wide one: one picture, with letters large enough."""
    for width in (700, 1000, 1400):
        failed.page.set_viewport_size({"width": width, "height": 800})
        shown = _form(failed).locator("img.fnb-chart").filter(visible=True)
        expect(shown).to_have_count(1)
        until_s = time.monotonic() + 30
        while not shown.evaluate(LETTERS) and time.monotonic() < until_s:  # it is being laid out
            expect(shown).to_have_count(1)
        assert shown.evaluate(LETTERS) >= SMALLEST_TEXT, width
        pictures.take(shown, f"chart_at_{width}_light")
    failed.page.set_viewport_size({"width": 1400, "height": 1400})
    failed.page.evaluate("document.body.style.zoom = 1.5")
    pictures.take(failed.cell(1), "card_at_150_percent_light")
    failed.page.evaluate("document.body.style.zoom = 1")


def test_a_tool_for_accessibility_finds_nothing_on_card_and_form(failed: Notebook) -> None:
    """The rules of axe-core, in both themes, on the card and the form of an OOM and of another error."""
    failed.run(3)
    _form(failed, 3).get_by_role("button", name="Rerun").wait_for()
    for theme in ("Light", "Dark"):
        failed.theme(theme)
        for index in (1, 3):
            failed.show(index)
            place = f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}']"
            for part in (".flyte-notebook-card", ".flyte-notebook-form"):
                found = Axe().run(failed.page, context=f"{place} {part}")
                assert 0 == found.violations_count, f"{theme}, {index}, {part}:\n{found.generate_report()}"


def test_an_error_without_memory_shows_its_line_first(failed: Notebook, pictures: Pictures) -> None:
    """No chart in sight, no choices of memory: the line that raised is what a reader needs."""
    failed.run(3)
    form = _form(failed, 3)
    form.get_by_role("button", name="Rerun").wait_for()
    expect(form.locator("mark")).to_contain_text("{}['plum']")
    expect(form.locator("img.fnb-chart").first).to_be_hidden()
    expect(form.get_by_role("button", name="×2")).to_have_count(0)
    failed.page.set_viewport_size({"width": 1050, "height": 1400})
    pictures.take_in_both_themes(failed, 3, "card_without_memory")


def _is_whole_again(notebook: Notebook) -> None:
    form = _form(notebook)
    expect(form.get_by_role("button", name="Rerun")).to_be_hidden()
    said = "(form) => getComputedStyle(form, '::after').content"
    assert "The kernel was restarted; load the extension and run the cell again." in form.evaluate(said)
    expect(notebook.cell(1).locator(".flyte-notebook-card .fnb-rest")).to_be_visible()
    expect(form.locator(".flyte-notebook-rest")).to_be_hidden()


def test_a_restart_leaves_one_line_and_the_whole_card(failed: Notebook, pictures: Pictures) -> None:
    """No broken icons and no dead button: what to do instead, and the card as in a saved notebook."""
    failed.page.evaluate(RESTART)
    _is_whole_again(failed)
    pictures.take(failed.cell(1), "card_after_restart_light")


def test_a_crash_of_the_kernel_leaves_the_same(failed: Notebook) -> None:
    """Nothing of ours runs any more; what is on the page is enough."""
    failed.page.evaluate(CRASH)
    failed.page.get_by_role("dialog").get_by_role("button", name="Ok").click()
    _is_whole_again(failed)
