"""Tests of runs as HTML: a tree that stays one screen, safe for any names and any parents, and a list that opens."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from failures import MI, NASTY, OOM, hostile

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Failure, Outcome, Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Action, Attempt, Run
from flyte_notebook.views.history.family import Family
from flyte_notebook.views.history.tree import CARDS, MAX_ROWS, TREE_BYTES, run_bundle, run_html, runs_html

LIMITS = Limits(memory_bytes=250 * MI)
DONE = Success(answer=b"", report=WorkerReport())
VOID = {"rect", "line", "img"}


class Page(HTMLParser):
    """Reads a page: that its elements close in order, which there are, and what it says."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.roots: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert [] == self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        if not self.open:
            self.roots.append(tag)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check the order."""
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that it says, with single spaces."""
        return " ".join("".join(self.texts).split())

    def count(self, tag: str, css_class: str | None = None) -> int:
        """Return how many elements of that name, and class, there are."""
        return sum(
            tag == name and (css_class is None or css_class == attributes.get("class"))
            for name, attributes in self.elements
        )


def attempt(outcome: Outcome = DONE, *, number: int = 1, peak_mi: int = 100, limit_mi: int | None = 250) -> Attempt:
    worker = outcome.worker if isinstance(outcome, Failure) else f"w{number}"
    limits = Limits(memory_bytes=None if limit_mi is None else limit_mi * MI)
    trace = MemoryTrace(peak_bytes=peak_mi * MI)
    return Attempt(number=number, worker=worker, limits=limits, outcome=outcome, trace=trace, duration_s=1.5)


def oom(worker: str, headline: str = OOM.headline) -> Failure:
    return replace(OOM, worker=worker, headline=headline)


def act(run: Run, name: str, task: str, parent: str | None, *attempts: Attempt) -> Action:
    action = run.begin_action(name, task, parent, LIMITS)
    action.attempts += attempts
    return action


def recovered() -> Run:
    """Return a run that succeeded although a child failed."""
    run = Run(name="run", task_name="parent")
    act(run, "a0", "parent", None, attempt(limit_mi=None))
    act(run, "a1", "oomer", "a0", attempt(oom("w-a1"), peak_mi=250))
    act(run, "a2", "again", "a0", attempt(oom("w-a2"), peak_mi=250), attempt(number=2, peak_mi=120))
    act(run, "a3", "after", "a2")
    return run


def mapped(count: int, failing: set[int]) -> Run:
    """Return a run that called one task so many times."""
    run = Run(name="run", task_name="map")
    act(run, "a0", "map", None, attempt())
    for number in range(count):
        outcome = oom(f"w{number}") if number in failing else DONE
        act(run, f"b{number}", "work", "a0", attempt(outcome, peak_mi=120 if number == 7 else 60))
    return run


def test_a_tree_says_what_became_of_each_action() -> None:
    """Mark and word, duration, peak against limit, error and code, and whether it was caught or retried."""
    page = Page(run_html(recovered()))
    assert ["section"] == page.roots
    assert "parent · run run · 4 actions · ✓ succeeded" in page.text
    assert "✓ parent succeeded · 1.5 s · 100 MiB, no limit" in page.text
    assert "✗ oomer failed: OOMError, code OOMKilled (caught) · 1.5 s · 250 MiB of 250 MiB" in page.text
    assert "✗ again, attempt 1 failed: OOMError, code OOMKilled (retried)" in page.text
    assert "✓ again, attempt 2 succeeded · 1.5 s · 120 MiB of 250 MiB" in page.text
    assert "… after not finished" in page.text


def test_children_stand_inside_of_their_parents() -> None:
    """The lists are nested as the calls were."""
    html = run_html(recovered(), cards=False)
    depths = {}
    for name in ("parent</bdi></strong> succ", "oomer", "again", "after"):
        before = html.partition("</style>")[2].partition(f"<bdi>{name}")[0]
        depths[name.partition("<")[0]] = before.count("<ul") - before.count("</ul>")
    assert {"parent": 1, "oomer": 2, "again": 2, "after": 3} == depths


def test_each_failure_opens_its_card() -> None:
    """A details element with the card of that worker; without cards its headline."""
    page = Page(run_html(recovered()))
    workers = [
        attributes["data-worker"]
        for tag, attributes in page.elements
        if tag == "section" and "data-worker" in attributes
    ]
    assert ["w-a1", "w-a2"] == workers
    assert 0 == page.count("img")
    bare = Page(run_html(recovered(), cards=False))
    assert 1 == bare.count("section")
    assert 2 == bare.count("details") == bare.count("summary")
    assert 2 == bare.text.count("Ran out of memory (limit 250 MiB) after 0.21 s")


