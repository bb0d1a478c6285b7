"""The form below a card: other limits, checked while they are typed, and one click that runs the cell again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pages import expect

if TYPE_CHECKING:
    from conftest import Opening, Pictures

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow]

CELLS = [
    "%load_ext flyte_notebook\nx = 5",
    "%%flyte_task oomer --memory 250Mi\nlarge_list = [0] * 10_000_000 * x\nsize = len(large_list)\nsize",
    "size + 1",
]


@pytest.mark.parametrize("notebook7", [False, True], ids=["lab", "notebook7"])
def test_a_click_runs_the_cell_again_with_more_memory_and_its_outputs_land(
    opened: Opening, pictures: Pictures, *, notebook7: bool
) -> None:
    """Kind, code and worker stand on the card; 600Mi typed and Rerun clicked give success and the value."""
    front = "notebook7" if notebook7 else "lab"
    notebook = opened("rerun.ipynb", CELLS, notebook7=notebook7)
    notebook.run(0)
    outputs = notebook.run(1)
    card = outputs.locator("section.flyte-notebook-card")
    for name, value in {"error": "OOMError", "kind": "user", "code": "OOMKilled"}.items():
        expect(card).to_have_attribute(f"data-{name}", value)
    form = outputs.locator(".flyte-notebook-form")
    memory = form.get_by_label("Memory", exact=True)
    memory.wait_for()
    # It asks for 381 MiB at once, and holds a fifth of that and the interpreter.
    assert 480 <= int(memory.input_value().removesuffix("Mi")) < 640
    pictures.take_in_both_themes(notebook, 1, f"{front}_form")

    memory.fill("6OOMi")
    form.get_by_role("alert").wait_for()
    expect(form.get_by_role("button", name="Rerun")).to_be_disabled()
    pictures.take(notebook.cell(1), f"{front}_form_problem_light")
    memory.fill("600Mi")
    form.get_by_role("alert").wait_for(state="detached")
    expect(form).to_contain_text('await oomer.override(resources=flyte.Resources(memory="600Mi"))(x=x)')
    form.get_by_role("button", name="Rerun").click()
    outputs.get_by_text("✓ rerun with 600Mi succeeded").first.wait_for()
    form.get_by_label("Memory", exact=True).wait_for(state="detached")
    pictures.take(notebook.cell(1), f"{front}_rerun_passed_light")
    notebook.gives(2, "50000001")
