"""What a newcomer sees in JupyterLab: a cell that needs too much, its card, and a notebook that goes on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from pages import expect

if TYPE_CHECKING:
    from conftest import Opening, Pictures

pytestmark = [pytest.mark.browser, pytest.mark.jupyter, pytest.mark.slow]

CELLS = [
    "%load_ext flyte_notebook\nx = 5",
    "%%flyte_task oomer --memory 250Mi\nlarge_list = [0] * 100_000_000 * x\nlen(large_list)",
    "x + 1",
]
READABLE = 4.5
"""Least contrast of text that the Web Content Accessibility Guidelines ask for (WCAG 2, AA)."""

# Contrast as WCAG 2 defines it, of an element's text against the nearest background that is painted behind it. Text of
# JupyterLab is translucent: what is seen is a mixture of both.
CONTRAST = """(element) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => colour.map((value) => value / 255)
        .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    let behind = element;
    while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const page = numbers(getComputedStyle(behind).backgroundColor).slice(0, 3);
    const [red, green, blue, alpha = 1] = numbers(getComputedStyle(element).color);
    const seen = [red, green, blue].map((value, index) => alpha * value + (1 - alpha) * page[index]);
    const [low, high] = [luminance(seen), luminance(page)].sort((one, other) => one - other);
    return (high + 0.05) / (low + 0.05);
}"""

# Where the text itself ends and begins: the box of an element may be narrower than what is in it.
GAP = """(badge) => {
    const [name, value] = ["dt", "dd"].map((tag) => {
        const range = document.createRange();
        range.selectNodeContents(badge.querySelector(tag));
        return range.getBoundingClientRect();
    });
    return value.left - name.right;
}"""


def test_a_cell_that_needs_too_much_shows_its_card_and_the_notebook_goes_on(
    opened: Opening, pictures: Pictures
) -> None:
    """The card says what died and why, in both themes; the traceback is short; the next cell runs."""
    notebook = opened("first_look.ipynb", CELLS)
    expect(notebook.run(0)).to_contain_text("memory: ")
    outputs = notebook.run(1)
    card = outputs.locator("section.flyte-notebook-card")
    for name, value in {"error": "OOMError", "kind": "user", "code": "OOMKilled"}.items():
        expect(card).to_have_attribute(f"data-{name}", value)
    worker = card.get_attribute("data-worker") or ""
    assert re.fullmatch(r"oomer-[0-9a-f]+-a0-0", worker)
    expect(card).to_contain_text("Ran out of memory (limit 250 MiB) after")

    badges = card.locator("dl > div")
    assert [f"kind user, code OOMKilled, worker {worker}"] == [
        ", ".join(text.replace("\n", " ") for text in badges.all_inner_texts())
    ]
    assert all(badge.evaluate(GAP) > 0 for badge in badges.all()), "the name of a badge stands over its value"

    traceback = outputs.locator("[data-mime-type='application/vnd.jupyter.stderr']").inner_text().strip()
    assert traceback.startswith("OOMError: Ran out of memory (limit 250 MiB)")
    assert len(traceback.splitlines()) <= 5

    notebook.gives(2, "6")

    for theme in ("Light", "Dark"):
        notebook.theme(theme)
        texts = card.locator("h3, h3 small, h4, p, dt, dd, summary, .fnb-soft").all()
        assert len(texts) > 10
        faint = [text.inner_text() for text in texts if text.evaluate(CONTRAST) < READABLE]
        assert [] == faint, theme
        pictures.take(notebook.cell(1), f"card_{theme.lower()}")
