"""Tests of the live line: what it says of runs, that it stays one screen, and what its widgets send."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from failures import NASTY

from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Success, WorkerReport
from flyte_notebook.core.progress import LiveAttempt, LiveState, Progress, TaskCount
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.history import Attempt, Run
from flyte_notebook.views.history import live

MI = 2**20

ROOT = LiveAttempt(
    action="a0",
    parent=None,
    task_name="oomer",
    attempt=1,
    max_attempts=2,
    state="running",
    running_s=12.0,
    usage_bytes=182 * MI,
    limit_bytes=250 * MI,
)
ALONE = Progress(
    run="r",
    task_name="oomer",
    elapsed_s=12.34,
    living=(ROOT,),
    tasks=(TaskCount(task_name="oomer", running=1),),
    max_attempts=2,
)
CHILD = replace(ROOT, action="a1", parent="a0", task_name="square", max_attempts=1)


def words(html: str) -> str:
    """Return the text that is seen, rows on lines of their own."""
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL).replace("</div>", "\n"))
    return "\n".join(" ".join(row.split()) for row in text.splitlines() if row.strip())


def test_a_task_alone_is_one_row_with_all_that_matters() -> None:
    """Name, elapsed time, attempt, state, and usage against limit."""
    assert "oomer 12.3 s attempt 1 of 2 running 182 of 250 MiB" == words(live.live_html([ALONE]))


def test_usage_is_a_meter_that_says_its_numbers() -> None:
    """A screen reader hears the words of the bar; near the limit the bar says so by more than its width."""
    html = live.live_html([ALONE])
    assert 'role="meter"' in html
    assert 'aria-label="Memory of oomer"' in html
    assert 'aria-valuenow="73" aria-valuetext="182 of 250 MiB"' in html
    assert "fnb-high" not in html
    assert "fnb-high" in live.live_html([replace(ALONE, living=(replace(ROOT, usage_bytes=240 * MI),))])


@pytest.mark.parametrize(
    ("usage_bytes", "limit_bytes", "expected"),
    [
        (182 * MI, 250 * MI, "182 of 250 MiB"),
        (900 * MI, 1024 * MI, "900 MiB of 1 GiB"),
        (182 * MI, None, "182 MiB, no limit"),
        (0, 1024, "0 B of 1 KiB"),
        (5 * MI, 1 << 40, "5 MiB of 1 TiB"),
    ],
)
def test_usage_in_words(usage_bytes: int, limit_bytes: int | None, expected: str) -> None:
    """The unit stands once where it is the same."""
    assert expected == live.usage_words(usage_bytes, limit_bytes)


@pytest.mark.parametrize(("state", "expected"), [("queued", "queued"), ("starting", "starting 0 B of 250 MiB")])
def test_before_it_runs_it_says_what_it_waits_for(state: LiveState, expected: str) -> None:
    """Without a worker there is no usage to show."""
    early = replace(ALONE, max_attempts=1, living=(replace(ROOT, state=state, usage_bytes=0),))
    assert f"oomer 12.3 s {expected}" == words(live.live_html([early]))


def test_between_two_attempts_it_says_what_failed_and_when_the_next_comes() -> None:
    """The code of the failure, and the time that is left; without that, that there is a next one."""
    asleep = replace(ALONE, living=(), failed_code="OOMKilled", again_in_s=2.96)
    assert "oomer 12.3 s attempt 1 of 2 failed (OOMKilled); next in 3.0 s" == words(live.live_html([asleep]))
    asleep = replace(asleep, again_in_s=None)
    assert words(live.live_html([asleep])).endswith("failed (OOMKilled); the next one follows")
    assert "oomer: attempt 1 of 2 failed with OOMKilled" == live.status_words([asleep])


def test_a_stop_is_seen_at_once() -> None:
    """The row says stopping instead of how the run stands."""
    assert "oomer 12.3 s stopping" == words(live.live_html([ALONE], stopping=True))
    assert "oomer is stopping" == live.status_words([ALONE], stopping=True)


def test_ten_thousand_actions_are_one_row_with_counts() -> None:
    """Counts, and the attempt that is closest to its limit."""
    items = tuple(replace(CHILD, action=f"i{number}", usage_bytes=number * MI) for number in range(40))
    tasks = (
        TaskCount(task_name="oomer", running=1),
        TaskCount(task_name="square", depth=1, queued=9_000, running=40, succeeded=950, failed=4, caught=5, retrying=1),
    )
    html = live.live_html([replace(ALONE, living=(ROOT, *items), tasks=tasks)])
    first, second = words(html).splitlines()
    assert "oomer 12.3 s attempt 1 of 2 running 182 of 250 MiB" == first
    counts = "950 of 10,000 done · 40 running · 9,000 queued · 1 retrying · 4 failed · 5 caught"
    assert f"└ square {counts} fullest 39 of 250 MiB" == second
    assert len(html) < 4_000


def test_one_action_of_a_task_is_shown_as_itself() -> None:
    """A caller and the one that it waits for: two rows, each with its own bar."""
    tasks = (TaskCount(task_name="oomer", running=1), TaskCount(task_name="square", depth=1, running=1))
    running = replace(CHILD, running_s=3.14)
    html = live.live_html([replace(ALONE, living=(ROOT, running), tasks=tasks)])
    assert "└ square 3.1 s running 182 of 250 MiB" == words(html).splitlines()[1]


def test_it_stays_one_screen() -> None:
    """Of many tasks the first few have rows, of many runs the first five; the rest is counted."""
    tasks = (ALONE.tasks[0], *(TaskCount(task_name=f"t{number}", depth=1, queued=2) for number in range(100)))
    rows = words(live.live_html([replace(ALONE, tasks=tasks)])).splitlines()
    assert live.TREE_ROWS + 2 == len(rows)
    assert f"└ and {100 - live.TREE_ROWS} more tasks: 0 of 176 done · 176 queued" == rows[-1]
    waiting = replace(ALONE, living=(replace(ROOT, state="queued"),))
    rows = words(live.live_html([ALONE, *[waiting] * 49])).splitlines()
    assert live.SHOWN_RUNS + 1 == len(rows)
    assert "and 45 more runs: 45 waiting" == rows[-1]
    busy = [replace(ALONE, tasks=tasks)] * 50
    assert len(words(live.live_html(busy)).splitlines()) < 30


def test_what_is_said_to_screen_readers_changes_rarely() -> None:
    """Time and memory are not in it; state and attempt are."""
    later = replace(ALONE, elapsed_s=99.0, living=(replace(ROOT, usage_bytes=1),))
    assert "oomer is running, attempt 1 of 2" == live.status_words([ALONE]) == live.status_words([later])
    assert "2 runs are active" == live.status_words([ALONE, ALONE])


def test_names_and_codes_are_escaped() -> None:
    """A task may be called anything, and so may an error's code."""
    hostile = replace(
        ALONE,
        task_name=NASTY,
        living=(),
        failed_code=NASTY,
        tasks=(ALONE.tasks[0], TaskCount(task_name=NASTY, depth=1)),
    )
    html = live.live_html([hostile, replace(hostile, failed_code=None, living=(replace(ROOT, task_name=NASTY),))])
    for text in (html, live.ended_html(run_of(NASTY))):
        assert "<script" not in text
        assert "<img" not in text
        text.encode()


