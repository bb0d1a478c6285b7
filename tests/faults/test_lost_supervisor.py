"""Without its supervisor each running attempt fails with an error that says so; another one takes over at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from bounds import under_load
from programs import alive, until

from flyte_notebook.engine import link
from flyte_notebook.engine.link import SupervisorError
from flyte_notebook.limiters.control_groups import own

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.engine.link import SupervisorLink
    from flyte_notebook.sdk.session import Session

pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.usefixtures("session"),
    pytest.mark.leaves(
        "process", "group", reason="the supervisor that takes over serves the whole module, whose end is proven"
    ),
]

env = flyte.TaskEnvironment(name="lost", resources=flyte.Resources(cpu=1, memory="250Mi"))

GONE_S = 10.0
"""Many times what a new supervisor takes to clear up, which begins with an interpreter that starts."""


@env.task
def sleeps(place: str) -> None:
    """Start a program that leaves its family, say both pids, and sleep."""
    program = "import os, time; os.setsid(); time.sleep(120)"
    child = subprocess.Popen([sys.executable, "-c", program])
    Path(f"{place}.new").write_text(f"{os.getpid()} {child.pid}")
    Path(f"{place}.new").rename(place)
    time.sleep(120)


@env.task
async def add(a: int, b: int) -> int:
    return a + b


@env.task
def refuses(value: str) -> None:
    raise ValueError(len(value))


def lose(session: Session, places: list[Path], fault: Callable[[], object]) -> list[BaseException | Any]:
    """Run a task for each place, make a fault when all of them run, and return what became of them."""

    async def main() -> list[BaseException | Any]:
        runs = [asyncio.ensure_future(flyte.run.aio(sleeps, str(place))) for place in places]
        await asyncio.to_thread(until, lambda: all(place.exists() for place in places))
        fault()
        return await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 60)

    return asyncio.run(main())


def on_loop(session: Session, function: Callable[[SupervisorLink], object]) -> None:
    async def work() -> None:
        function(session.engine._link)

    session.engine.call(work()).result(30)


def garbage(data: bytes) -> Callable[[SupervisorLink], object]:
    """Return what puts bytes before the next ones that come from the supervisor."""

    def put(its: SupervisorLink) -> None:
        assert its._reader is not None
        its._reader._buffer += data

    return put


def framed(message: Any) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack("!Q", len(body)) + body


def assert_all_ended(errors: list[BaseException | Any], places: list[Path]) -> None:
    for error in errors:
        assert flyte.errors.RuntimeSystemError is type(error)
        assert "Interrupted" == error.code
        assert "the supervisor process" in error.failure.headline
        assert "the supervisor process" in str(error)
    pids = [int(pid) for place in places for pid in place.read_text().split()]
    assert 2 * len(places) == len(pids)
    until(lambda: not any(alive(pid) for pid in pids), under_load(GONE_S))


def groups_of(session: Session) -> set[tuple[Path, int]]:
    """Return the groups of workers, with what tells each from a later one of the same name."""
    found = set()
    for base in filter(None, map(own, ("memory", "cpu", "pids", ""))):
        for group in Path(base[0], session.engine._link.session).glob("fnb-*"):
            with contextlib.suppress(OSError):
                found.add((group, group.stat().st_ino))
    return found


def test_a_supervisor_that_is_killed_takes_its_five_tasks_with_it(session: Session, tmp_path: Path) -> None:
    """SIGKILL: five system errors, and soon no worker, no daemon of one, no group of it; the next works.

    Nobody has to run anything for that: the new supervisor, of the same session, clears up first.
    """
    places = [tmp_path / str(number) for number in range(5)]
    before = session.engine.supervisor_pid
    assert before is not None
    groups: set[tuple[Path, int]] = set()

    def kill() -> None:
        groups.update(groups_of(session))
        os.kill(before, signal.SIGKILL)

    errors = lose(session, places, kill)
    assert_all_ended(errors, places)
    until(lambda: session.engine.supervisor_pid not in {None, before})
    assert len(groups) >= len(places)
    until(lambda: not groups & groups_of(session), under_load(GONE_S))
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


@pytest.mark.parametrize(
    "fault",
    [
        lambda its: its._control.shutdown(2),
        garbage(struct.pack("!Q", 4) + b"junk"),
        garbage(b"Traceback (most recent call last):"),
        garbage(framed([1])),
        garbage(framed({"kind": "ended", "id": 10**6})),
        garbage(framed({"kind": "usage", "usage": "none"})),
    ],
    ids=["socket shut down", "no JSON", "text", "no message", "an attempt that is none", "numbers that are none"],
)
def test_a_supervisor_that_cannot_be_understood_is_replaced(session: Session, tmp_path: Path, fault: Any) -> None:
    """The end of its socket, or what is no message on it: the running task fails, all is ended, the next works."""
    before = session.engine.supervisor_pid
    errors = lose(session, [tmp_path / "place"], lambda: on_loop(session, fault))
    assert_all_ended(errors, [tmp_path / "place"])
    assert 3 == flyte.run(add, 1, 2).outputs()[0]
    assert session.engine.supervisor_pid != before


def test_what_was_kept_of_failed_runs_is_still_there(session: Session, tmp_path: Path) -> None:
    """The large inputs of a run that failed before are no loss: it can be repeated after the supervisor was killed."""
    with pytest.raises(flyte.errors.RuntimeUserError) as caught:
        flyte.run(refuses, "x" * 500_000)
    failure: Any = caught.value.failure  # type: ignore[attr-defined]  # ours
    before = session.engine.supervisor_pid
    assert before is not None
    lose(session, [tmp_path / "place"], lambda: os.kill(before, signal.SIGKILL))
    assert {"value": "x" * 500_000} == session.repeats.find(failure.worker).arguments()


def test_a_supervisor_that_reads_no_more_does_not_hang_the_notebook(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by SIGSTOP it takes no message: what is asked of it fails within a bound, and another takes over.

    What is five and six seconds elsewhere is one for this one.
    """
    monkeypatch.setattr(link, "SEND_BOUND_S", 1.0)
    monkeypatch.setattr(link, "CLOSE_BOUND_S", 1.0)
    before = session.engine.supervisor_pid
    assert before is not None
    os.kill(before, signal.SIGSTOP)

    def fill(its: SupervisorLink) -> None:
        for _ in range(10_000):
            its._send({"kind": "stop", "id": 0, "padding": "x" * 10_000})

    began_s = time.monotonic()
    with pytest.raises(SupervisorError, match="the supervisor process is gone"):
        on_loop(session, fill)
    assert time.monotonic() - began_s < under_load(20)
    assert 3 == flyte.run(add, 1, 2).outputs()[0]
    assert session.engine.supervisor_pid != before


