"""A sweep measures what the kernel does at each limit: real tasks, real limits."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import flyte
import flyte.errors
import pytest
from sessions import opened_for

import flyte_notebook as fn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

MI = 1 << 20
env = flyte.TaskEnvironment(name="swept", resources=flyte.Resources(cpu=1, memory="500Mi"))


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Open the session; the tasks of this module travel by value."""
    with opened_for(sys.modules[__name__]) as opened:
        yield opened


@env.task
def holds(size_mi: int) -> int:
    """Allocate so much."""
    print("allocating")  # noqa: T201 - what a point prints is not shown
    return len(bytearray(size_mi << 20))


@env.task
async def calls(size_mi: int) -> int:
    """Have another task allocate so much."""
    return int(await other(size_mi))


@env.task
async def other(size_mi: int) -> int:
    """Allocate so much, called by another task, which declares 500 MiB."""
    return len(bytearray(size_mi << 20))


@env.task
def wrong(word: str) -> int:
    """Fail for a reason of its own."""
    raise ValueError(word)


@env.task(timeout=3)
def slow(seconds: float) -> float:
    """Take so long."""
    time.sleep(seconds)
    return seconds


@env.task(retries=3)
def waits(marker: str, number: int) -> int:
    """Say that it runs, and wait when it is not the first."""
    Path(f"{marker}.{number}").touch()
    time.sleep(60 if number else 0)
    return number


@env.task
def meets(place: str, number: int) -> int:
    """Wait until another one is there as well."""
    Path(place, str(number)).touch()
    until_s = time.monotonic() + 30
    while len(list(Path(place).iterdir())) < 2:
        if time.monotonic() > until_s:
            raise RuntimeError("alone")
        time.sleep(0.02)
    return number


