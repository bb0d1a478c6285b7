"""What user code does to the state of its process changes nothing of ours: not in a worker, and not in the notebook.

Large values, for whose files names are needed, come back right from tasks that seed generators, stop the clock, or
replace functions of the standard library; and a notebook that did so goes on as before.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import json
import locale
import os
import random
import socket
import sys
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import numpy as np
import pytest

import flyte_notebook as fn
from flyte_notebook.limiters import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="state", resources=flyte.Resources(cpu=1, memory="600Mi"))

SIZE = 1_100_000
"""Above what travels inline."""
PACKAGE = "flyte_notebook"

NAMED = (
    (random, ("random", "getrandbits", "randbytes", "choice", "randrange")),
    (uuid, ("uuid1", "uuid4")),
    (time, ("time", "monotonic", "perf_counter", "sleep")),
    (json, ("dumps", "loads")),
    (builtins, ("open",)),
    (os, ("urandom", "unlink", "remove", "rename", "link")),
    (os.path, ("exists", "isfile", "getsize")),
)


def poisoned() -> None:
    """Let functions of the standard library fail when this package calls them, and work for everybody else."""
    for module, names in NAMED:
        for name in names:
            setattr(module, name, _refusing(name, getattr(module, name)))


def _refusing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith(PACKAGE):
            raise AssertionError(f"{caller} calls what user code has replaced: {name}")
        return function(*args, **kwargs)

    return refusing


def seeded() -> None:
    """Have all generators draw the same numbers again."""
    random.seed(42)
    np.random.seed(42)  # noqa: NPY002 - the one that everybody shares
    fixed = uuid.UUID(int=7)
    uuid.uuid1 = uuid.uuid4 = lambda *_args: fixed  # type: ignore[assignment]  # what a test does


def frozen() -> None:
    """Stop the clock, as tools for tests do: on `time`, and wherever a module refers to its functions by itself."""
    stopped = {id(time.time): lambda: 5.0, id(time.monotonic): lambda: 5.0, id(time.perf_counter): lambda: 5.0}
    spared = ("threading", "queue", "asyncio")
    modules = [module for name, module in list(sys.modules.items()) if module is not None and name not in spared]
    for module in modules:
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in stopped:
                module.__dict__[name] = stopped[id(value)]


STATES: dict[str, Callable[[], None]] = {"seeded": seeded, "frozen": frozen, "poisoned": poisoned}
TASKS = {"seeded": 12, "frozen": 4, "poisoned": 4}
EACH = 25
"""So many values are given to each task, and it gives as many back."""
AT_ONCE = 4


def value_of(number: int) -> bytearray:
    return bytearray(number.to_bytes(4, "big")) * (SIZE // 4)


def values_from(number: int) -> list[bytearray]:
    return [value_of(number + index) for index in range(EACH)]


@env.task
async def passed(state: str, number: int, values: list[bytearray]) -> list[bytearray]:
    """Check what was given, each a file of its own, and give back as many others."""
    assert values_from(number) == values
    STATES[state]()
    return values_from(number + EACH)


@env.task
async def wrong(state: str, tasks: int) -> list[str]:
    """Return what came back wrong of so many tasks, which get values from here and give others back."""
    STATES[state]()

    async def one(number: int) -> str:
        try:
            right = values_from(number + EACH) == await passed(state, number, values_from(number))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
            return f"{number}: {error!r}"
        return "" if right else f"{number}: another value"

    found: list[str] = []
    for begin in range(0, tasks, AT_ONCE):
        numbers = [2 * EACH * number for number in range(begin, begin + AT_ONCE)]
        found += await asyncio.gather(*(one(number) for number in numbers))
        gc.collect()
    return [words for words in found if words]


@pytest.mark.parametrize("state", STATES)
def test_no_large_value_is_another_ones(state: str) -> None:
    """1,000 in all, made and taken in parallel: each is the one that was asked for."""
    assert 1000 == 2 * EACH * sum(TASKS.values())
    assert [] == flyte.run(wrong, state, TASKS[state]).outputs()[0]


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Put back, when the block ends, all that these states change in this process."""
    kept = [(module, dict(vars(module))) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    generator, environ, umask = random.getstate(), dict(os.environ), os.umask(0)
    os.umask(umask)
    timeout, language = socket.getdefaulttimeout(), locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        for module, before in kept:
            for name, value in before.items():
                if module.__dict__.get(name) is not value:
                    module.__dict__[name] = value
        random.setstate(generator)
        os.environ.clear()
        os.environ.update(environ)
        os.umask(umask)
        socket.setdefaulttimeout(timeout)
        locale.setlocale(locale.LC_ALL, language)


def short_of_time() -> None:
    socket.setdefaulttimeout(0.01)


def masked() -> None:
    os.umask(0o777)


def unmasked() -> None:
    os.umask(0)


def elsewhere() -> None:
    locale.setlocale(locale.LC_ALL, "C")


def without_environment() -> None:
    kept = {name: os.environ[name] for name in ("HOME",) if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)


IN_THE_NOTEBOOK: dict[str, Callable[[], None]] = {
    **STATES,
    "default timeout": short_of_time,
    "umask 777": masked,
    "umask 0": unmasked,
    "locale": elsewhere,
    "no environment": without_environment,
}


@env.task
async def twice(value: bytearray) -> bytearray:
    return value + value


@env.task
def sleeps(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.parametrize("state", IN_THE_NOTEBOOK)
def test_a_notebook_in_that_state_runs_as_before(session: Session, state: str) -> None:
    """Large inputs and results, two runs at a time, limits that are passed and a failure that is repeated."""
    values = [bytearray(os.urandom(SIZE)) for _ in range(2)]

    async def both() -> list[bytearray]:
        runs = await asyncio.gather(*(flyte.run.aio(twice, value) for value in values))
        return [run.outputs()[0] for run in runs]

    limited = sleeps.override(timeout=flyte.Timeout(max_runtime=timedelta(seconds=0.5)))
    small = twice.override(resources=flyte.Resources(cpu=1, memory="60Mi"))
    with put_back():
        IN_THE_NOTEBOOK[state]()
        found = asyncio.run(both())
        with pytest.raises(flyte.errors.TaskTimeoutError):
            flyte.run(limited, 60.0)
        with pytest.raises(flyte.errors.OOMError) as caught:
            flyte.run(small, bytearray(30_000_000))
        kept = session.repeats.find(caught.value.failure.worker).arguments()  # type: ignore[attr-defined]  # ours
    assert [value + value for value in values] == found
    assert bytearray(30_000_000) == kept["value"]
    assert fn.last_run is not None
    assert fn.last_run.actions[0].attempts[0].duration_s > 0


def test_a_wait_has_an_end_while_the_clock_of_the_notebook_stands() -> None:
    """Who waits for memory that another task holds is turned away when its time is up."""
    large = flyte.Resources(memory=f"{int(machine.available_bytes() * 0.7) >> 20}Mi")
    either = sleeps.override(resources=large, timeout=flyte.Timeout(max_queued_time=timedelta(seconds=0.3)))

    async def both() -> list[Any]:
        return await asyncio.gather(*(flyte.run.aio(either, 3.0) for _ in range(2)), return_exceptions=True)

    with put_back():
        frozen()
        errors = [one for one in asyncio.run(both()) if isinstance(one, BaseException)]
    assert ["max_queued_time"] == [error.failure.reason for error in errors]  # type: ignore[attr-defined]  # ours
