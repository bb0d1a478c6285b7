"""Tests of the pictures: what stands in them for any trace, bounded, and without a trace in the user's settings."""

from __future__ import annotations

import subprocess
import sys
import warnings
from base64 import b64decode
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest
from failures import MI, NASTY, OOM

from flyte_notebook import history
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Success, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Attempt, Run
from flyte_notebook.views.charts import chart
from flyte_notebook.views.charts.chart import Line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure

GI, TI = 2**30, 2**40
SVG = "{http://www.w3.org/2000/svg}"


def trace(
    end_s: float = 0.5,
    *,
    points: int = 60,
    top: float = 100 * MI,
    limit: int | None = 250 * MI,
    peak: int | None = None,
) -> MemoryTrace:
    """Return memory that rises from nothing to ``top``."""
    times = [end_s * (index + 1) / points for index in range(points)]
    memory = [int(top * (index + 1) / points) for index in range(points)]
    highest = max(memory, default=None)
    return MemoryTrace(
        times_s=times,
        memory_bytes=memory,
        limit_bytes=limit,
        baseline_bytes=36 * MI,
        peak_bytes=highest if peak is None else peak,
        peak_source="kernel counter",
    )


def line(label: str = "attempt 1", of: MemoryTrace | None = None, **how: bool) -> Line:
    return Line(label=label, trace=trace() if of is None else of, **{"killed": False, "passed": False} | how)


KILLED = line(of=trace(0.21, top=180 * MI, peak=250 * MI), killed=True)
PASSED = line("rerun 1 (1Gi)", trace(1.3, top=812 * MI, limit=GI), passed=True)


def words_of(svg: bytes) -> list[str]:
    """Return the texts of a picture; it is well-formed, or this fails."""
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own picture


def figure_words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


def curves(figure: Figure) -> list[list[tuple[float, float]]]:
    """Return the drawn lines of more than two points."""
    found = [list(zip(*one.get_data(), strict=True)) for one in figure.axes[0].lines]
    return [curve for curve in found if len(curve) > 2]


def test_the_rerun_that_passes_stands_above_what_was_killed() -> None:
    """Both curves, both limits, the baseline, how each ended and how high the last one went, all as text."""
    words = words_of(chart.memory_svg([KILLED, PASSED]))
    expected = {
        *("attempt 1: killed", "rerun 1 (1Gi): passed", "peak 812 MiB"),
        *("limit 250 MiB", "limit 1 GiB", "interpreter and", "imports 36 MiB"),
        *("memory, MiB", "seconds since the worker started"),
    }
    assert expected <= set(words)


def test_the_last_line_is_strong_and_earlier_ones_are_dashed() -> None:
    """Lines differ by more than colour: width and dashes, and a sign of its own shape at each end."""
    figure = chart.memory_figure([KILLED, line("attempt 2", KILLED.trace, killed=True), PASSED])
    lines = figure.axes[0].lines
    drawn = [one for one in lines if len(one.get_xdata()) > 2]
    assert ["--", "--", "-"] == [one.get_linestyle() for one in drawn]
    assert drawn[-1].get_linewidth() > drawn[0].get_linewidth()
    assert drawn[0]._unscaled_dash_pattern != drawn[1]._unscaled_dash_pattern
    assert ["x", "x", "o"] == [one.get_marker() for one in lines if one.get_marker() in {"x", "o", "s"}]


def test_a_limit_far_above_leaves_room_for_the_curve() -> None:
    """1 TiB is said at the top edge with an arrow; the curve takes most of the height."""
    figure = chart.memory_figure([line(of=trace(limit=TI), passed=True)])
    assert "↑ limit 1 TiB" in figure_words(figure)
    (curve,) = curves(figure)
    assert max(y for _, y in curve) > 0.6 * figure.axes[0].get_ylim()[1]


def test_a_limit_below_everything_is_still_said() -> None:
    """1 KiB stands at the bottom, in words beside the axis."""
    figure = chart.memory_figure([line(of=trace(limit=1024), killed=True)])
    assert "limit 1 KiB" in figure_words(figure)


def test_an_exact_peak_above_the_samples_is_marked() -> None:
    """A dotted riser and a bar show it where the samples were highest; without it there is neither."""
    above = chart.memory_figure([line(of=trace(peak=200 * MI), passed=True)])
    assert "_" in [one.get_marker() for one in above.axes[0].lines]
    assert "peak 200 MiB" in figure_words(above)
    assert "_" not in [one.get_marker() for one in chart.memory_figure([line(passed=True)]).axes[0].lines]