def test_a_supervisor_that_says_nothing_is_given_up(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it keeps no bounds it is missed: the task fails with that, all ends, the next works.

    What is thirty seconds elsewhere is one and a half for this one, from where it is silent, and what is six is one.
    That it is stopped, which is how it is made silent here, is not seen.
    """
    monkeypatch.setattr(link, "CLOSE_BOUND_S", 1.0)
    monkeypatch.setattr(link, "STOPPED_LOOKS", 1_000)
    flyte.run(add, 1, 2)
    before = session.engine.supervisor_pid
    assert before is not None
    with monkeypatch.context() as patch:

        def stop() -> None:
            os.kill(before, signal.SIGSTOP)
            patch.setattr(link, "LOOK_EVERY_S", 0.25)
            patch.setattr(link, "SILENT_LOOKS", 6)

        errors = lose(session, [tmp_path / "place"], stop)
    assert "the supervisor process has said nothing for 1.5 s" in str(errors[0])
    assert flyte.errors.RuntimeSystemError is type(errors[0])
    assert 3 == flyte.run(add, 1, 2).outputs()[0]
    pids = [int(pid) for pid in (tmp_path / "place").read_text().split()]
    until(lambda: not any(alive(pid) for pid in pids), under_load(GONE_S))


def test_a_supervisor_that_is_stopped_is_given_up_at_once(session: Session, tmp_path: Path) -> None:
    """With the bounds as they are everywhere: its task fails within seconds, with the reason, and the next works."""
    flyte.run(add, 1, 2)
    before = session.engine.supervisor_pid
    assert before is not None
    stopped_s: list[float] = []

    def stop() -> None:
        os.kill(before, signal.SIGSTOP)
        stopped_s.append(time.monotonic())

    errors = lose(session, [tmp_path / "place"], stop)
    assert time.monotonic() - stopped_s[0] < under_load(20)
    assert "the supervisor process was stopped (SIGSTOP)" in str(errors[0])
    assert flyte.errors.RuntimeSystemError is type(errors[0])
    assert 3 == flyte.run(add, 1, 2).outputs()[0]
