"""The form below a card, through its traits and clicks, without a kernel; and the card that it stands below."""

from __future__ import annotations

import itertools
import logging
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from failures import MI, NASTY, OOM, hostile
from ipywidgets.widgets import widget as registry
from traitlets import TraitError

from flyte_notebook import catalogue, errors
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.overrides import Machine, Override, call_code, magic_code, read
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Attempt
from flyte_notebook.views.charts import chart
from flyte_notebook.views.failures import card
from flyte_notebook.views.failures.card import WIDGET_VIEW, Click, FormData, OverrideForm, said_html
from flyte_notebook.views.failures.details import details_html, meaning_html
from flyte_notebook.views.failures.html import CARD_BYTES, Passed, failure_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Machine(memory_bytes=4096 * MI, cpu_cores=2.0, worker_bytes=40 * MI)
DATA = FormData(
    limits=Limits(memory_bytes=250 * MI, cpu_cores=0.5),
    retries=1,
    suggested=Limits(memory_bytes=500 * MI, cpu_cores=0.5),
    rest="<p>The rest.</p>",
)


class Held:
    """A form, and what was clicked."""

    def __init__(self, data: FormData = DATA) -> None:
        self.clicked: list[Override] = []
        self.raises: Exception | None = None
        self.today = ""
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.form = OverrideForm(
            data,
            check=lambda texts: read(texts, HERE),
            click=self._click,
            on_rerun=self._rerun,
            later=lambda seconds, call: self.later.append((seconds, call)),
        )

    def _click(self, override: Override, today: bool) -> Click:  # noqa: FBT001 - as the form calls it
        return Click(code=magic_code(override), words="of today" if today else "of then", today=self.today)

    def _rerun(self, override: Override) -> None:
        self.clicked.append(override)
        if self.raises is not None:
            raise self.raises

    def parts(self, widget: Any = None) -> Iterator[Any]:
        """Yield the widgets in the order of the page."""
        widget = self.form._box if widget is None else widget
        yield widget
        for child in getattr(widget, "children", ()):
            yield from self.parts(child)

    def part(self, words: str) -> Any:
        """Return the field or button with these words."""
        return next(part for part in self.parts() if words == getattr(part, "description", None))

    @property
    def text(self) -> str:
        """All that stands in the form as HTML, in order."""
        return "".join(part.value for part in self.parts() if "HTML" in type(part).__name__)


@pytest.fixture
def held() -> Iterator[Held]:
    """Give a form, and see that nothing of it is left when it is closed."""
    before = set(registry._instances)
    held = Held()
    yield held
    held.form.close()
    assert [] == [one for key, one in registry._instances.items() if key not in before]


class Elements(HTMLParser):
    """Collects the elements of a page and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element, and what scripts it has."""
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def elements(page: str) -> Elements:
    """Return what a browser would make of a page."""
    found = Elements()
    found.feed(page)
    return found


def test_a_form_begins_with_what_is_suggested(held: Held) -> None:
    """The other settings are those that failed; the rest of the card is there for pages that show it below."""
    expected = {"memory": "500Mi", "cpu": "0.5", "timeout": "", "retries": "1"}
    assert expected == held.form.texts
    assert "<p>The rest.</p>" in held.text
    assert "%flyte rerun --memory 500Mi</code>" in held.text
    assert not held.part("Rerun").disabled


def test_without_a_suggestion_a_form_begins_with_what_failed() -> None:
    """Durations are written so that they can be read again."""
    limits = Limits(memory_bytes=100_000_001, cpu_cores=1.0, max_runtime_s=1_234_567.5)
    held = Held(FormData(limits=limits, retries=0))
    assert {"memory": "100000001", "cpu": "1", "timeout": "1234567.5s", "retries": "0"} == held.form.texts
    held.part("Rerun").click()
    assert [Override()] == held.clicked
    held.form.close()