def test_the_card_of_an_attempt_shows_the_attempts_up_to_it() -> None:
    """Its chart has the earlier attempts of the same action, and not those that came after it."""
    run = recovered()
    trace = MemoryTrace(times_s=(0.0, 0.1, 0.2), memory_bytes=(1, 2, 250 * MI), peak_bytes=250 * MI)
    attempts = run.actions[2].attempts
    attempts[:] = [replace(one, trace=trace) for one in (*attempts, attempt(oom("w-a2-2"), number=3))]
    pictures = [
        attributes
        for tag, attributes in Page(run_html(run)).elements
        if tag == "img" and "fnb-wide" in str(attributes["class"])
    ]
    assert 2 == len(pictures)
    assert "attempt 2" not in str(pictures[0]["alt"])
    assert "attempt 2 used at least 250 MiB" in str(pictures[1]["alt"])


def test_the_error_that_ended_a_run_is_told_once() -> None:
    """The action that it came from ended the run; its caller let it through and has no card of its own."""
    run = recovered()
    last = oom("w-a4")
    act(run, "a4", "last", "a0", attempt(last))
    run.actions[0].attempts[:] = [replace(attempt(last), worker="w-a0")]
    run.failure = last
    page = Page(run_html(run))
    assert "✗ failed: OOMError" in page.text
    assert "✗ parent failed: OOMError of a task that it called" in page.text
    assert "✗ last failed: OOMError, code OOMKilled (ended the run)" in page.text
    assert "✗ oomer failed: OOMError, code OOMKilled · 1.5 s" in page.text
    assert 4 == page.count("section")


def test_what_a_caller_survived_was_caught_also_in_a_run_that_failed() -> None:
    """The caller succeeded after it: so it was caught there."""
    run = recovered()
    act(run, "a4", "deep", "a3", attempt(oom("w-a4")))
    run.actions[3].attempts.append(attempt())
    run.failure = oom("elsewhere")
    run.actions[0].attempts[:] = [attempt(run.failure)]
    assert "✗ deep failed: OOMError, code OOMKilled (caught)" in Page(run_html(run)).text


def test_a_map_is_one_row_with_counts() -> None:
    """Five hundred calls are counted; the three that failed are listed, each with its card."""
    page = Page(run_html(mapped(500, {3, 44, 499})))
    assert "work × 500: 497 ✓ succeeded, 3 ✗ failed (caught) · longest 1.5 s · highest 120 MiB of 250 MiB" in page.text
    assert [True] * 3 == [f"work {name} failed" in page.text for name in ("b3", "b44", "b499")]
    assert 3 == page.count("section") - 1
    assert 5 == page.count("li")


@pytest.mark.parametrize("count", [500, 10_000])
def test_any_map_stays_one_screen(count: int) -> None:
    """However many ran and failed: ten are listed, eight with a card, the rest is a number."""
    html = run_html(mapped(count, set(range(0, count, 2))))
    page = Page(html)
    assert f"work × {count:,}: {count // 2:,} ✓ succeeded, {count // 2:,} ✗ failed" in page.text
    assert f"… and {count // 2 - 10:,} more that failed" in page.text
    assert CARDS == page.count("section") - 1
    assert page.count("li") < 20
    assert len(html.encode()) <= TREE_BYTES


def test_what_counted_calls_called_is_counted_too() -> None:
    """Below the row of a map stands what its items called, all together."""
    run = mapped(20, set())
    for number in range(20):
        act(run, f"c{number}", "load", f"b{number}", attempt())
        act(run, f"d{number}", "rare", f"b{number}") if number < 2 else None
    text = Page(run_html(run)).text
    assert "load × 20: 20 ✓ succeeded" in text
    assert 2 == text.count("rare not finished")


def test_ten_thousand_different_tasks_stay_one_screen() -> None:
    """Where nothing can be counted together the rows end, and what is left is a number."""
    run = Run(name="run", task_name="root")
    act(run, "a0", "root", None, attempt())
    for number in range(10_000):
        act(run, f"b{number}", f"task{number}", "a0", attempt())
    page = Page(run_html(run))
    assert MAX_ROWS + 1 >= page.count("li")
    assert f"… and {10_001 - MAX_ROWS:,} more actions" in page.text


def test_a_deep_chain_ends_in_a_number() -> None:
    """A thousand calls inside one another need no thousand indents."""
    run = Run(name="run", task_name="t0")
    for number in range(1_000):
        act(run, f"a{number}", f"t{number}", f"a{number - 1}" if number else None, attempt())
    assert "… and 988 more actions" in Page(run_html(run)).text


def test_many_attempts_are_the_last_ones() -> None:
    """Of fifty attempts the last are shown, and the rest is a number."""
    run = Run(name="run", task_name="t")
    act(run, "a0", "t", None, *(attempt(oom(f"w{number}"), number=number) for number in range(1, 51)))
    text = Page(run_html(run)).text
    assert "… 44 earlier attempts of t" in text
    assert "t, attempt 50 failed" in text
    assert "attempt 44 failed" not in text


@pytest.mark.parametrize(
    "parents",
    [
        {"a0": None, "a1": "a2", "a2": "a1"},
        {"a0": "a0", "a1": "a1", "a2": "a1"},
        {"a0": "gone", "a1": "gone", "a2": None},
        {"a0": "a2", "a1": "a0", "a2": "a1"},
    ],
)
def test_each_action_is_shown_once_whatever_the_parents_say(parents: dict[str, str | None]) -> None:
    """Callers that are not known, or that go round in a circle, lose nothing and end nowhere."""
    run = Run(name="run", task_name="t")
    for name, parent in parents.items():
        act(run, name, f"task-{name}", parent, attempt(oom(f"w-{name}")))
    text = Page(run_html(run, cards=False)).text
    assert [1, 1, 1] == [text.count(f"task-{name} failed") for name in parents]
    family = Family(run)
    assert not [action for action in run.actions if family.then(action) not in {"", "caught"}]