def test_a_kill_at_the_limit_is_marked_at_the_limit() -> None:
    """The last sample was lower; the kill mark stands where the kernel's counter says that it ended."""
    figure = chart.memory_figure([KILLED])
    (mark,) = [one for one in figure.axes[0].lines if one.get_marker() == "x"]
    limit = next(one for one in figure.axes[0].lines if len(one.get_xdata()) == 2)
    assert limit.get_ydata()[0] == pytest.approx(mark.get_ydata()[0])


def test_a_peak_from_samples_is_a_lower_bound() -> None:
    """What was polled may have missed the highest moment, and says so."""
    polled = replace(trace(), peak_source="samples")
    assert "peak at least 100 MiB" in words_of(chart.memory_svg([line(of=polled, passed=True)]))


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (trace(0.005, points=1), "attempt 1: killed"),
        (trace(points=0, peak=250 * MI), "attempt 1: killed"),
        (MemoryTrace(limit_bytes=250 * MI), "no memory was measured"),
        (MemoryTrace(times_s=(0.0,), memory_bytes=(0,), peak_bytes=0), "attempt 1: killed"),
        (trace(0.001, points=3), "milliseconds since the worker started"),
        (trace(86_400, points=2_000), "hours since the worker started"),
        (trace(600), "minutes since the worker started"),
        (trace(limit=None), "attempt 1: killed"),
        (trace(top=3 * TI, limit=4 * TI), "memory, TiB"),
        (trace(peak=2**62), "limit 250 MiB"),
    ],
)
def test_any_trace_can_be_drawn(of: MemoryTrace, words: str) -> None:
    """One sample, none, a millisecond, a day, a TiB: always a picture with its words."""
    assert words in words_of(chart.memory_svg([line(of=of, killed=True)]))


def test_of_many_attempts_the_last_are_drawn() -> None:
    """Six of fifty, and it says so."""
    figure = chart.memory_figure([line(f"attempt {number}", killed=True) for number in range(1, 51)])
    assert 6 == len(curves(figure))
    assert "seconds since the worker started · the last 6 of 50 attempts" in figure_words(figure)
    assert "attempt 50: killed" in figure_words(figure)


def test_a_picture_is_small() -> None:
    """Six traces of two thousand restless points take a few tens of KiB, and the address a third more."""
    wild = trace(100, points=2_000)
    wild = replace(wild, memory_bytes=[100 * MI + (index * 7_919 % 113) * MI for index in range(2_000)])
    lines = [line(f"attempt {number}", wild, killed=True) for number in range(6)]
    assert len(chart.memory_svg(lines)) < 64 * 1024
    assert len(chart.memory_data_uri(lines)) < 90 * 1024


def test_the_address_holds_the_picture() -> None:
    """The picture comes with the page, is the same each time, and asks nobody for anything."""
    address = chart.memory_data_uri([KILLED])
    head, _, data = address.partition(",")
    svg = b64decode(data)
    assert "data:image/svg+xml;base64" == head
    assert chart.memory_svg([KILLED]) == svg
    assert b"<script" not in svg
    assert b"@import" not in svg
    assert b"<title>Chart of memory over 0.21 s" in svg


@pytest.mark.parametrize("label", [NASTY, "$x_{1}$ \\frac", "<b>&amp;", "a\nb", "😀" * 200, "\u30e1\u30e2\u30ea", ""])
def test_labels_are_text_and_nothing_else(label: str) -> None:
    """Markup, formulas, control characters and letters that no measuring face has: shown, never obeyed or warned of."""
    svg = chart.memory_svg([line(label, passed=True)], title=label)
    words = words_of(svg)
    assert any(text.endswith("passed") for text in words)
    assert {
        "svg",
        "metadata",
        "title",
        "RDF",
        "Work",
        "defs",
        "style",
        "g",
        "path",
        "text",
        "use",
        "clipPath",
        "rect",
    } >= {
        element.tag.rpartition("}")[2]
        for element in ET.fromstring(svg).iter()  # noqa: S314 - our own picture
    }


@pytest.fixture
def users_looks() -> Iterator[dict[str, object]]:
    with mpl.rc_context():
        mpl.rcParams.update({"axes.grid": False, "text.usetex": True, "font.size": 31, "svg.fonttype": "path"})
        mpl.rcParams.update({"savefig.transparent": True, "axes.facecolor": "red", "lines.linewidth": 9})
        yield dict(mpl.rcParams.copy())


