"""The numbers in README.md are those that its cells give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import readme_numbers

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

STEP_MI = 16
"""To this a fit rounds up; another version of Python or of a library moves a number by so much."""


def test_the_numbers_of_the_readme_are_measured(kernel: Kernel) -> None:
    """Each number agrees within a step of the fit, or 10 %."""
    text = readme_numbers.README.read_text(encoding="utf-8")
    said, found = readme_numbers.written(text), readme_numbers.measured(kernel)
    wrong = {
        name: (said[name], number)
        for name, number in found.items()
        if abs(said[name] - number) > max(STEP_MI, number // 10)
    }
    assert {} == wrong, "run: make numbers"


def test_a_number_that_is_wrong_is_replaced_in_its_place() -> None:
    """What is written can be read again, and nothing else of the text changes."""
    text = readme_numbers.README.read_text(encoding="utf-8")
    other = dict.fromkeys(readme_numbers.PLACES, 7777)
    changed = readme_numbers.with_numbers(text, other)
    assert other == readme_numbers.written(changed)
    assert text == readme_numbers.with_numbers(changed, readme_numbers.written(text))
    with pytest.raises(LookupError, match="kept_mi"):
        readme_numbers.written(text.replace("with its margin", ""))
