"""A sweep as text, as HTML and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from flyte_notebook.experiments import sweeping
from flyte_notebook.experiments.sweeping import Over, Plan, Point, Sweep, parse_range
from flyte_notebook.views.charts import sweep_chart
from flyte_notebook.views.experiments.sweep import MAX_ROWS, shown, sweep_bundle, sweep_html, sweep_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MI = 1 << 20
NASTY = "<script>alert(1)</script>\x1b[31m"
ENDS: tuple[sweeping.PointEnd, ...] = ("passed", "OOM", "timeout", "error")


def sweep(memory: str | None = "128Mi:512Mi:4", *values: Any, name: str = "x", words: str = "boom") -> Sweep:
    """Return a sweep whose points end in each way in turn, the larger the value the larger the peak."""
    plan = Plan(
        limits=() if memory is None else parse_range(memory).limits,
        over=Over(name=name, values=values) if values else None,
    )
    points = []
    for number, limit_bytes, value in plan:
        outcome = ENDS[number % 4] if memory is not None else "passed"
        peak = (40 + 30 * (values.index(value) + 1 if values else 1)) * MI
        points.append(
            Point(
                number=number,
                limit_bytes=limit_bytes,
                value=value,
                outcome=outcome,
                duration_s=0.1 + number / 10,
                peak_bytes=peak,
                counted_bytes=peak,
                words="" if outcome == "passed" else words,
            )
        )
    facts = sweeping.plan_facts(plan)
    return Sweep(task_name="oomer", points=tuple(points), side_by_side=2, enforced="kernel (x)", **facts)


def words_of(figure: Figure) -> set[str]:
    """Return the texts of a picture."""
    picture = figure._repr_svg_()  # type: ignore[attr-defined]  # of our own subclass
    texts = ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 - our own picture
    return {"".join(text.itertext()) for text in texts}


def marks_of(figure: Figure) -> set[tuple[Any, Any]]:
    """Return shape and colour of the marks of a picture."""
    lines = figure.axes[0].lines
    return {(line.get_marker(), line.get_color()) for line in lines if line.get_marker() not in {"None", ""}}


def test_the_text_has_a_row_for_each_limit() -> None:
    """Limit, how it ended, how long it took, its peak, and what an error was."""
    rows = [line.split() for line in sweep_text(sweep()).splitlines()]
    assert ["128", "MiB", "✓", "passed", "0.1", "s", "70", "MiB"] in rows
    assert ["256", "MiB", "✗", "OOM", "0.2", "s", "70", "MiB"] in rows
    assert ["512", "MiB", "◆", "error", "0.4", "s", "70", "MiB", "boom"] in rows


def test_limits_and_values_are_a_grid() -> None:
    """A row for each value, a column for each limit, and the peak of what passed."""
    text = sweep_text(sweep("128Mi:512Mi:4", 1, 2))
    rows = [line.split() for line in text.splitlines()]
    assert ["x", "128", "MiB", "256", "MiB", "384", "MiB", "512", "MiB", "peak"] in rows
    assert ["1", "✓", "0.1", "s", "✗", "OOM", "▲", "timeout", "◆", "error", "70", "MiB"] in rows


def test_each_ending_has_a_shape_and_a_colour_of_its_own() -> None:
    """Neither shape nor colour alone tells them apart; the legend names each."""
    figure = shown(sweep()).figure()
    assert 4 == len({shape for shape, _ in marks_of(figure)})
    assert 4 == len({color for _, color in marks_of(figure)})
    assert {*ENDS, "memory limit", "128Mi", "512Mi"} <= words_of(figure)


def test_over_an_input_what_is_predicted_says_so() -> None:
    """Peaks, the line, and beyond them the next value, marked as a prediction."""
    figure = shown(sweep(None, 1, 2, 3)).figure()
    assert {"predicted", "160 MiB", "4", "x"} <= words_of(figure)
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert 1 == len(dashed)


def test_categories_have_their_names_and_no_line() -> None:
    """Texts stand side by side; nothing is predicted."""
    words = words_of(shown(sweep(None, "small", "large", name="kind")).figure())
    assert {"'small'", "'large'", "kind"} <= words
    assert "predicted" not in words


def test_both_pictures_are_in_the_page_with_their_words() -> None:
    """Over limits and values there are two, each described for who cannot see it."""
    html = sweep_html(sweep("128Mi:512Mi:4", 1, 2))
    assert 2 == html.count('<img class="fnb-chart"')
    assert 2 == html.count('alt="')
    assert 1 == sweep_html(sweep()).count('<img class="fnb-chart"')


def test_what_a_task_said_is_escaped() -> None:
    """Neither a name, nor a value, nor an error becomes markup or moves a cursor."""
    html = sweep_html(sweep("128Mi:512Mi:4", NASTY, "b", name="kind", words=NASTY))
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\x1b" not in sweep_text(sweep("128Mi:512Mi:4", NASTY, "b", words=NASTY))


def test_many_runs_are_cut_with_a_note() -> None:
    """A thousand rows are not shown; the pictures stay small."""
    many = sweep("128Mi:1Gi:1000")
    text = sweep_text(many)
    assert f"… and {1_000 - MAX_ROWS} more runs; to_dict() has all" in text
    assert len(sweep_html(many)) < 400 * 1024
    assert "<img" in sweep_html(many)


def test_a_bundle_is_rich_only_in_a_notebook() -> None:
    """Where nothing rich is shown there is plain text alone; a shown sweep is its text and its HTML."""
    found = shown(sweep())
    assert ["text/plain"] == list(sweep_bundle(found, rich=False))
    assert {"text/plain", "text/html"} == set(sweep_bundle(found))
    assert repr(found) == str(found) == sweep_text(found)
    assert sweep_html(found) == found._repr_html_()


@pytest.mark.parametrize("values", [(), (1,), (0.5, 10**12), (-5, 0), ("a",), tuple(range(100))])
def test_any_sweep_can_be_drawn(values: tuple[Any, ...]) -> None:
    """No point at all, one value, very unlike ones, negative ones, a hundred: a picture, or why there is none."""
    found = sweep("128Mi:512Mi:2", *values)
    for one in (
        found,
        Sweep(**{**vars_of(found), "points": ()}),
        Sweep(**{**vars_of(found), "points": found.points[:1]}),
    ):
        assert shown(one).figure() is not None
        assert sweep_html(one)
        assert sweep_chart.chart_words(one)


def vars_of(found: Sweep) -> dict[str, Any]:
    """Return the fields of a sweep."""
    return {name: getattr(found, name) for name in Sweep.__dataclass_fields__}
