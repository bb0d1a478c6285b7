"""What code of the user's raises on the SDK's loops ends that call only: never a loop, never a value of its own."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NoReturn

import flyte
import flyte.errors
import pytest
import sessions
from flyte.syncify import syncify

from flyte_notebook.core.stand_in import attach, attribute
from flyte_notebook.errors import pack
from flyte_notebook.sdk import background_loop, guards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = pytest.mark.cgroup

env = flyte.TaskEnvironment(name="ordinary", resources=flyte.Resources(cpu=1, memory="250Mi"))


class Stop(BaseException):
    pass


KINDS: dict[str, type[BaseException]] = {
    "cancelled": asyncio.CancelledError,
    "closed": GeneratorExit,
    "own": Stop,
    "exit": SystemExit,
}


def loaded(when: str, kind: str) -> Any:
    if when == "load":
        raise KINDS[kind]
    return Odd(when, kind)


class Odd:
    def __init__(self, when: str, kind: str) -> None:
        self.when, self.kind = when, kind

    def __reduce__(self) -> Any:
        if self.when == "pickle":
            raise KINDS[self.kind]
        return loaded, (self.when, self.kind)


class Leaving:
    """A policy of the cache that wants to end the process."""

    def get_version(self, _salt: str, _params: object) -> str:
        raise SystemExit(3)


@env.task
async def take(x: Odd) -> int:
    return 1


@env.task
async def give(when: str, kind: str) -> Odd:
    return Odd(when, kind)


@env.task
async def add(a: int, b: int) -> int:
    return a + b


@env.task
def add_blocking(a: int, b: int) -> int:
    return a + b


@env.task
async def sleep() -> None:
    await asyncio.sleep(60)


@syncify
async def leave() -> None:
    raise SystemExit(3)


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with sessions.opened_for(request.module) as opened:
        yield opened


def test_whatever_an_input_raises_names_it(session: Session) -> None:
    """Also a cancellation that nobody asked for and a class of the user's own: RuntimeDataValidationError."""
    for kind, raised in KINDS.items():
        with pytest.raises(flyte.errors.RuntimeDataValidationError, match=raised.__name__):
            flyte.run(take, Odd("pickle", kind))
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


def test_what_a_result_raises_is_never_taken_for_its_value(session: Session) -> None:
    """The SDK gathers what it converts, and of what is gathered only an Exception counts as an error."""
    for kind, raised in KINDS.items():
        with pytest.raises(TypeError, match=raised.__name__):
            flyte.run(give, "load", kind)
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


@pytest.mark.parametrize("task", [add, add_blocking], ids=["async", "blocking"])
def test_an_exit_in_other_code_that_the_sdk_calls_is_an_error(session: Session, task: Any) -> None:
    """The policy of a cache, say; the error has a failure, and its cause is what was raised."""
    cache = flyte.Cache("auto", policies=[Leaving()])  # type: ignore[arg-type,list-item]
    with pytest.raises(flyte.errors.RuntimeUserError) as caught:
        flyte.run(task.override(cache=cache), 1, 2)
    assert "SystemExit" == caught.value.code
    assert isinstance(caught.value.__cause__, SystemExit)
    assert guards.IN_ITS_SUBMISSION in caught.value.failure.headline  # type: ignore[attr-defined]
    assert 3 == flyte.run(task, 1, 2).outputs()[0]


def test_the_loop_of_blocking_functions_outlives_an_exit(session: Session) -> None:
    """Whoever waits gets what was raised, the loop is the same, and what waited on it goes on."""
    background = background_loop._background()
    loop = background.loop
    slow = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.3, "slept"), loop)
    with pytest.raises(SystemExit):
        leave()
    assert "slept" == slow.result(10)
    assert background.loop is loop
    assert background.thread.is_alive()
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


def test_a_loop_that_has_ended_is_taken_up_again() -> None:
    """A thread that ended before a session began is replaced when one begins; to replace it twice changes nothing."""
    background = background_loop._background()
    background.loop.call_soon_threadsafe(background.loop.stop)
    background.thread.join(10)
    assert not background.thread.is_alive()
    background_loop.outlive_exits()
    thread = background.thread
    background_loop.outlive_exits()
    assert thread is background.thread
    assert "here" == asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "here"), background.loop).result(10)


def test_the_loop_of_the_engine_outlives_an_exit(session: Session) -> None:
    """An exit that gets there ends the call that raised it, and no run."""

    async def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.engine.call(interrupted()).result(10)
    assert 3 == flyte.run(add, 1, 2).outputs()[0]


async def test_a_cancelled_run_stays_cancelled(session: Session) -> None:
    """Who gives a run up after a time has a TimeoutError, no error of the task's code."""
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flyte.run.aio(sleep), 1)
    assert time.monotonic() - began_s < 10


def test_an_error_whose_attributes_raise_can_be_looked_at() -> None:
    """Neither reading nor setting an attribute of an exception of the user's lets anything through."""

    class Hostile(flyte.errors.RuntimeUserError):
        @property
        def worker(self) -> NoReturn:
            raise SystemExit(3)

        @worker.setter
        def worker(self, _value: object) -> None:
            raise KeyboardInterrupt

    error = RuntimeError.__new__(Hostile)
    assert "nobody" == attribute(error, "worker", "nobody")
    attach(error, "worker", "somebody")
    with pytest.raises(SystemExit):
        pack(error)