def run_of(task_name: str, *attempts: Attempt, children: int = 0, limit_bytes: int | None = 1024 * MI) -> Run:
    run = Run(name="r", task_name=task_name)
    given = attempts or (attempt(12.25, 212, limit_bytes),)
    run.begin_action("a0", task_name, None, Limits()).attempts += given
    for number in range(children):
        run.begin_action(f"a{number + 1}", "square", "a0", Limits()).attempts.append(attempt(1.0, 900, 1024 * MI))
    return run


def attempt(duration_s: float, peak_mi: int, limit_bytes: int | None, source: str = "kernel counter") -> Attempt:
    trace = MemoryTrace(peak_bytes=peak_mi * MI, peak_source=source)
    report = WorkerReport(trace=trace, queued_for_s=0.05)
    limits = Limits(memory_bytes=limit_bytes)
    outcome = Success(answer=b"", report=report)
    return Attempt(number=1, worker="w", limits=limits, outcome=outcome, trace=trace, duration_s=duration_s)


def test_what_stays_of_a_run_that_succeeded() -> None:
    """Task, time, peak against limit, how exact; of a tree the peak that came closest to its limit."""
    assert "✓ oomer · 12.3 s · peak 212 MiB of 1 GiB" == live.ended_text(run_of("oomer"))
    assert "✓ oomer · 12.3 s · peak 212 MiB of 1 GiB" == words(live.ended_html(run_of("oomer")))
    assert live.ended_text(run_of("oomer", limit_bytes=None)).endswith("peak 212 MiB, no limit")
    sampled = attempt(1.0, 212, 250 * MI, "samples")
    twice = live.ended_text(run_of("t", sampled, sampled))
    assert "✓ t · 2.1 s · 2 attempts · peak at least 212 MiB of 250 MiB" == twice
    assert live.ended_text(run_of("main", children=30)).endswith("· 31 actions · peak of square 900 MiB of 1 GiB")