def test_the_users_settings_neither_change_nor_matter(users_looks: dict[str, object]) -> None:
    """The same picture under any settings, and the settings are afterwards what they were."""
    seen = chart.memory_svg([KILLED, PASSED])
    assert users_looks == dict(mpl.rcParams.copy())
    mpl.rcdefaults()
    assert chart.memory_svg([KILLED, PASSED]) == seen


def test_settings_come_back_when_drawing_fails(users_looks: dict[str, object]) -> None:
    """An error on the way leaves the user's settings as they were."""
    broken = line(of=replace(trace(), memory_bytes=["no number"] * 60))
    with pytest.raises(TypeError):
        chart.memory_svg([broken])
    assert users_looks == dict(mpl.rcParams.copy())


def test_pictures_may_be_drawn_in_threads() -> None:
    """Three threads at a time give the same bytes as one; in a process of its own, for each keeps font files open."""
    code = """
import threading
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.views.charts import chart

trace = MemoryTrace(times_s=range(400), memory_bytes=[n * 2**20 for n in range(400)], limit_bytes=2**30)
lines = [chart.Line(label="a", trace=trace, killed=False, passed=True)] * 3
expected, seen = chart.memory_svg(lines), []
threads = [threading.Thread(target=lambda: seen.append(chart.memory_svg(lines))) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert [expected] * 3 == seen
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_loads_no_plotting_library_and_drawing_no_pyplot() -> None:
    """The library comes with the first picture, and pyplot, which picks a backend, never."""
    code = (
        "import sys; from flyte_notebook.views.charts import chart\n"
        "assert not {'matplotlib', 'numpy'} & set(sys.modules)\n"
        "chart.warm(); assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_figure_shows_itself_without_pyplot() -> None:
    """A notebook that never imported pyplot shows the picture, not its name."""
    figure = chart.memory_figure([line("\u30e1\u30e2\u30ea", passed=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "\u30e1\u30e2\u30ea: passed" in words_of(figure._repr_svg_().encode())


def _run(count: int, *, failing: Sequence[int] = ()) -> Run:
    run = Run(name="run", task_name="map <b>")
    for number in range(count):
        action = run.begin_action(f"a{number}", "work", "a0" if number else None, Limits())
        action.attempts.append(
            Attempt(
                number=1,
                worker=OOM.worker,
                limits=Limits(memory_bytes=250 * MI),
                outcome=OOM if number in failing else Success(answer=b"", report=WorkerReport()),
                trace=trace(top=(number + 1) * MI),
                duration_s=1.0,
            )
        )
    return run


def test_a_run_of_one_action_is_its_attempts() -> None:
    """One line for each attempt, under the name of the task."""
    run = _run(1)
    run.actions[0].attempts.append(replace(run.actions[0].attempts[0], number=2))
    figure = run.figure()
    assert 2 == len(curves(figure))
    assert {"map <b> · KiB", "attempt 2: passed"} <= set(figure_words(figure))


def test_a_run_of_many_actions_is_a_bar_for_each() -> None:
    """The highest peaks with limit and error in words; how many more there are is said."""
    figure = _run(60, failing=[59]).figure()
    words = figure_words(figure)
    assert 25 == len(figure.axes[0].patches)
    assert "60 MiB of 250 MiB, OOMError" in words
    assert "59 MiB of 250 MiB" in words
    assert "map <b> · peak of each action, | its limit · the 25 highest, 35 more" in words
    assert ["x"] == [one.get_marker() for one in figure.axes[0].lines if one.get_marker() == "x"]


def test_a_run_without_any_measure_says_so() -> None:
    """A run from the cache and a run that has not begun are words, not an error."""
    assert ["t: from the cache, nothing ran"] == figure_words(Run(name="r", task_name="t", cached=True).figure())
    assert ["t: no memory was measured"] == figure_words(Run(name="r", task_name="t").figure())
    two = Run(name="r", task_name="t")
    two.begin_action("a0", "t", None, Limits())
    two.begin_action("a1", "u", "a0", Limits())
    assert ["no memory was measured"] == figure_words(two.figure())


def test_without_anything_that_draws_a_run_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history alone cannot draw, and its error names the import that can."""
    monkeypatch.setattr(history.runs, "_draw", None)
    with pytest.raises(RuntimeError, match="import flyte_notebook"):
        Run(name="r", task_name="t").figure()
