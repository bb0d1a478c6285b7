"""The exercises of the course in JupyterLab: answered wrong, then right, by somebody who types into the cells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import documents
import pytest
from pages import expect

if TYPE_CHECKING:
    from conftest import Opening, Pictures

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
WRITE = """([index, text]) => {
    window.jupyterapp.shell.currentWidget.content.widgets[index].model.sharedModel.setSource(text);
}"""


@pytest.mark.parametrize("name", sorted(path.stem for path in (NOTEBOOKS / "exercises").glob("*.ipynb")))
def test_an_exercise_is_answered_wrong_then_right(opened: Opening, pictures: Pictures, name: str) -> None:
    """As it comes it is not passed, and the check says what is missing; with the cells of the solution it passes."""
    starter, solution = (
        {cell.id: cell.source for cell in documents.read(NOTEBOOKS / folder / f"{name}.ipynb").cells if _is_code(cell)}
        for folder in ("exercises", "solutions")
    )
    notebook = opened(f"{name}.ipynb", list(starter.values()))
    for index in range(len(starter)):
        notebook.run(index)
    checks = [index for index, source in enumerate(starter.values()) if "course.check(" in source]
    for index in checks:
        notebook.show(index)
        expect(notebook.cell(index).locator(".flyte-notebook-answer")).to_contain_text(": not yet.")
    pictures.take(notebook.cell(checks[0]), f"course_{name}_not_yet_light")
    for index, cell in enumerate(starter):
        solved = solution.get(f"{cell}-solved")
        if solved is not None:
            notebook.page.evaluate(WRITE, [index, solved])
    for index in range(1, len(starter)):
        notebook.run(index)
    for index in checks:
        notebook.show(index)
        expect(notebook.cell(index).locator(".flyte-notebook-answer")).to_contain_text(re.compile(": passed."))
    pictures.take_in_both_themes(notebook, checks[0], f"course_{name}_passed")
    notebook.shut_down()


def _is_code(cell: object) -> bool:
    return getattr(cell, "cell_type", "") == "code"