def test_what_stays_of_many_runs_is_one_row_each_and_a_count() -> None:
    """A cell that ran a hundred times keeps a few rows."""
    rows = words(live.ended_html(run_of("a"), run_of("b"), more=98)).splitlines()
    assert ["✓ a", "✓ b", "and 98 more runs"] == [row.partition(" ·")[0] for row in rows]
    assert rows == live.ended_text(run_of("a"), run_of("b"), more=98).splitlines()


def test_the_widgets_say_what_the_html_says_and_send_nothing_twice() -> None:
    """One box with the rows, words for screen readers and a Stop button that calls back; all of it can be ended."""
    widgets = pytest.importorskip("ipywidgets")
    before = dict(widgets.widgets.widget._instances)
    clicks: list[str] = []
    line = live.LiveLine(lambda: clicks.append("stop"))
    line.update([ALONE])
    sent: list[str] = []
    line._lines.observe(lambda change: sent.append(change["new"]), "value")
    line._status.observe(lambda change: sent.append(change["new"]), "value")
    line.update([ALONE])
    assert [] == sent
    line.update([replace(ALONE, elapsed_s=13.0)])
    assert [live.live_html([replace(ALONE, elapsed_s=13.0)])] == sent
    assert 'role="status" aria-live="polite">oomer is running' in line._status.value

    bundle = line.show_bundle()
    assert line._box.model_id == bundle[live.WIDGET_VIEW]["model_id"]
    assert "oomer is running, attempt 1 of 2" == bundle["text/plain"] == words(bundle["text/html"])
    assert ("Stop", "Stop what this cell runs") == (line._button.description, line._button.tooltip)
    line._button.click()
    assert ["stop"] == clicks
    line.stopping()
    assert (True, "Stopping") == (line._button.disabled, line._button.description)
    line.close()
    assert before.keys() == widgets.widgets.widget._instances.keys()


def test_runs_that_are_watched_as_one_say_how_they_stand_together() -> None:
    """A sweep is one row with its own words; for ears it is running, whatever it counts."""
    together = Progress(run="sweep of t", task_name="sweep of t", elapsed_s=1.5, words="3 of 8 done · 2 running")
    shown = live.live_html([together])
    assert "3 of 8 done · 2 running" in shown
    assert "queued" not in shown
    assert "sweep of t is running" == live.status_words([together])


ON_A_CLUSTER = Progress(
    run="r",
    task_name="oomer",
    elapsed_s=12.34,
    living=(replace(ROOT, attempt=2),),
    attempt=2,
    max_attempts=2,
    words="running on the cluster · attempt 2 of 2 · pod r-a0-1",
    url='https://cluster.example/runs/r?a=1&b="2"',
)


def test_a_run_on_a_cluster_has_the_same_meter_and_a_link_to_its_console() -> None:
    """Phase, attempt and pod in words; there is no meter before the pod has said what it uses."""
    html = live.live_html([ON_A_CLUSTER])
    assert "oomer 12.3 s running on the cluster · attempt 2 of 2 · pod r-a0-1 182 of 250 MiB console" == words(html)
    assert 'aria-valuenow="73" aria-valuetext="182 of 250 MiB"' in html
    link = 'href="https://cluster.example/runs/r?a=1&amp;b=&quot;2&quot;" target="_blank" rel="noopener">console</a>'
    assert link in html
    queued = replace(ROOT, state="queued", usage_bytes=0)
    waits = replace(ON_A_CLUSTER, living=(queued,), words="queued on the cluster", attempt=1, max_attempts=1)
    assert "oomer 12.3 s queued on the cluster console" == words(live.live_html([waits]))
    assert "oomer is queued" == live.status_words([waits])
    assert "oomer is running, attempt 2 of 2" == live.status_words([ON_A_CLUSTER])


def test_only_an_address_of_a_page_becomes_a_link() -> None:
    """What a cluster sends is escaped, and runs nothing in the notebook's page."""
    assert "<a " not in live.live_html([replace(ON_A_CLUSTER, url="javascript:alert(1)")])
    assert NASTY not in live.live_html([replace(ON_A_CLUSTER, url=f"https://x/{NASTY}", words=NASTY)])


def test_the_final_text_of_a_run_on_a_cluster_keeps_its_address() -> None:
    """As a link, and written out where there is only text."""
    run = Run(name="r", task_name="oomer", took_s=2.0, remote=True, url="https://cluster.example/runs/r")
    assert "✓ oomer · 2 s · console" == words(live.ended_html(run))
    assert 'href="https://cluster.example/runs/r"' in live.ended_html(run)
    assert "✓ oomer · 2 s · https://cluster.example/runs/r" == live.ended_text(run)
