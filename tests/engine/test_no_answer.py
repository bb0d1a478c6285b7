"""A body that takes from its worker what an answer needs: the end comes all the same, and says what was not done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import flyte
import flyte.errors
import pytest
from bounds import under_load

from flyte_notebook.engine import returning

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="no-answer", resources=flyte.Resources(cpu=1, memory="250Mi"))

HARD = ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_STACK")


@env.task
def limit_itself(name: str, value: int, *, hard: bool, then: str) -> bytes:
    import resource  # noqa: PLC0415 - in the worker

    held = bytes(3 << 20)
    kind = getattr(resource, name)
    resource.setrlimit(kind, (value, value if hard else resource.getrlimit(kind)[1]))
    if then == "raise":
        raise ValueError("after the limit")
    return held if then == "large" else held[:10]


@env.task
async def limit_itself_async(name: str, value: int, *, hard: bool, then: str) -> bytes:
    import resource  # noqa: PLC0415 - in the worker

    held = bytes(3 << 20)
    kind = getattr(resource, name)
    resource.setrlimit(kind, (value, value if hard else resource.getrlimit(kind)[1]))
    if then == "raise":
        raise ValueError("after the limit")
    return held if then == "large" else held[:10]


@env.task
def fill_its_limit(then: str) -> bytes:
    import gc  # noqa: PLC0415 - in the worker
    import resource  # noqa: PLC0415 - in the worker

    gc.disable()
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (20 << 20),) * 2)
    held: list[Any] = []
    held.append(held)  # only the collector could free it
    step = 1 << 20
    while step:
        try:
            held.append(bytearray(step))
        except MemoryError:
            step //= 2
    if then == "raise":
        raise ValueError("with memory full")
    return b"done"


class Slow:
    def __init__(self, seconds: int, *, busy: bool) -> None:
        self.seconds, self.busy = seconds, busy

    def __reduce__(self) -> Any:
        if not self.busy:
            time.sleep(self.seconds)
        until_s = time.monotonic() + self.seconds
        while self.busy and time.monotonic() < until_s:
            pass
        return int, (7,)


@env.task
async def pickle_slowly(seconds: int, *, busy: bool) -> Any:
    return Slow(seconds, busy=busy)


@env.task
def fine() -> int:
    return 1


def ended(task: Any, *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """Run a task that may not take long; return its output, or its error and the sentence about it."""
    began_s = time.monotonic()
    try:
        value, headline = flyte.run(task, *args, **kwargs).outputs()[0], ""
    except flyte.errors.BaseRuntimeError as error:
        value, headline = error, error.failure.headline
    assert time.monotonic() - began_s < under_load(returning.REFUSED_BOUND_S + 5)
    assert 1 == flyte.run(fine).outputs()[0]
    return value, headline


@pytest.mark.parametrize("task", [limit_itself, limit_itself_async])
@pytest.mark.parametrize("then", ["small", "large", "raise"])
@pytest.mark.parametrize("name", HARD)
def test_a_body_that_limits_its_process_for_good_has_an_end(name: str, then: str, task: Any) -> None:
    """Its answer or its own error where there is room for it, else an error that says what failed; the next passes."""
    value, headline = ended(task, name, 0, hard=True, then=then)
    if isinstance(value, flyte.errors.RuntimeSystemError) and name in {"RLIMIT_AS", "RLIMIT_DATA"}:
        assert "the body had ended, but the worker could not " in headline
        assert f"; its process was at the {name} of 0 B that it has set (" in headline
    elif isinstance(value, flyte.errors.BaseRuntimeError):
        assert "after the limit" in headline or "could not " in headline or "cannot be written" in headline
    else:
        assert bytes(10 if then == "small" else 3 << 20) == value
    assert then != "raise" or not isinstance(value, bytes)


@pytest.mark.parametrize("task", [limit_itself, limit_itself_async])
@pytest.mark.parametrize("then", ["small", "large"])
@pytest.mark.parametrize("name", HARD)
def test_a_soft_limit_of_a_body_is_for_the_body(name: str, then: str, task: Any) -> None:
    """It is taken back when the body has ended: the answer needs files and memory that the body must not have."""
    value, _ = ended(task, name, 0, hard=False, then=then)
    assert bytes(10 if then == "small" else 3 << 20) == value


def test_an_error_of_a_body_that_filled_its_memory_is_told() -> None:
    """What the body's frames hold is let go, in cycles too, when there is no memory to describe its error with."""
    value, headline = ended(fill_its_limit, "raise")
    assert type(value) is flyte.errors.RuntimeUserError
    assert headline.startswith("raised ValueError: with memory full")


def test_a_body_that_filled_its_memory_and_returns_has_an_end() -> None:
    """Its answer, or an error within seconds."""
    value, headline = ended(fill_its_limit, "return")
    assert b"done" == value or headline


def test_a_worker_that_does_nothing_before_its_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the step and how long nothing happened; the next run passes."""
    monkeypatch.setattr(returning, "SILENT_BOUND_S", 1.0)
    value, headline = ended(pickle_slowly, 60, busy=False)
    assert type(value) is flyte.errors.RuntimeSystemError
    assert headline.endswith("the body had ended, but the worker could not pickle the outputs: it did nothing for 1 s")


def test_a_worker_that_works_at_its_answer_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickling may take much longer than a worker may do nothing."""
    monkeypatch.setattr(returning, "SILENT_BOUND_S", 1.0)
    assert 7 == ended(pickle_slowly, 3, busy=True)[0]


def test_a_step_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the worker is: the bound is for one step."""
    monkeypatch.setattr(returning, "STEP_BOUND_S", 2.0)
    value, headline = ended(pickle_slowly, 60, busy=True)
    assert type(value) is flyte.errors.RuntimeSystemError
    assert headline.endswith("could not pickle the outputs: it was not done after 2 s")
