"""Tests of the HTML card: one root element, nothing that escapes from it, bounded, complete without styles."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from failures import NASTY, OOM, hostile

from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.views.failures.html import CARD_BYTES, failure_html
from flyte_notebook.views.text import memory_matters

if TYPE_CHECKING:
    from flyte_notebook.core.outcome import Failure

ALLOWED = {
    *("section", "strong", "style", "div", "h3", "h4", "span", "small", "bdi", "p", "code", "dl", "dt", "dd"),
    *("svg", "rect", "line", "pre", "mark", "details", "summary", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Tree(HTMLParser):
    """Reads a card: which elements at which depth, which attributes, which text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.roots: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.marked: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        if not self.open:
            self.roots.append(tag)
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check that elements close in the order in which they opened."""
        assert self.open
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        """Note the text, and the text of marks by itself."""
        if "style" not in self.open:
            self.texts.append(data)
        if "mark" in self.open:
            self.marked.append(data)

    @property
    def text(self) -> str:
        """All text of the card but its style sheet."""
        return "".join(self.texts)


def test_the_card_is_one_section_that_says_what_it_is() -> None:
    """The one root element carries class, error, kind, code and worker, and a label for those who do not see it."""
    tree = Tree(failure_html(OOM))
    assert ["section"] == tree.roots
    assert [] == tree.open
    expected = {
        "class": "flyte-notebook-card",
        "data-error": "OOMError",
        "data-kind": "user",
        "data-code": "OOMKilled",
        "data-worker": "run-a1-0",
        "data-reason": "memory",
        "role": "region",
        "aria-label": "OOMError in task oomer",
    }
    assert expected == tree.elements[0][1]
    assert failure_html(OOM).startswith('<section class="flyte-notebook-card" data-error="OOMError"')


@pytest.mark.parametrize(
    "words",
    [
        "Ran out of memory (limit 250 MiB) after 0.21 s",
        "attempt 1 of 3",
        "inputs x: int",
        "Peak 125 MiB of 250 MiB. Python and Flyte use 36 MiB of that.",
        "memory: kernel (cgroup v1)",
        "In [3], line 12, in pipeline",
        "> 4 | return [0] * 10**9",
        "epoch 2",
        "Try 500Mi, twice the limit.",
        "the worker's own",
    ],
)
def test_everything_stands_in_words(words: str) -> None:
    """The card's text alone, without styles and pictures, says all of it."""
    assert words in Tree(failure_html(OOM)).text


def test_the_failing_line_is_marked_and_only_that() -> None:
    """One line is marked, by an element of its own and by a sign, not by colour alone."""
    assert ["> 4 | return [0] * 10**9"] == Tree(failure_html(OOM)).marked


def _folded(failure: Failure) -> list[str]:
    return re.findall(r"<summary>(.*?)</summary>", failure_html(failure))


def test_what_is_long_or_secondary_is_folded() -> None:
    """A cluster's message, the output tail and the traceback stand in details elements that open without a script."""
    folded = ["What a cluster would say", "Last output", "Traceback"]
    assert [*folded, "What OOMError means, and how to recover", "Details"] == _folded(OOM)
    there = replace(OOM, report=replace(OOM.report, enforcement=Enforcement(memory="cluster", cpu="cluster")))
    assert "What the cluster said" == _folded(there)[0]


def test_a_message_of_user_code_is_not_folded() -> None:
    """What user code raised is its author's words, and stands open."""
    raised = replace(OOM, reason="raised", message="no such fruit: plum")
    folded = ["Memory", "Last output", "Traceback", "What OOMError means, and how to recover", "Details"]
    assert folded == _folded(raised)
    assert '<h4>Message</h4><pre dir="auto">no such fruit: plum</pre>' in failure_html(raised)


def test_the_size_of_an_input_is_shown_where_it_matters() -> None:
    """A few bytes say nothing about memory; a large input says where it went."""
    fact = OOM.inputs[0]
    large = replace(OOM, inputs=(replace(fact, size_bytes=3 * 2**20),))
    assert "inputs x: int (3 MiB)" in Tree(failure_html(large)).text
    assert "inputs x: int\n" in Tree(failure_html(OOM)).text


def _bar(limit_bytes: int | None, peak_bytes: int | None) -> dict[str, float]:
    trace = MemoryTrace(peak_bytes=peak_bytes, baseline_bytes=10)
    card = failure_html(replace(OOM, limits=Limits(memory_bytes=limit_bytes), report=replace(OOM.report, trace=trace)))
    places = {}
    for _, attributes in Tree(card).elements:
        name = (attributes.get("class") or "").removeprefix("fnb-")
        if name in {"used", "base", "limit"}:
            places[name] = float(attributes.get("width") or attributes.get("x1") or 0)
    return places


def test_the_bar_shows_peak_against_limit() -> None:
    """Peak and limit stand in proportion; a peak beyond the limit reaches past its mark; without both, no bar."""
    assert {"used": 450.0, "base": 90.0, "limit": 900.0} == _bar(100, 50)
    assert {"used": 1000.0, "base": 50.0, "limit": 500.0} == _bar(100, 200)
    assert {} == _bar(None, 200)
    assert {} == _bar(100, None)


