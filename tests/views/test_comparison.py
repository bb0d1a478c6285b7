"""Runs beside each other: rows with names that differ, one chart with a key, and a list of what was saved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from failures import MI, NASTY, OOM, hostile

import flyte_notebook as fn
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Attempt, Run, Runs
from flyte_notebook.views.charts import chart, overlay
from flyte_notebook.views.experiments.comparison import comparison_html, comparison_text, rows_of
from flyte_notebook.views.history.saved import SavedRuns

if TYPE_CHECKING:
    from flyte_notebook.core.outcome import Failure

SVG = "{http://www.w3.org/2000/svg}"
NOON_S = 1_800_000_000.0


def attempt(  # noqa: PLR0913 - what tells attempts apart
    top_mi: int = 100,
    *,
    limit_mi: int | None = 250,
    failure: Failure | None = None,
    worker: str = "r-a0-0",
    number: int = 1,
    source: str = "kernel counter",
) -> Attempt:
    limit = None if limit_mi is None else limit_mi * MI
    trace = MemoryTrace(
        times_s=(0.0, 0.5, 1.0),
        memory_bytes=(40 * MI, top_mi * MI, top_mi * MI),
        limit_bytes=limit,
        baseline_bytes=36 * MI,
        peak_bytes=top_mi * MI,
        peak_source=source,
    )
    limits = Limits(memory_bytes=limit)
    report = WorkerReport(trace=trace, duration_s=1.25)
    outcome = (
        Success(answer=b"", report=report)
        if failure is None
        else replace(failure, worker=worker, report=report, limits=limits)
    )
    return Attempt(number=number, worker=worker, limits=limits, outcome=outcome, trace=trace, duration_s=1.25)


def ran(name: str, *attempts: Attempt, task_name: str = "oomer", saved_s: float | None = None) -> Run:
    """Return a run of one action."""
    run = Run(name=name, task_name=task_name, saved_s=saved_s)
    run.begin_action("a0", task_name, None, Limits()).attempts.extend(attempts)
    last = attempts[-1].outcome if attempts else None
    run.failure = None if last is None or isinstance(last, Success) else last
    return run


KILLED = ran("oomer-1", attempt(250, failure=OOM), saved_s=NOON_S)
PASSED = ran("oomer-2", attempt(300, limit_mi=500))


def labels(*things: object, **named: object) -> list[str]:
    return [row.label for row in rows_of(things, named)]


def test_a_row_says_what_a_run_took_and_how_it_ended() -> None:
    """Duration, peak, limit and outcome of each run, in the order given."""
    first, second = rows_of([KILLED, PASSED], {})
    assert (1.25, 250 * MI, 250 * MI, "OOMError", True) == (
        *(first.duration_s, first.peak_bytes, first.limit_bytes),
        *(first.outcome, first.failed),
    )
    assert (300 * MI, 500 * MI, "succeeded", False) == (
        *(second.peak_bytes, second.limit_bytes),
        *(second.outcome, second.failed),
    )


def test_labels_are_as_short_as_tells_them_apart() -> None:
    """The task; where that is the same, the run, or when it was saved; else both, and at last numbers."""
    saved = KILLED.saved_words
    assert ["oomer", "other"] == labels(KILLED, ran("r", attempt(), task_name="other"))
    assert [f"oomer, saved {saved}", "oomer-2"] == labels(KILLED, PASSED)
    earlier = replace(PASSED, saved_s=NOON_S)
    assert [f"oomer-1, saved {saved}", f"oomer-2, saved {saved}"] == labels(KILLED, earlier)
    assert ["oomer-2 (1)", "oomer-2 (2)"] == labels(PASSED, PASSED)
    assert ["before", "after"] == labels(before=KILLED, after=PASSED)


def test_actions_attempts_failures_and_collections_are_compared() -> None:
    """All that has a trace, and lists of it; a collection with a name numbers its members."""
    retried = ran("r", attempt(250, failure=OOM), attempt(200, number=2, worker="r-a0-1"))
    action = retried.actions[0]
    assert ["OOMError", "succeeded"] == [row.outcome for row in rows_of([action.attempts], {})]
    assert ["oomer, attempt 2"] == [row.what for row in rows_of([action], {})]
    (row,) = rows_of([action.attempts[0].outcome], {})
    assert ("OOMError", 250 * MI, 1.25) == (row.outcome, row.peak_bytes, row.duration_s)
    assert ["all 1", "all 2"] == labels(all=Runs([KILLED, PASSED]))
    assert 2 == len(fn.compare([KILLED, [PASSED]]).rows)


def test_a_nested_run_stands_for_its_heaviest_action() -> None:
    """Its row says which one that is, and that its failure was caught."""
    run = ran("r", attempt(50), task_name="outer")
    run.begin_action("a1", "heavy", "a0", Limits()).attempts.append(attempt(250, failure=OOM, worker="r-a1-0"))
    (row,) = rows_of([run], {})
    assert ("heavy in outer", "succeeded, caught OOMError", False) == (row.what, row.outcome, row.failed)
    assert 250 * MI == row.peak_bytes


def test_what_was_not_measured_has_a_row_and_no_line() -> None:
    """A run from the cache, and one that has not begun."""
    cached = Run(name="c", task_name="oomer", cached=True)
    text = comparison_text(fn.compare(cached, Run(name="d", task_name="other")))
    assert [
        ["oomer", "oomer", "-", "-", "-", "·", "from", "the", "cache"],
        ["other", "other", "-", "-", "-", "·", "not", "finished"],
    ] == [line.split() for line in text.splitlines()[1:]]
    assert "<img" not in comparison_html(fn.compare(cached))
    assert fn.compare(cached).figure().axes == []


@pytest.mark.parametrize(
    ("things", "error"), [([5], TypeError), (["oomer"], TypeError), ([None], TypeError), ([], ValueError)]
)
def test_what_cannot_be_compared_is_said(things: list[object], error: type[Exception]) -> None:
    """Anything without a trace, and nothing at all; the message says what can."""
    with pytest.raises(error, match=r"compare"):
        fn.compare(*things)


def _texts(*things: object) -> list[str]:
    lines = [row.line for row in rows_of(things, {}) if row.line is not None]
    root = ET.fromstring(chart.memory_svg(lines, canvas=overlay.Overlay))  # noqa: S314 - our own
    return ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]


def test_the_chart_has_a_key_with_a_row_for_each() -> None:
    """Name, how it ended, peak and limit; and each limit stands at its height."""
    texts = _texts(KILLED, PASSED)
    assert f"oomer, saved {KILLED.saved_words} · killed, 250 MiB of 250 MiB" in texts
    assert "oomer-2 · passed, 300 MiB of 500 MiB" in texts
    assert {"limit 250 MiB", "limit 500 MiB"} <= set(texts)


def test_the_key_says_what_is_not_exact_or_not_limited() -> None:
    """A peak that is the largest sample is a lower bound."""
    (row,) = rows_of([ran("r", attempt(source="samples", limit_mi=None))], {})
    assert row.line is not None
    assert "passed, at least 100 MiB, no limit" == overlay.key_words(row.line)


def test_lines_have_colours_and_dashes_of_their_own() -> None:
    """As many of both as a chart has lines, so that no two are told apart by colour alone."""
    assert chart.MAX_LINES <= len(set(overlay.COLORS))
    assert chart.MAX_LINES <= len({None, *chart.DASHES})


def test_many_are_cut_and_said() -> None:
    """The chart shows the last six, and the table as many as a screen holds."""
    many = [ran(f"run-{number}", attempt(number + 50)) for number in range(100)]
    found = fn.compare(many)
    text = comparison_text(found)
    assert "40 more are not shown" in text
    assert "the chart shows the last 6 of 100" in text
    assert 6 == sum("passed" in one for one in _texts(many))
    assert 250_000 > len(comparison_html(found))


def test_nothing_that_a_task_wrote_is_markup() -> None:
    """Names of runs, tasks and errors are escaped, in the picture's words too."""
    found = fn.compare(ran(NASTY, attempt(failure=hostile(NASTY)), task_name=NASTY), **{NASTY: PASSED})
    html = comparison_html(found)
    assert "<script" not in html
    assert "onerror='" not in html
    assert "\x1b" not in html + comparison_text(found)
    html.encode()


