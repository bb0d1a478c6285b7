"""A cell on a cluster as its user sees it: how far it is, Stop, the card, and what passes from the form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from loopback.fixtures import DOMAIN, PROJECT, plane
from pages import expect

if TYPE_CHECKING:
    from conftest import Notebook, Opening, Pictures
    from loopback.handle import Plane
    from playwright.sync_api import Locator

__all__ = ["plane"]

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow, pytest.mark.linux]

CONNECT = """%load_ext flyte_notebook
import flyte
flyte.init(endpoint={endpoint!r}, insecure=True, project={project!r}, domain={domain!r})
x = 5"""
REMOTE = "--remote --image example/cells:1 --memory 250Mi"
CELLS = [
    f"""%%flyte_task waiter {REMOTE}
import time
print("in the pod", flush=True)
held = bytearray(120 << 20)
time.sleep(300)""",
    f"%%flyte_task oomer {REMOTE}\nlarge_list = [0] * 10_000_000 * x\nsize = len(large_list)\nsize",
    "%flyte last",
]
STREAMED = "[data-mime-type='application/vnd.jupyter.stdout']"


@pytest.fixture(scope="module")
def notebook(opened: Opening, plane: Plane) -> Notebook:
    """Open the one notebook of these tests, connected to the plane."""
    connect = CONNECT.format(endpoint=plane.endpoint, project=PROJECT, domain=DOMAIN)
    notebook = opened("cluster.ipynb", [connect, *CELLS])
    notebook.run(0)
    return notebook


def _with_narrow(notebook: Notebook, index: int, pictures: Pictures, name: str) -> None:
    pictures.take_in_both_themes(notebook, index, name)
    notebook.page.set_viewport_size({"width": 700, "height": 1000})
    pictures.take(notebook.cell(index), f"{name}_narrow")
    notebook.page.set_viewport_size({"width": 1050, "height": 1400})


def _links_to(line: Locator, plane: Plane) -> None:
    link = line.get_by_role("link", name="console")
    expect(link).to_have_attribute("href", re.compile(re.escape(plane.endpoint)))
    expect(link).to_have_attribute("rel", re.compile("noopener"))


def test_how_far_it_is_is_seen_and_stop_aborts_it(notebook: Notebook, plane: Plane, pictures: Pictures) -> None:
    """Phase, pod, memory against the limit, a link, and the pod's output, while the cell blocks."""
    notebook.page.set_viewport_size({"width": 1050, "height": 1400})
    with plane.seen() as calls:
        notebook.start(1)
        line = notebook.cell(1).locator(".flyte-notebook-live")
        expect(line).to_contain_text(re.compile(r"waiter\s*\d+\.\d s\s*running on the cluster · pod \S+"))
        expect(line).to_contain_text(re.compile(r"1\d\d of 250 MiB"))
        expect(line.get_by_role("meter")).to_have_attribute("aria-valuenow", re.compile(r"[5-7]\d"))
        expect(notebook.cell(1).locator(STREAMED)).to_contain_text("in the pod")
        _links_to(line, plane)
        _with_narrow(notebook, 1, pictures, "cluster_live")
        notebook.cell(1).get_by_role("button", name="Stop").click()
        expect(notebook.cell(1)).to_contain_text("ActionAbortedError")
        line.wait_for(state="detached")
        expect(notebook.cell(1).locator(".jp-InputPrompt")).not_to_contain_text("*")
    assert any(call.endswith("AbortRun") for call in calls)
    pictures.take_in_both_themes(notebook, 1, "cluster_stopped")


def test_a_kill_for_memory_has_card_and_form_and_passes_there_with_more(
    notebook: Notebook, plane: Plane, pictures: Pictures
) -> None:
    """The worker is the pod; the rerun is another run on the cluster, and its address stays with it."""
    notebook.page.set_viewport_size({"width": 1050, "height": 1400})
    notebook.run(2)
    card, form = (notebook.cell(2).locator(f".flyte-notebook-{part}") for part in ("card", "form"))
    form.get_by_role("button", name="Rerun").wait_for()
    expect(card).to_have_attribute("data-error", "OOMError")
    expect(card).to_have_attribute("data-worker", re.compile(r"\S+-a0-0"))
    expect(form.locator("img.fnb-chart").filter(visible=True)).to_have_count(1)
    _with_narrow(notebook, 2, pictures, "cluster_card")
    memory = form.get_by_label("Memory", exact=True)
    with plane.seen() as calls:
        memory.fill("600Mi")
        memory.press("Enter")
        expect(card.locator("h3")).to_contain_text("Passed with 600Mi")
    assert any(call.endswith("CreateRun") for call in calls)
    _with_narrow(notebook, 2, pictures, "cluster_passed")
    _links_to(notebook.run(3), plane)
    pictures.take(notebook.cell(3), "cluster_last")
