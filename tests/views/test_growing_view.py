"""How a limit grew, as text and as HTML."""

from __future__ import annotations

from dataclasses import replace

from failures import OOM

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Attempt
from flyte_notebook.views.experiments.escalation import escalation_bundle, escalation_html, escalation_text

MI = 1 << 20
NASTY = "<script>alert(1)</script>\x1b[31m"
MADE_OF = "Its peak was 520 MiB. The limit to keep adds 10 MiB for a cluster, and a safety margin of 10%."
KEEP = 'resources=flyte.Resources(cpu=1, memory="1Gi")'


def attempt(limit_mi: int, peak_mi: int, *, passed: bool) -> Attempt:
    """Return an attempt at a limit."""
    trace = MemoryTrace(
        times_s=(0.0, 0.1, 0.2),
        memory_bytes=(40 * MI, peak_mi * MI, peak_mi * MI),
        limit_bytes=limit_mi * MI,
        peak_bytes=peak_mi * MI,
        peak_source="kernel counter",
    )
    limits = Limits(memory_bytes=limit_mi * MI)
    outcome = Success(answer=b"", report=WorkerReport(trace=trace)) if passed else replace(OOM, limits=limits)
    return Attempt(number=1, worker="run-a1-0", limits=limits, outcome=outcome, trace=trace, duration_s=0.2)


STORY = (
    ("attempt 1", attempt(250, 250, passed=False)),
    ("rerun 1 (500Mi)", attempt(500, 500, passed=False)),
    ("rerun 2 (1000Mi)", attempt(1_000, 520, passed=True)),
)


def test_every_attempt_is_said_and_what_to_keep() -> None:
    """The peak of a killed attempt is a lower bound; that of the last one is measured, and the limit is made of it."""
    text = escalation_text("oomer", STORY, KEEP)
    assert "oomer passed with 1000Mi, after OOM at 250Mi and 500Mi" in text
    assert ["at least 250 MiB", "at least 500 MiB"] == [
        cell for cell in ("at least 250 MiB", "at least 500 MiB") if cell in text
    ]
    assert f"keep: {KEEP}" in text
    assert MADE_OF in text


def test_a_peak_that_is_not_exact_makes_no_limit() -> None:
    """The limit that passed is kept, and nothing is said of a margin."""
    passed = attempt(1_000, 900, passed=True)
    passed = replace(passed, trace=replace(passed.trace, peak_source="samples"))
    assert "margin" not in escalation_text("oomer", (*STORY[:2], ("", passed)), KEEP)


def test_the_page_shows_one_chart_and_is_safe() -> None:
    """The same words, a picture of all attempts, and nothing of a name that is markup."""
    bundle = escalation_bundle(NASTY, STORY, NASTY)
    page = bundle["text/html"]
    assert "<script" not in page
    assert "\x1b" not in page + bundle["text/plain"].replace(NASTY, "")
    assert 1 == page.count('<img class="fnb-chart fnb-wide"')
    assert "rerun 1 (500Mi)" in page
    assert MADE_OF in page


def test_a_result_from_the_cache_has_no_attempt_to_show() -> None:
    """The last attempt of the story was killed, and what passed never ran."""
    assert "its result is from the cache" in escalation_text("oomer", STORY[:2], KEEP)
    assert "<img" not in escalation_html("oomer", (), KEEP)


def test_plain_text_alone_where_nothing_rich_can_be_shown() -> None:
    """A terminal gets the words."""
    assert ["text/plain"] == list(escalation_bundle("oomer", STORY, KEEP, rich=False))