def test_a_problem_stands_beside_its_field_at_once(held: Held) -> None:
    """With the reason, for screen readers too; nothing can be clicked until it is right."""
    held.part("Memory").value = "6OOMi"
    (problem,) = [part.value for part in held.parts() if "alert" in str(getattr(part, "value", ""))]
    assert "6OOMi is not a memory quantity" in problem
    assert 'role="alert"' in problem
    assert held.part("Rerun").disabled
    held.part("Rerun").click()
    assert [] == held.clicked
    assert "The click runs" not in held.text
    held.part("CPU").value = "99"
    assert 2 == held.text.count('role="alert"')
    held.part("Memory").value = "600Mi"
    held.part("CPU").value = ""
    assert 0 == held.text.count('role="alert"')
    assert not held.part("Rerun").disabled


def test_the_code_follows_the_fields(held: Held) -> None:
    """It is what a click does, and only what differs from the attempt that failed."""
    held.part("Memory").value = "1Gi"
    held.part("Timeout").value = "1.5s"
    held.part("Retries").value = "0"
    assert "<code>%flyte rerun --memory 1Gi --timeout 1.5s --retries 0</code>" in held.text
    held.part("Rerun").click()
    assert [Override(memory_bytes=1024 * MI, max_runtime_s=1.5, retries=0)] == held.clicked


def test_long_code_is_whole() -> None:
    """What is copied runs: a call with many inputs is not cut."""

    def click(override: Override, _today: bool) -> Click:  # noqa: FBT001 - as the form calls it
        inputs = {f"input_number_{number}": f"input_number_{number}" for number in range(40)}
        return Click(code=call_code("oomer", override, declared={}, inputs=inputs, awaited=True))

    form = OverrideForm(DATA, check=lambda texts: read(texts, HERE), click=click, on_rerun=print, later=print)
    assert "input_number_39=input_number_39)</code>" in form._shown_code.value
    form.close()