def test_a_comparison_shows_itself() -> None:
    """As text in a terminal, as HTML with a chart in a notebook, and as a figure that can be changed."""
    found = fn.compare(KILLED, PASSED)
    assert (comparison_html(found), comparison_text(found)) == (found._repr_html_(), repr(found))
    assert 'class="fnb-chart fnb-wide" src="data:image/svg+xml;base64,' in found._repr_html_()
    assert found.figure().axes
    assert isinstance(found, fn.Comparison)


def test_a_card_is_drawn_as_before() -> None:
    """The other chart keeps its words at the ends of the curves."""
    (row,) = rows_of([KILLED], {})
    assert row.line is not None
    texts = [text.get_text() for text in chart.memory_figure([row.line]).axes[0].texts]
    assert "peak 250 MiB" in texts


def test_saved_runs_are_a_list() -> None:
    """Name, when, what it took, and how it ended; the newest at the bottom, and no more than a screen holds."""
    runs = SavedRuns([KILLED, replace(PASSED, saved_s=NOON_S)])
    rows = [line.split() for line in repr(runs).splitlines()]
    assert ["run", "saved", "task", "took", "peak", "limit", "outcome"] == rows[0]
    assert ["oomer-1", *KILLED.saved_words.split(), "oomer"] == rows[1][:4]
    assert "<td>oomer-2</td>" in runs._repr_html_()
    assert ("no run is saved\n", True) == (str(SavedRuns()), "no run is saved" in SavedRuns()._repr_html_())
    assert "10 earlier runs are not shown" in str(SavedRuns([PASSED] * 60))
    assert "<script" not in SavedRuns([ran(NASTY, attempt())])._repr_html_()
    assert isinstance(runs[:1], SavedRuns)
