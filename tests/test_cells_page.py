"""The page on what a task cell does as a plain cell is made of what is tested."""

from __future__ import annotations

from pathlib import Path

import cells_page
import pytest


def test_the_page_is_that_of_the_tests() -> None:
    """`docs/cells.md` is what `tests/cells_page.py` makes of the cases."""
    path = Path(__file__).parent.parent / "docs" / "cells.md"
    assert cells_page.text() == path.read_text(encoding="utf-8"), "run: python tests/cells_page.py"


@pytest.mark.parametrize("module", cells_page.modules())
def test_every_kind_has_cases(module: str) -> None:
    """The names of the cases are found."""
    assert len(cells_page.cases(module)) > 5
