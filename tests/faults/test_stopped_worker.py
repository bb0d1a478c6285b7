"""A worker that somebody stops with SIGSTOP, or kills: its bounds still hold, and nobody else is hit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import flyte
import flyte.errors
import pytest
from bounds import under_load
from programs import error_of, until

import flyte_notebook as fn

if TYPE_CHECKING:
    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="stopped", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@env.task
def says_its_pid(place: str) -> str:
    Path(f"{place}.new").write_text(str(os.getpid()))
    Path(f"{place}.new").rename(place)
    until_s = time.monotonic() + 60
    while not Path(f"{place}.go").exists() and time.monotonic() < until_s:
        time.sleep(0.01)
    return "went on"


@env.task
async def add(a: int, b: int) -> int:
    return a + b


def works() -> None:
    """Hold the session to what it is for."""
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


def test_max_runtime_ends_a_worker_that_is_stopped() -> None:
    """The bound of one second counts for a process that does nothing, too: MaxRuntimeExceededError; the next works."""
    error = error_of(stops_itself.override(timeout=1))
    assert fn.errors.MaxRuntimeExceededError is type(error)
    assert 1 <= error.failure.report.ran_s < under_load(5)
    works()


def test_a_worker_that_is_stopped_is_shown_and_can_be_ended(session: Session) -> None:
    """Without a bound it is shown as running, with its memory; stop_all ends it as any other."""

    async def main() -> None:
        run = asyncio.ensure_future(flyte.run.aio(stops_itself))
        names: tuple[str, ...] = ()
        seen: tuple[str, bool] | None = None
        until_s = time.monotonic() + 30
        while seen != ("running", True):  # it starts first, and its memory is reported ten times a second
            assert time.monotonic() < until_s, seen
            await asyncio.sleep(0.05)
            names = names or session._watching.names
            shown = session.progress(names[0]) if names else None
            if shown is not None and shown.living:
                seen = (shown.living[0].state, shown.living[0].usage_bytes > 10 << 20)
        session.stop_all("test")
        with pytest.raises(flyte.errors.ActionAbortedError):
            await asyncio.wait_for(run, 10)

    asyncio.run(main())
    works()


def test_a_worker_that_is_killed_is_the_only_one_hit(tmp_path: Path) -> None:
    """SIGKILL from outside to one of three: it fails as a system error that names the signal; the others return."""
    places = [str(tmp_path / name) for name in "abc"]

    def hit_the_second() -> None:
        os.kill(int(Path(places[1]).read_text()), signal.SIGKILL)

    def let_go() -> None:
        for place in places:
            Path(f"{place}.go").touch()

    async def main() -> list[str | BaseException]:
        runs = [asyncio.ensure_future(flyte.run.aio(says_its_pid, place)) for place in places]
        await asyncio.to_thread(until, lambda: all(Path(place).exists() for place in places))
        await asyncio.to_thread(hit_the_second)
        await asyncio.wait({runs[1]}, timeout=10)
        await asyncio.to_thread(let_go)
        done = await asyncio.gather(*runs, return_exceptions=True)
        return [one if isinstance(one, BaseException) else one.outputs()[0] for one in done]

    first, hit, last = asyncio.run(main())
    assert ("went on", "went on") == (first, last)
    assert isinstance(hit, flyte.errors.RuntimeSystemError)
    assert "Interrupted" == hit.code
    assert "SIGKILL (killed) from outside" in hit.failure.headline  # type: ignore[attr-defined]  # ours
    works()