@pytest.mark.parametrize("text", [NASTY, "<b>bold</b>", "'\"&", "\udcff" * 300, "😀" * 5_000, "`" * 5_000, "$x$"])
def test_names_are_text_and_nothing_else(text: str) -> None:
    """Hostile names of runs, tasks and actions, and hostile failures, give no element and no attribute of their own."""
    run = Run(name=text, task_name=text)
    for number in range(80):
        act(run, f"{text}{number}", f"{text}{number // 8}", None, attempt(hostile(text)))
    run.failure = hostile(text)
    html = run_html(run)
    assert len(html.encode()) <= TREE_BYTES
    page = Page(html + runs_html([run] * 3))
    assert ["section", "section"] == page.roots
    assert not {tag for tag, _ in page.elements} & {"script", "img", "b", "iframe", "a"}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in {"href", "src", "id"}}


def test_a_run_in_progress_and_one_from_the_cache_have_words() -> None:
    """Nothing is a failure that is not one."""
    going = Run(name="r", task_name="t")
    act(going, "a0", "t", None)
    assert "run r · 1 action · … running" in Page(run_html(going)).text
    assert "… t running" in Page(run_html(going)).text
    cached = Page(run_html(Run(name="r", task_name="t", cached=True)))
    assert "from the cache no action ran" in cached.text.replace("cacheno", "cache no")


def test_a_bundle_has_both_forms() -> None:
    """A notebook takes the tree, a terminal the text."""
    bundle = run_bundle(recovered())
    assert {"text/html", "text/plain"} == set(bundle)
    assert bundle["text/plain"].startswith("parent · run run · succeeded · 1.5 s")
    assert bundle["text/html"].startswith('<section class="flyte-notebook-run"')


def test_all_runs_are_rows_that_open() -> None:
    """Each row says run, task, actions, highest peak with its limit, outcome and duration, and opens the tree."""
    failed = replace(recovered(), failure=OOM, name="other")
    page = Page(runs_html([recovered(), failed, Run(name="third", task_name="kept", cached=True)]))
    assert (
        "run run task parent actions 4 highest peak 250 MiB its limit 250 MiB outcome ✓ succeeded duration 1.5 s"
    ) in page.text
    assert "run other task parent" in page.text
    assert "outcome ✗ failed: OOMError" in page.text
    assert "run third task kept actions 0 highest peak - its limit - outcome from the cache duration -" in page.text
    assert 2 == page.text.count("✓ again, attempt 2 succeeded")
    assert "nothing has run yet" in Page(runs_html([])).text


def test_a_long_list_of_runs_is_bounded() -> None:
    """Two hundred large runs: the last fifty, within the bound, the latest with their trees."""
    big = mapped(10, set(range(10)))
    for number in range(70):
        act(big, f"x{number}", f"{'t' * 100}{number}", "a0", attempt(oom(f"wx{number}", "<&>" * 200)))
    html = runs_html([replace(big, name=f"r{number}") for number in range(200)])
    page = Page(html)
    assert len(html.encode()) <= TREE_BYTES
    assert "150 earlier runs are not shown" in page.text
    assert "too much to show here" in page.text
    last = page.text.partition("run r199 ")[2]
    assert "work × 10" in last


def test_styles_touch_nothing_but_the_tree() -> None:
    """Every rule is about our own element, and nothing comes from elsewhere."""
    html = run_html(recovered(), cards=False)
    style = html.partition("<style>")[2].partition("</style>")[0]
    selectors = [part.strip() for group in re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", style) for part in group.split(",")]
    assert len(selectors) > 30
    assert [] == [selector for selector in selectors if ".flyte-notebook-run" not in selector]
    assert not re.search(r"<script|https?:|url\(|@import", html)


def test_marks_are_for_the_eye_and_words_for_everybody() -> None:
    """Signs and bars are hidden from screen readers, which read the words beside them."""
    page = Page(run_html(recovered(), cards=False))
    bars = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert bars
    assert all("true" == attributes.get("aria-hidden") for attributes in bars)
    root = page.elements[0][1]
    assert ("region", "Run run of parent") == (root["role"], root["aria-label"])


def test_a_run_on_a_cluster_has_its_address() -> None:
    """A link in the heading, and a line of its own where there is only text; a local run has neither."""
    url = "https://cluster.example/runs/r?a=1&b=2"
    bundle = run_bundle(Run(name="r", task_name="t", remote=True, url=url))
    assert 'href="https://cluster.example/runs/r?a=1&amp;b=2" target="_blank" rel="noopener"' in bundle["text/html"]
    assert f"\n  {url}" in bundle["text/plain"]
    assert "console" not in run_html(Run(name="r", task_name="t"))