def test_what_this_machine_lacks_is_said_with_its_remedy() -> None:
    """A hint of the enforcement is on the card, its command as code."""
    enforcement = Enforcement(memory="watchdog", hints=("Start with `systemd-run` for exact limits.",))
    card = failure_html(replace(OOM, report=replace(OOM.report, enforcement=enforcement)))
    assert "<code>systemd-run</code>" in card
    assert "may overshoot by about 100 MiB" in card


@pytest.mark.parametrize("text", [NASTY, "`" + NASTY + "`", "$x$ and $y$", "]]>--><!--", "javascript:alert(1)"])
def test_nothing_that_a_task_writes_gets_out_of_its_place(text: str) -> None:
    """Hostile text in every field gives no new element, no new attribute and no unbalanced tag."""
    tree = Tree(failure_html(hostile(text)))
    assert ["section"] == tree.roots
    assert [] == tree.open
    assert ALLOWED >= {tag for tag, _ in tree.elements}
    names = {name for _, attributes in tree.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in {"href", "src", "style", "id"}}


def test_text_reaches_the_card_unchanged_where_it_is_harmless() -> None:
    """Markup that a task wrote is shown as it was written, and in both directions of writing."""
    text = Tree(failure_html(replace(OOM, message="<b>\u05e9\u05dc\u05d5\u05dd</b> & $5"))).text
    assert "<b>\u05e9\u05dc\u05d5\u05dd</b> & $5" in text


def test_formulas_are_not_made_of_dollars() -> None:
    """The card's body asks the page's formula renderer to leave it alone."""
    assert "tex2jax_ignore mathjax_ignore" in failure_html(OOM)


@pytest.mark.parametrize(
    ("part", "times"), [("'", 50_000_000), ("\udcff", 200_000), ("😀", 200_000), ("\x00", 200_000), ("a\n", 10**6)]
)
def test_no_card_is_larger_than_promised(part: str, times: int) -> None:
    """At most 400 KiB in UTF-8 whatever the task wrote, with a note where something was left out."""
    card = failure_html(hostile(part * times))
    assert len(card.encode()) <= CARD_BYTES == 400 * 1024
    assert "characters left out" in card


def test_the_card_needs_nothing_from_elsewhere() -> None:
    """No script, no address, no import: the card is whole by itself, and its styles touch nothing but itself."""
    card = failure_html(OOM)
    assert not re.search(r"<script|https?:|url\(|@import", card)
    style = card.partition("<style>")[2].partition("</style>")[0]
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", style)
    assert len(selectors) > 10
    assert [] == [selector for selector in selectors if ".flyte-notebook-card" not in selector]


def test_the_card_follows_the_theme() -> None:
    """Colours come from JupyterLab's variables, with a fallback for a light and for a dark system."""
    card = failure_html(OOM)
    assert 2 == card.count("--fnb-text:var(--jp-ui-font-color1,")
    assert "@media (prefers-color-scheme:dark)" in card


def _order(page: str, *words: str) -> list[int]:
    return [page.index(word) for word in words]


def test_memory_comes_first_where_it_matters_and_is_folded_elsewhere() -> None:
    """After an OOM the chart is the evidence; after an error of the code its line is, and memory opens on demand."""
    oom = failure_html(OOM).partition("</style>")[2]
    found = _order(oom, "<h3>", "<dl", "fnb-action", "fnb-rest", "<h4>Memory</h4>", "<h4>Your lines</h4>")
    assert sorted(found) == found
    wrong = replace(OOM, reason="raised", code="KeyError", message="'plum'")
    page = failure_html(wrong).partition("</style>")[2]
    found = _order(page, "<h3>", "<h4>Your lines</h4>", "<h4>Message</h4>", "<summary>Memory</summary>")
    assert sorted(found) == found
    assert "<h4>Memory</h4>" not in page


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        (True, {}),
        (True, {"reason": "machine_memory"}),
        (False, {"reason": "raised", "code": "KeyError"}),
        (False, {"reason": "signalled", "report": replace(OOM.report, signal=11)}),
        (True, {"reason": "signalled", "report": replace(OOM.report, signal=9)}),
        (False, {"reason": "max_runtime"}),
        (True, {"reason": "max_runtime", "limits": Limits(memory_bytes=130 * 2**20)}),
    ],
)
def test_memory_matters(expected: bool, changes: dict[str, Any]) -> None:  # noqa: FBT001 - what is expected
    """It does after a kill for it or from outside, and near the limit."""
    assert expected == memory_matters(replace(OOM, **changes))


def test_a_stop_is_one_soft_line() -> None:
    """Whoever stopped it knows why: no heading, no badges in sight, and the facts open on demand."""
    stopped = replace(OOM, reason="stopped", headline="stopped by you after 4.7 s")
    body = failure_html(stopped).partition("</style>")[2]
    line, _, folded = body.partition("<details>")
    assert "Stopped by you after 4.7 s." in line
    assert "<h3>" not in body
    assert "<dl" not in line
    assert "<h4>Your lines</h4>" in folded