def test_enter_takes_the_text_that_arrives_after_it(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is still sending texts sends the last one after Enter: nothing is run before that one is here."""
    now_s = [100.0]
    monkeypatch.setattr(card, "monotonic_s", lambda: now_s[0])
    memory = held.part("Memory")
    memory.value = "6"
    now_s[0] += 0.2
    memory.value = "61M"
    memory._handle_custom_msg({"event": "submit"}, [])
    assert [] == held.clicked
    ((wait_s, call),) = held.later
    assert pytest.approx(0.4) == wait_s, "twice as long as between the two texts"
    now_s[0] += 0.1
    memory.value = "61Mi"
    now_s[0] += 0.31
    call()
    assert 61 * MI == held.clicked[0].memory_bytes
    now_s[0] += 60
    held.form.again(DATA, "")
    now_s[0] += 60
    memory._handle_custom_msg({"event": "submit"}, [])
    assert 2 == len(held.clicked), "what was typed long ago is run at once"


def test_an_empty_field_says_what_it_stands_for(held: Held) -> None:
    """The setting that the attempt had, not none at all."""
    placeholders = [held.part(label).placeholder for label in ("Memory", "CPU", "Timeout", "Retries")]
    assert ["as it was: 250Mi", "as it was: 0.5", "none", "as it was: 1"] == placeholders
    held.part("Memory").value = ""
    held.part("Rerun").click()
    assert [Override()] == held.clicked


def test_quick_choices_set_the_memory(held: Held) -> None:
    """Twice and four times the limit that failed; with a new failure, of the new one."""
    held.part("×4 = 1000Mi").click()
    assert "1000Mi" == held.form.texts["memory"]
    held.form.again(FormData(limits=Limits(memory_bytes=1024 * MI), retries=0), "✗ failed")
    held.part("×2 = 2Gi").click()
    assert "2Gi" == held.form.texts["memory"]
    assert [] == [part for part in held.parts() if "1000Mi" in str(getattr(part, "description", ""))]


def test_two_clicks_are_one(held: Held) -> None:
    """Nothing can be typed or clicked while a rerun is on its way."""
    held.part("Rerun").click()
    held.part("Rerun").click()
    assert 1 == len(held.clicked)
    held.form.running("running with 1Gi")
    assert held.part("Running").disabled
    assert held.part("Memory").disabled
    assert "running with 1Gi" in held.text


def test_a_click_that_fails_can_be_repeated(held: Held) -> None:
    """What went wrong is said, and the button is there again."""
    held.raises = RuntimeError("no <threads> left")
    held.part("Rerun").click()
    assert "no &lt;threads&gt; left" in held.text
    held.raises = None
    held.part("Rerun").click()
    assert 2 == len(held.clicked)


def test_a_form_takes_a_new_failure(held: Held) -> None:
    """Its suggestion, its card and its words; what differs counts from the new limits."""
    held.part("Rerun").click()
    held.form.running("running")
    limits = Limits(memory_bytes=500 * MI)
    held.form.again(
        FormData(limits=limits, retries=0, suggested=Limits(memory_bytes=1024 * MI), rest="<p>New.</p>"), "✗ OOM"
    )
    assert {"memory": "1Gi", "cpu": "", "timeout": "", "retries": "0"} == held.form.texts
    assert "✗ OOM" in held.text
    assert "<p>New.</p>" in held.text
    assert "The rest." not in held.text
    assert not held.part("Rerun").disabled
    held.part("Rerun").click()
    assert Override(memory_bytes=1024 * MI) == held.clicked[-1]


def test_the_first_answer_stands(held: Held) -> None:
    """A question has a button for each answer; the others do nothing once one was clicked."""
    answers: list[str] = []
    held.form.ask(
        "Replace `size`?", [("Replace", lambda: answers.append("yes")), ("Keep", lambda: answers.append("no"))]
    )
    assert "Replace <code>size</code>?" in held.text
    parts = list(held.parts())
    assert "The rest." in parts[-1].value, "the answers are above the rest of the card"
    held.part("Keep").click()
    held.part("Replace").click()
    held.part("Keep").click()
    assert ["no"] == answers
    assert held.part("Replace").disabled


def test_a_form_is_a_widget_and_empty_without_one(held: Held) -> None:
    """A front end without a kernel shows nothing in its place, and never that a model is missing."""
    bundle = held.form.bundle()
    assert {WIDGET_VIEW, "text/html", "text/plain"} == set(bundle)
    assert held.form._box.model_id == bundle[WIDGET_VIEW]["model_id"]
    assert ("<span></span>", "") == (bundle["text/html"], bundle["text/plain"])


def test_every_control_has_a_label(held: Held) -> None:
    """For screen readers and for the keyboard, in the order of reading."""
    named = [
        part.description for part in held.parts() if hasattr(part, "description") and "HTML" not in type(part).__name__
    ]
    assert ["Memory", "CPU", "Timeout", "Retries", "Rerun", "×2 = 500Mi", "×4 = 1000Mi", ""] == named
    assert 'aria-label="Copy this code"' in held.text


@pytest.mark.parametrize("text", [NASTY, "<img src=x onerror=alert(1)>" * 1000, "\u202e" * 100, "x" * 1_000_000])
def test_hostile_texts_stay_texts(held: Held, text: str) -> None:
    """Typed, said, asked or suggested: no element and no handler comes from them, and the page stays small."""
    for label in ("Memory", "CPU", "Timeout", "Retries"):
        held.part(label).value = text.encode("utf-8", "replace").decode()
    held.form.ask(text, [("Yes", print)])
    held.form.say(text)
    assert {*elements(held.text).tags} <= {"style", "div", "span", "code", "button", "p"}
    assert [] == elements(held.text).handlers
    assert len(held.text) < 40_000
    held.form.again(DATA, text)
    assert {*elements(held.text).tags} <= {"style", "div", "span", "code", "button", "p"}
    assert len(held.text) < 40_000
    assert {*elements(said_html(text)).tags} <= {"style", "div", "code"}
    assert "\u202e" not in held.text + said_html(text)


def test_a_field_takes_texts_only(held: Held) -> None:
    """What a front end of another version may send changes nothing."""
    with pytest.raises(TraitError):
        held.part("Memory").value = None
    assert "500Mi" == held.form.texts["memory"]


def test_enter_in_a_field_is_a_click(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the front end reports it, here long after the last text; not while a field is wrong."""
    monkeypatch.setattr(card, "monotonic_s", itertools.count(0.0, 10.0).__next__)
    held.part("Memory").value = "6OOMi"
    held.part("CPU")._handle_custom_msg({"event": "submit"}, [])
    assert [] == held.clicked
    held.part("Memory").value = "600Mi"
    held.part("Memory")._handle_custom_msg({"event": "other"}, [])
    assert [] == held.clicked
    held.part("Memory")._handle_custom_msg({"event": "submit"}, [])
    assert [Override(memory_bytes=600 * MI)] == held.clicked


def test_other_inputs_are_offered_where_there_are_any(held: Held) -> None:
    """What a click takes stands beside its code, and changes with the box; without other inputs there is no box."""
    box = next(part for part in held.parts() if "Checkbox" == type(part).__name__)
    assert "none" == box.layout.display
    held.today = "with today's x"
    held.form.look()
    assert box.layout.display is None
    assert "with today's x" == box.description
    assert "of then" in held.text
    box.value = True
    assert "of today" in held.text


def test_without_memory_in_it_no_memory_is_offered() -> None:
    """For an error that has nothing to do with memory there are no choices of it."""
    held = Held(FormData(limits=Limits(memory_bytes=250 * MI), retries=0, of_memory=False))
    assert [] == [part for part in held.parts() if "×" in str(getattr(part, "description", ""))]
    held.form.close()


# the card above it


def story(*traces: MemoryTrace) -> list[tuple[str, Attempt]]:
    """Return attempts with these traces."""
    return [
        (
            f"attempt {number}",
            Attempt(number=number, worker=f"w{number}", limits=OOM.limits, outcome=OOM, trace=trace, duration_s=1.0),
        )
        for number, trace in enumerate(traces, start=1)
    ]


def trace_of(samples: int) -> MemoryTrace:
    """Return a trace with so many samples."""
    return MemoryTrace(
        times_s=tuple(number / 10 for number in range(samples)),
        memory_bytes=tuple(MI * (36 + number % 200) for number in range(samples)),
        peak_bytes=236 * MI,
        baseline_bytes=36 * MI,
        peak_source="samples",
    )


def test_reruns_stand_on_the_card() -> None:
    """The last ten, in order; one that passed is the title, with what to keep, and the failure is its history."""
    passed = Passed(title="Passed with 1Gi", keep=(("Write in the cell:", "--memory 1Gi"), ("Or:", "resources=<x>")))
    page = failure_html(OOM, reruns=["✗ rerun with 300Mi: OOMError", "✓ rerun with `1Gi` succeeded"], passed=passed)
    assert 'data-rerun="passed"' in page
    assert '<h3><span dir="auto">Passed with 1Gi</span>' in page
    assert ["--memory 1Gi", "resources=&lt;x&gt;"] == re.findall('<pre class="fnb-run">(.*?)</pre>', page)[:2]
    assert "<summary>Before: OOMError. Ran out of memory (limit 250 MiB) after 0.21 s, on line 4" in page
    assert "<li>✗ rerun with 300Mi: OOMError</li><li>✓ rerun with <code>1Gi</code> succeeded</li>" in page
    assert 'data-rerun="failed"' in failure_html(OOM, reruns=["✓ passed", "✗ failed"])
    assert "data-rerun" not in failure_html(OOM).partition(">")[0]
    many = failure_html(OOM, reruns=[f"✗ number {number}" for number in range(1000)])
    assert 10 == many.count("<li>✗ number")
    assert "number 999" in many


def test_a_trace_of_one_sample_is_no_line() -> None:
    """A bar with the same numbers stands in its place; two samples are a picture."""
    one, two = failure_html(OOM, story=story(trace_of(1))), failure_html(OOM, story=story(trace_of(2)))
    assert ("<svg" in one, "fnb-chart" in one.partition("</style>")[2]) == (True, False)
    assert '<img class="fnb-chart fnb-wide" src="data:image/' in two
    assert '<img class="fnb-chart fnb-narrow" src="data:image/' in two
    assert "<svg" in failure_html(OOM, story=())


@pytest.mark.parametrize("memory_bytes", [1024, 2**40])
def test_limits_of_any_size_are_shown(memory_bytes: int) -> None:
    """1 KiB and 1 TiB, with a usage that is far from both."""
    failure = replace(OOM, limits=Limits(memory_bytes=memory_bytes))
    words = {1024: "1 KiB", 2**40: "1 TiB"}[memory_bytes]
    drawn = [(label, replace(attempt, limits=failure.limits)) for label, attempt in story(trace_of(50))]
    for page in (failure_html(failure), failure_html(failure, story=drawn)):
        assert words in page
        assert len(page.encode()) <= CARD_BYTES


def test_a_chart_that_cannot_be_drawn_does_not_take_the_card(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the bar stands in its place."""

    def broken(_lines: object, **_how: object) -> str:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(chart, "memory_data_uri", broken)
    with caplog.at_level(logging.ERROR):
        page = failure_html(OOM, story=story(trace_of(50)))
    assert "<svg" in page
    assert "no fonts" in caplog.text
    monkeypatch.setattr(chart, "memory_data_uri", lambda _lines, **_how: "data:image/png;base64," + "A" * chart.BYTES)
    assert "fnb-chart" not in failure_html(OOM, story=story(trace_of(50))).partition("</style>")[2]


TEXTS: Mapping[str, str] = {
    "nasty": NASTY,
    "a script": "<script>alert(1)</script>" * 1000,
    "colours": "\x1b[31mred\x1b[0m" * 10_000,
    "a million characters": "&" * 1_000_000,
    "right to left": "\u202e\u2067\u05e9\u05dc\u05d5\u05dd" * 1000,
    "one long line": "<" * 10_000_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_card_is_bounded_and_safe_whatever_a_task_wrote(text: str) -> None:
    """With a chart, a story and reruns: below 400 KiB, no foreign element, no handler, no text turned around."""
    traces = [trace_of(2000)] * 12
    drawn = [(text, attempt) for _, attempt in story(*traces)]
    page = failure_html(hostile(text), story=drawn, reruns=[text] * 100)
    assert len(page.encode()) <= CARD_BYTES
    found = elements(page)
    assert [] == found.handlers
    assert not {"script", "iframe", "object", "a", "form", "input"} & set(found.tags)
    assert found.tags.count("img") <= 2
    assert not {"\u202e", "\u2067", "\x1b", "\x00"} & set(page)


def test_the_error_is_explained_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it means, what to change and how to recover, folded; nothing for a class that nobody knows."""
    found = meaning_html(replace(OOM, error=errors.OOMError("OOMKilled", "Pod failed.", "user")))
    assert found.startswith("<details><summary>What OOMError means, and how to recover</summary>")
    assert "<h4>What to change</h4>" in found
    assert "<h4>Recover in code</h4><pre>" in found
    assert found in failure_html(replace(OOM, error=errors.OOMError("OOMKilled", "Pod failed.", "user")))
    monkeypatch.setattr(catalogue, "explain", lambda error: {}[error])
    assert "" == meaning_html(OOM)


def test_details_have_every_fact() -> None:
    """Limits and what held them, how exact the peak is, times, and inputs by name, type and size; never a value."""
    text = details_html(OOM)
    for words in (
        "oomer",
        "run-a1-0",
        "1 of 3",
        "user, OOMKilled",
        "250 MiB; held by: ",
        "125 MiB; exact, from the kernel&#x27;s counter",
        "36 MiB",
        "0.5 CPU; held by: ",
        "30 s",
        "<bdi>x</bdi></td><td><bdi>int</bdi></td><td>28 B</td>",
    ):
        assert words in text, words
    sampled = replace(OOM.report, trace=MemoryTrace(peak_bytes=MI, peak_source="samples"))
    assert "the largest sample: a lower bound" in details_html(replace(OOM, report=sampled))
    many = replace(OOM, inputs=OOM.inputs * 80)
    assert 50 == details_html(many).count("<bdi>x</bdi>")
    assert "and 30 more" in details_html(many)
