"""A fit as text and as HTML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.experiments.fitting import Fit, FitRun, Measure, headline, task_fit
from flyte_notebook.views.experiments.fit import fit_bundle, fit_html, fit_text, shown

MI = 1 << 20
ROOM = 16 << 30
NASTY = "<script>alert(1)</script>\x1b[31m"


def measures(need_mi: int) -> list[Measure]:
    """Return two runs, with room and at the edge."""
    first = Measure(limit_bytes=ROOM, ended="passed", peak_bytes=need_mi * MI, counted_bytes=need_mi * MI)
    return [first, replace(first, limit_bytes=(need_mi + need_mi // 100 + 1) * MI)]


def fit(*names: str, declared_mi: int | None = 1_024) -> Fit:
    """Return what was found about tasks that need 200 MiB, 300 MiB and so on."""
    seen = {name: measures(200 + 100 * place) for place, name in enumerate(names)}
    declared = None if declared_mi is None else declared_mi * MI
    tasks = tuple(
        replace(task_fit(name, found, room_bytes=ROOM, declared_bytes=declared), line=f"resources=of({name})")
        for name, found in seen.items()
    )
    trace = MemoryTrace(times_s=(0.0, 0.1, 0.2), memory_bytes=(40 * MI, 200 * MI, 90 * MI), peak_bytes=200 * MI)
    runs = tuple(
        FitRun(
            number=number + 1,
            name=f"run-{number}",
            why="at the edge",
            measures={name: found[number] for name, found in seen.items()},
            duration_s=0.5,
            trace=trace,
        )
        for number in range(2)
    )
    words = headline(tasks[0], len(runs), room_bytes=ROOM)
    return Fit(task_name=names[0], verdict="found", headline=words, tasks=tasks, runs=runs, enforced="kernel (x)")


def test_the_text_has_the_runs_and_the_line_to_keep() -> None:
    """Headline, a line for each run, the line to keep, what it is made of, and what others would have said."""
    text = fit_text(fit("one"))
    assert text.startswith("fit of one: Needs at least 203Mi (found in 2 runs).\n")
    assert "keep: resources=of(one)" in text
    assert "203 MiB needed here + 10 MiB extra on a cluster + " in text
    assert (
        "other tools' rules would give: VPA 230Mi (p90 × 1.15) · KRR 230Mi (peak × 1.15) · doubling 1Gi (no step down)"
        in text
    )
    assert "declared" not in text


def test_many_tasks_are_one_table() -> None:
    """Each task has a row with what it declares, its peak, the smallest that passes and what is recommended."""
    found = fit("one", "two", declared_mi=None)
    rows = [line.split() for line in fit_text(found).splitlines() if line.startswith("  two ")]
    assert [["two", "-", "300", "MiB", "304Mi", "352Mi"]] == rows
    assert "<td>304Mi</td>" in fit_html(found)


@pytest.mark.parametrize("form", [fit_html, lambda found: fit_bundle(found)["text/html"]])
def test_names_are_escaped(form: object) -> None:
    """Nothing that a task is called becomes markup or moves a cursor."""
    assert callable(form)
    html = form(fit(NASTY, f"other {NASTY}"))
    assert "<script" not in html
    assert "\x1b" not in html


def test_without_a_notebook_nothing_is_drawn() -> None:
    """Where nothing rich is shown there is plain text alone."""
    assert ["text/plain"] == list(fit_bundle(fit("one"), rich=False))
    assert {"text/plain", "text/html"} == set(fit_bundle(fit("one")))


def test_a_shown_fit_shows_itself_and_has_a_figure() -> None:
    """As text in a terminal, as HTML in a notebook, and as a figure that can be changed."""
    found = shown(fit("one"))
    assert repr(found) == str(found) == fit_text(found)
    assert 'class="flyte-notebook-fit" data-verdict="found" data-memory="203Mi"' in found._repr_html_()
    assert found.figure().axes


def test_what_was_not_found_is_not_recommended() -> None:
    """An interrupted fit has its runs, and neither a line to keep nor what others would say."""
    found = fit("one")
    task = task_fit("one", measures(200)[:1], room_bytes=ROOM, declared_bytes=None, interrupted=True)
    words = headline(task, 1, room_bytes=ROOM)
    text = fit_text(replace(found, tasks=(task,), runs=found.runs[:1], verdict="interrupted", headline=words))
    assert "Not found: it was interrupted after 1 run; its peak was 200 MiB" in text
    assert "keep" not in text
    assert "VPA" not in text
