"""A cell on a cluster in JupyterLab: its line, its Stop, its card, and the click that runs it again there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from loopback.fixtures import DOMAIN, PROJECT, plane
from pages import expect

if TYPE_CHECKING:
    from conftest import Notebook, Opening, Pictures
    from loopback.handle import Plane

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow, pytest.mark.cgroup]

__all__ = ["plane"]

SETUP = """%load_ext flyte_notebook
import flyte
flyte.init(endpoint={endpoint!r}, insecure=True, project={project!r}, domain={domain!r})
x = 5"""
SLOW = """import time
held = bytearray(120 << 20)
print('in the pod', flush=True)
time.sleep(60)"""
HEAD = "--memory 250Mi --remote --image example/cells:1"


@pytest.fixture(scope="module")
def notebook(opened: Opening, plane: Plane) -> Notebook:
    """Open the one notebook of these tests."""
    cells = [
        SETUP.format(endpoint=plane.endpoint, project=PROJECT, domain=DOMAIN),
        f"%%flyte_task oomer {HEAD}\nlarge_list = [0] * 10_000_000 * x\nlen(large_list)",
        f"%%flyte_task slow {HEAD}\n{SLOW}",
    ]
    notebook = opened("cluster.ipynb", cells)
    notebook.run(0)
    return notebook


def test_a_kill_there_has_its_card_and_a_click_runs_it_there_again(
    notebook: Notebook, plane: Plane, pictures: Pictures
) -> None:
    """The pod is the worker; the typed limit is that of the next run on the cluster."""
    notebook.run(1)
    cell = notebook.cell(1)
    expect(cell.locator(".flyte-notebook-card").filter(visible=True)).to_contain_text("OOMError")
    expect(cell.locator("img.fnb-chart").filter(visible=True)).to_have_count(1)
    pictures.take_in_both_themes(notebook, 1, "cluster_card")
    cell.get_by_label("Memory", exact=True).fill("600Mi")
    with plane.seen() as calls:
        cell.get_by_role("button", name="Rerun").click()
        expect(cell.locator(".flyte-notebook-card")).to_contain_text("Passed with 600Mi")
    assert any(call.endswith("CreateRun") for call in calls)
    pictures.take_in_both_themes(notebook, 1, "cluster_passed")


def test_the_line_says_where_it_is_and_stop_aborts_it_there(
    notebook: Notebook, plane: Plane, pictures: Pictures
) -> None:
    """Phase, pod, memory and a link to the console; the pod's output below it; afterwards one grey line."""
    notebook.start(2)
    line = notebook.cell(2).locator(".flyte-notebook-live-box")
    expect(line).to_contain_text("running on the cluster")
    expect(line).to_contain_text("of 250 MiB")
    address = line.get_by_role("link", name="console").get_attribute("href")
    assert str(address).startswith(f"{plane.endpoint}/")
    expect(notebook.cell(2)).to_contain_text("in the pod")
    pictures.take_in_both_themes(notebook, 2, "cluster_live_line")
    with plane.seen() as calls:
        line.get_by_role("button", name="Stop").click()
        expect(notebook.cell(2)).to_contain_text("ActionAbortedError: Stopped by you after")
    assert any(call.endswith("AbortRun") for call in calls)
