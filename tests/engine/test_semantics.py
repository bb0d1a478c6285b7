"""Both semantics: today's cluster by default, the published reference on demand."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest

if TYPE_CHECKING:
    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="semantics", resources=flyte.Resources(cpu=1, memory="250Mi"))
TWICE = flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=timedelta(seconds=0.01)))


@env.task
def fails() -> None:
    raise ValueError("no")


@env.task(retries=TWICE)
def fails_twice() -> None:
    raise ValueError("no")


@env.task(retries=TWICE)
def too_large_twice() -> int:
    return len(bytearray(2**30))


@env.task
async def leaves() -> None:
    os._exit(3)


@env.task(timeout=1)
def too_slow() -> None:
    time.sleep(30)


@env.task
async def catches() -> str:
    try:
        await fails.aio()
    except flyte.errors.RuntimeUserError as error:
        return f"{type(error).__name__} {error.code} {error.worker.endswith('-0')}"
    return "nothing"


@env.task
async def lets_through() -> None:
    await fails.aio()


@pytest.fixture
def reference(session: Session) -> Iterator[None]:
    session.semantics = "reference"
    yield
    session.semantics = "cluster"


def error_of(task: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task)
    return caught.value


def test_a_cluster_raises_the_last_error_itself() -> None:
    """By default the last of several attempts gives its own error, and nothing is said about a difference."""
    error = error_of(fails_twice)
    assert (flyte.errors.RuntimeUserError, "ValueError") == (type(error), error.code)
    assert "" == error.failure.note


@pytest.mark.usefixtures("reference")
def test_the_reference_raises_custom_error() -> None:
    """User code that raises is a CustomError with the class name as code; it is a RuntimeUserError too."""
    error = error_of(fails)
    assert (flyte.errors.CustomError, "ValueError", "no") == (type(error), error.code, str(error))
    assert error.worker.endswith("-a0-0")
    assert isinstance(error.__cause__, ValueError)
    assert "the reference says CustomError; today's cluster raises RuntimeUserError" == error.failure.note


@pytest.mark.usefixtures("reference")
def test_the_reference_says_when_retries_are_exhausted() -> None:
    """The last of several attempts is a RetriesExhaustedError whose cause is the last error."""
    error = error_of(fails_twice)
    assert (flyte.errors.RetriesExhaustedError, "RetriesExhausted|ValueError") == (type(error), error.code)
    assert "[2/2] currentAttempt done. Last Error: USER::no" == str(error)
    assert isinstance(error.__cause__, flyte.errors.CustomError)
    assert isinstance(error.__cause__.__cause__, ValueError)


@pytest.mark.usefixtures("reference")
def test_an_oom_inside_stays_an_oom() -> None:
    """Exhausted retries do not hide that it was memory."""
    assert flyte.errors.OOMError is type(error_of(too_large_twice))


@pytest.mark.usefixtures("reference")
def test_the_reference_has_one_timeout_and_one_interruption() -> None:
    """A bound that fired is a TaskTimeoutError, a lost worker a TaskInterruptedError of kind user."""
    timeout = error_of(too_slow)
    assert (flyte.errors.TaskTimeoutError, "TaskTimeoutError") == (type(timeout), timeout.code)
    lost = error_of(leaves)
    assert (flyte.errors.TaskInterruptedError, "user", "Interrupted") == (type(lost), lost.kind, lost.code)


@pytest.mark.usefixtures("reference")
def test_the_reference_holds_inside_a_parent_too() -> None:
    """A parent task catches what the reference promises, and what it lets through arrives as the same."""
    assert "CustomError ValueError True" == flyte.run(catches).outputs()[0]
    error = error_of(lets_through)
    assert (flyte.errors.CustomError, "ValueError") == (type(error), error.code)
    assert not error.worker.endswith("-a0-0")
