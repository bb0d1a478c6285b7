"""A run that is under way: how it stands is read from another thread, and one run is stopped, not its neighbours."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from bounds import under_load

from flyte_notebook.sdk.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flyte_notebook.core.progress import Progress
    from flyte_notebook.engine import Sink
    from flyte_notebook.history import Run
    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup]

PATIENCE_S = 30.0
PROMPT_S = 5.0

env = flyte.TaskEnvironment(name="live", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
def hold(mebibytes: int, until: str) -> int:
    held = bytearray(mebibytes << 20)
    while not Path(until).exists():
        time.sleep(0.02)
    return len(held)


@env.task
async def hold_many(count: int, until: str, first_until: str = "") -> None:
    await asyncio.gather(*(hold.aio(20, first_until or until if number == 0 else until) for number in range(count)))


@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=timedelta(seconds=60))))
def fails_then_waits() -> None:
    raise ValueError("again")


class Told:
    """Remembers which runs began and ended, and how they stood then."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def began(self, run: Run, sink: Sink) -> None:
        assert hasattr(sink, "write")
        self.events.append(("began", run.name))

    def ended(self, run: Run) -> None:
        self.events.append(("ended", run.name))


@pytest.fixture
def told(session: Session) -> Iterator[Told]:
    """Listen to the session's runs."""
    told, before = Told(), session._watching
    session._watching = Watching(told, lost=session.engine.forget_run)
    yield told
    session._watching = before


class InThread(threading.Thread):
    """A run in a thread of its own; `error` is what it raised."""

    def __init__(self, name: str, task: Any, *inputs: Any) -> None:
        super().__init__(daemon=True)
        self.run_name, self._task, self._inputs = name, task, inputs
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            flyte.with_runcontext(mode="local", name=self.run_name).run(self._task, *self._inputs)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def ended(self, within_s: float = PATIENCE_S) -> BaseException | None:
        self.join(within_s)
        assert not self.is_alive()
        return self.error


def wait_for(session: Session, name: str, true: Callable[[Progress], object]) -> Progress:
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        progress = session.progress(name)
        if progress is not None and true(progress):
            return progress
        time.sleep(0.02)
    return pytest.fail(f"{name} stands at {session.progress(name)}")


def test_a_running_attempt_tells_its_usage(session: Session, tmp_path: Path) -> None:
    """State, usage and limit are read while it runs; before and after there is nothing."""
    assert session.progress("usage") is None
    run = InThread("usage", hold, 100, str(tmp_path / "go"))
    progress = wait_for(session, "usage", lambda found: found.root and found.root.usage_bytes > 100 << 20)
    assert progress.root is not None
    assert ("live.hold", "running", 250 << 20) == (
        progress.task_name,
        progress.root.state,
        progress.root.limit_bytes,
    )
    assert 0 < progress.root.running_s < progress.elapsed_s
    (tmp_path / "go").touch()
    assert run.ended() is None
    assert session.progress("usage") is None


def test_a_tree_is_counted_while_it_changes(session: Session, tmp_path: Path) -> None:
    """One thread reads as fast as it can while attempts come and go; the counts always add up at the end."""
    run = InThread("tree", hold_many, 6, str(tmp_path / "go"), str(tmp_path / "first"))
    progress = wait_for(session, "tree", lambda found: found.tasks[-1].total == 6 and found.tasks[-1].running)
    assert ["live.hold_many", "live.hold"] == [row.task_name for row in progress.tasks]
    assert [0, 1] == [row.depth for row in progress.tasks]
    (tmp_path / "first").touch()
    seen: set[int] = set()
    until_s = time.monotonic() + PATIENCE_S
    while run.is_alive() and time.monotonic() < until_s:
        found = session.progress("tree")
        if found is not None:
            seen.add(found.tasks[1].succeeded)
        if 1 in seen:
            (tmp_path / "go").touch()
    assert run.ended() is None
    assert 1 in seen


def test_one_run_is_stopped_and_its_neighbour_goes_on(session: Session, told: Told, tmp_path: Path) -> None:
    """The stopped run raises ActionAbortedError soon, with all that it started; the other returns."""
    one = InThread("one", hold_many, 2, str(tmp_path / "never"))
    other = InThread("other", hold, 1, str(tmp_path / "go"))
    wait_for(session, "one", lambda found: len(found.tasks) == 2 and found.tasks[1].running)
    wait_for(session, "other", lambda found: found.root)
    session.stop_run("one")
    assert isinstance(one.ended(under_load(PROMPT_S)), flyte.errors.ActionAbortedError)
    assert other.is_alive()
    assert ("ended", "one") in told.events
    assert ("ended", "other") not in told.events
    (tmp_path / "go").touch()
    assert other.ended() is None
    assert [("began", "one"), ("ended", "one")] == [event for event in told.events if event[1] == "one"]
    assert [("began", "other"), ("ended", "other")] == [event for event in told.events if event[1] == "other"]


def test_a_stop_between_two_attempts_does_not_wait_for_the_next(session: Session, told: Told) -> None:
    """The SDK would sleep for a minute; the run has one beginning and one end, and says what failed meanwhile."""
    run = InThread("asleep", fails_then_waits)
    progress = wait_for(session, "asleep", lambda found: found.again_in_s)
    assert ("ValueError", 1, 2) == (progress.failed_code, progress.attempt, progress.max_attempts)
    assert progress.again_in_s is not None
    assert 0 < progress.again_in_s <= 60
    assert (None, 1) == (progress.root, progress.tasks[0].retrying)
    session.stop_run("asleep")
    assert isinstance(run.ended(under_load(PROMPT_S)), flyte.errors.ActionAbortedError)
    assert [("began", "asleep"), ("ended", "asleep")] == told.events
    assert session.progress("asleep") is None


def test_a_run_that_is_cancelled_between_two_attempts_is_over(session: Session, told: Told) -> None:
    """Nothing of ours runs then: the end of the SDK's own task tells."""

    async def begin_and_cancel() -> None:
        run = asyncio.ensure_future(flyte.with_runcontext(mode="local", name="left").run.aio(fails_then_waits))
        await asyncio.to_thread(wait_for, session, "left", lambda found: found.again_in_s)
        assert 1 == session.engine._in_flight.stoppable
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        for _ in range(100):
            if session.progress("left") is None:
                break
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(begin_and_cancel(), PATIENCE_S))
    assert session.progress("left") is None
    assert [("began", "left"), ("ended", "left")] == told.events
    assert session.stop_all() is None


def test_who_watches_cannot_break_a_run(
    session: Session, told: Told, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the watcher is logged; the run does not notice."""

    def breaks(*_: object) -> None:
        raise RuntimeError("cannot show this")

    told.began = told.ended = breaks  # type: ignore[method-assign]  # a watcher that is broken
    (tmp_path / "go").touch()
    assert 1 << 20 == flyte.run(hold, 1, str(tmp_path / "go")).outputs()[0]
    assert 2 == sum("cannot show this" in (record.exc_text or "") for record in caplog.records)