def test_the_cliff_is_where_the_kernel_puts_it(capsys: pytest.CaptureFixture[str]) -> None:
    """150 MiB and an interpreter pass at 256 MiB and not at 128; nothing is printed, kept in the history, or failed."""
    before, failure = [run.name for run in fn.runs], fn.last_failure
    found = fn.sweep(holds, memory="128Mi:512Mi:4", size_mi=150)
    assert ["OOM", "passed", "passed", "passed"] == [point.outcome for point in found.points]
    assert [128, 256, 384, 512] == [(point.limit_bytes or 0) // MI for point in found.points]
    assert all(180 * MI < (point.peak_bytes or 0) < 200 * MI for point in found.points[1:])
    assert all(point.duration_s > 0 for point in found.points)
    assert "passes from 256 MiB on, and not at 128 MiB (OOM); 4 runs" == found.headline
    assert "" == capsys.readouterr().out
    assert (before, failure) == ([run.name for run in fn.runs], fn.last_failure)
    assert fn.last_sweep is not None
    assert found.to_dict() == fn.last_sweep.to_dict()


def test_values_of_an_input_make_a_line() -> None:
    """Memory grows by what is allocated, from what an interpreter takes; the next size is predicted."""
    found = fn.sweep(holds, over={"size_mi": [40, 80, 160]})
    line = found.trend
    assert line is not None
    assert 0.97 < line.slope_bytes / MI < 1.03
    assert 30 * MI < line.base_bytes < 50 * MI
    assert 320 == line.next_value
    assert 340 * MI < (line.next_bytes or 0) < 375 * MI
    assert {500 * MI} == {point.limit_bytes for point in found.points}


def test_limits_times_values() -> None:
    """Each limit with each value; the smallest that passes is told for each value."""
    found = fn.sweep(holds, memory="96Mi:288Mi:3", over="size_mi=20,120,210")
    assert [96 * MI, 192 * MI, 288 * MI] == [need.passing_bytes for need in found.frontier]
    assert 9 == len(found.points)


def test_runs_go_side_by_side(tmp_path: Path) -> None:
    """As many as have a core each run at one time: with half a core each, two do on any machine."""
    half = meets.override(resources=flyte.Resources(cpu="500m", memory="100Mi"))
    found = fn.sweep(half, place=str(tmp_path), over={"number": [0, 1]})
    assert ["passed", "passed"] == [point.outcome for point in found.points]
    assert 2 == found.side_by_side


def test_only_the_swept_task_has_the_limit() -> None:
    """A task that it calls keeps what it declares; what that one dies of is an error, no OOM at this limit."""
    found = fn.sweep(calls, memory="100Mi:200Mi:2", size_mi=300)
    assert ["passed", "passed"] == [point.outcome for point in found.points]
    found = fn.sweep(calls, memory="100Mi:200Mi:2", size_mi=600)
    assert ["error", "error"] == [point.outcome for point in found.points]
    assert "failed at every limit, for another reason: swept.other ran out of memory (limit 500 MiB)" in found.headline


def test_other_endings_are_told_apart() -> None:
    """A timeout is a timeout, an exception an error; at every limit the same is said so."""
    found = fn.sweep(slow, over={"seconds": [0.0, 30.0]})
    assert ["passed", "timeout"] == [point.outcome for point in found.points]
    found = fn.sweep(wrong, memory="128Mi:256Mi:2", word="no such luck")
    assert ["error", "error"] == [point.outcome for point in found.points]
    assert "failed at every limit, for another reason: raised ValueError: no such luck" in found.headline


async def test_what_was_measured_before_it_was_cancelled_is_kept(
    tmp_path: Path, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancelled in the middle, the points that were measured are shown and kept, and the others are stopped."""
    marker = tmp_path / "marker"
    running = asyncio.create_task(fn.sweep.aio(waits, marker=str(marker), over={"number": [0, 1, 2, 3, 4, 5, 6, 7]}))
    words = ""
    while "1 of 8 done" not in words:
        await asyncio.sleep(0.05)
        assert not running.done()
        how = session.progress("sweep of waits")
        words = "" if how is None else how.words
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert fn.last_sweep is not None
    assert (True, 1) == (fn.last_sweep.interrupted, len(fn.last_sweep.points))
    assert "interrupted after 1 of 8 runs" in capsys.readouterr().out
    assert 0 == session.engine.active


async def test_one_stop_ends_all_of_it(tmp_path: Path, session: Session) -> None:
    """By the name of its line a sweep is stopped as a whole: what runs is ended, and nothing begins any more."""
    marker = tmp_path / "marker"
    running = asyncio.create_task(fn.sweep.aio(waits, marker=str(marker), over={"number": [1, 2, 3, 4, 5, 6, 7, 8]}))
    while not Path(f"{marker}.1").exists():  # noqa: ASYNC240 - another process makes it
        await asyncio.sleep(0.05)
        assert not running.done()
    how = session.progress("sweep of waits")
    assert how is not None
    assert "0 of 8 done" in how.words
    session.stop_run("sweep of waits")
    with pytest.raises(flyte.errors.ActionAbortedError, match="stopped after 0 of 8 runs"):
        await running
    assert session.progress("sweep of waits") is None
    assert 0 == session.engine.active


def test_many_runs_are_refused_until_somebody_wants_them() -> None:
    """More than a hundred runs say how many and how long at least, before anything runs."""
    before = len(fn.runs)
    with pytest.raises(ValueError, match=r"has 1,000 runs, .* at least .* write yes=True"):
        fn.sweep(holds, memory="128Mi:1Gi:1000", size_mi=1)
    assert before == len(fn.runs)


@pytest.mark.parametrize(
    ("task", "how", "words"),
    [
        (holds, {"memory": "1Gi:128Mi:8"}, "memory: 1Gi:128Mi:8 goes from the larger limit to the smaller"),
        (holds, {"memory": "128Mi:900Ti:4"}, "memory: 900Ti is more than this machine has"),
        (holds, {"memory": "1Mi:2Mi:4"}, "memory: 2Mi is less than Python and Flyte need"),
        (holds, {}, "nothing to sweep: give limits"),
        (holds, {"over": {"size": [1, 2]}}, "over: holds has no input size; it takes size_mi"),
        (holds, {"over": {"size_mi": [1]}}, "over: size_mi has 1 value"),
        (holds, {"over": "size_mi"}, "over: size_mi names no input"),
        (holds, {"over": {"size_mi": [1, 2], "b": [1, 2]}}, "one input can be swept"),
        (holds, {"over": "size_mi=1,2", "size_mi": 3}, "over: size_mi is also given"),
        (holds, {"memory": "128Mi:1Gi:8", "word": 3}, "holds has no input word"),
        (len, {"memory": "128Mi:1Gi:8"}, "a function: decorate it with @env.task"),
    ],
)
def test_what_cannot_be_swept_is_refused(task: object, how: dict[str, object], words: str) -> None:
    """One sentence that names the argument, and nothing has run."""
    with pytest.raises((ValueError, TypeError)) as caught:
        fn.sweep(task, **how)  # type: ignore[arg-type]  # wrong on purpose
    assert words in str(caught.value)
    assert str(caught.value).count("for example") <= 1


def test_inputs_that_the_task_refuses_are_raised() -> None:
    """What no run could begin with is no point of a sweep: the error of the SDK is raised."""
    with pytest.raises(flyte.errors.RuntimeDataValidationError):
        fn.sweep(holds, memory="128Mi:256Mi:2", size_mi="many")
