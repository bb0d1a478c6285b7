"""A notebook that was saved with a card in it, opened again: the card is whole, and nothing says that it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pages import expect

if TYPE_CHECKING:
    from conftest import Notebook, Opening, Pictures

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow]

CELLS = [
    "%load_ext flyte_notebook\nx = 5",
    "%%flyte_task oomer --memory 250Mi\nlarge_list = [0] * 10_000_000 * x\nlen(large_list)",
    """\
import flyte
@flyte.TaskEnvironment(name="safe").task
def hostile() -> int:
    raise ValueError("<script>window.hurt=1</script><img src=x onerror='window.hurt=2'>")
flyte.run(hostile)""",
]
LOST = ("model not found", "Error displaying widget", "Loading widget")


def _is_whole(notebook: Notebook) -> None:
    """Hold a reopened notebook to what a reader needs: card, picture, words, and no complaint."""
    notebook.page.wait_for_selector("section.flyte-notebook-card", state="visible")
    notebook.page.wait_for_timeout(3_000)  # JupyterLab looks for a widget for two seconds before it complains
    card = notebook.cell(1).locator("section.flyte-notebook-card")
    expect(card).to_contain_text("Ran out of memory (limit 250 MiB)")
    expect(card.locator("img.fnb-wide")).not_to_have_js_property("naturalWidth", 0)
    shown = notebook.page.locator("body").inner_text()
    assert [] == [words for words in LOST if words in shown]
    assert notebook.page.evaluate("window.hurt") is None


def test_a_saved_card_is_whole_without_its_kernel(opened: Opening, pictures: Pictures) -> None:
    """Trusted and not, in JupyterLab and in Notebook 7, and as a page made by nbconvert."""
    notebook = opened("saved.ipynb", CELLS)
    for index in range(len(CELLS)):
        outputs = notebook.run(index)
        if index:
            outputs.locator(".flyte-notebook-form").wait_for()
    assert notebook.page.evaluate("window.hurt") is None, "what a task wrote ran as a script"
    notebook.save()
    notebook.shut_down()

    _is_whole(opened.reopen("saved.ipynb"))
    pictures.take(notebook.cell(1), "lab_reopened_light")
    notebook.shut_down()
    _is_whole(opened.reopen("saved.ipynb", notebook7=True))
    pictures.take(notebook.cell(1), "notebook7_reopened_light")
    notebook.shut_down()

    saved = opened.lab.place / "saved.ipynb"
    text = json.loads(saved.read_text())
    text["metadata"]["somebody"] = "changed it, so that its signature is gone"
    for cell in text["cells"]:
        cell["metadata"].pop("trusted", None)
    (opened.lab.place / "untrusted.ipynb").write_text(json.dumps(text))
    _is_whole(opened.reopen("untrusted.ipynb"))
    pictures.take(notebook.cell(1), "lab_untrusted_light")

    convert = [sys.executable, "-m", "nbconvert", "--to=html", "--log-level=WARN", str(saved)]
    subprocess.run(convert, check=True, capture_output=True, cwd=opened.lab.place)
    asked: list[str] = []
    browser = notebook.page.context.browser
    assert browser is not None
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto((opened.lab.place / "saved.html").as_uri())
    card = page.locator("section.flyte-notebook-card").first
    card.wait_for()
    expect(card.locator("img.fnb-wide")).not_to_have_js_property("naturalWidth", 0)
    assert page.evaluate("window.hurt") is None
    assert [] == [words for words in LOST if words in page.locator("body").inner_text()]
    pictures.take(page, "nbconvert_light", full_page=True)
    page.close()
