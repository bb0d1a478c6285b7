"""An error goes up through two levels of parents and stays the error of the attempt that failed."""

from __future__ import annotations

import os
import threading
import traceback
from typing import Any

import flyte
import flyte.errors
import pytest

import flyte_notebook as fn

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="nested", resources=flyte.Resources(cpu=1, memory="150Mi"))


@env.task
async def innermost(how: str) -> int:
    if how == "memory":
        return len(b"x" * 400_000_000)
    if how == "lost":
        os._exit(3)
    if how == "local":

        class Local(Exception):  # noqa: N818 - named as users name theirs
            lock = None

            def __init__(self, message: str) -> None:
                super().__init__(message)
                self.lock = threading.Lock()

        raise Local("made here")
    if how == "flyte":
        raise flyte.errors.OOMError("OOMKilled", "by hand")
    if how == "numpy":
        import numpy as np  # noqa: PLC0415 - only where it is asked for

        return len(np.zeros(1 << 57))
    raise ValueError("the innermost line")


@env.task
async def between(how: str) -> int:
    if how == "turned":
        try:
            return await innermost(how)
        except flyte.errors.RuntimeUserError as error:
            raise KeyError("made of it") from error
    return await innermost(how)


@env.task
async def outer(how: str) -> int:
    return await between(how)


@env.task
async def reads(how: str) -> str:
    try:
        return str(await between(how))
    except flyte.errors.BaseRuntimeError as error:
        shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return f"{type(error).__name__} {error.code} {error.worker} {'the innermost line' in shown}"


def error_of(task: Any, *args: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value


def workers() -> dict[str, str]:
    """Return the name of each task's only attempt in the last run."""
    assert fn.last_run is not None
    return {
        action.task_name.rpartition(".")[2]: f"{fn.last_run.name}-{action.name}-0" for action in fn.last_run.actions
    }


@pytest.mark.parametrize(
    ("how", "arrives", "code", "words"),
    [
        ("raises", "RuntimeUserError", "ValueError", "the innermost line"),
        ("memory", "OOMError", "OOMKilled", "exit code (137)"),
        ("lost", "RuntimeSystemError", "Interrupted", "exit code (3)"),
        ("flyte", "OOMError", "OOMKilled", "by hand"),
    ],
)
def test_the_worker_is_that_of_the_attempt_that_failed(how: str, arrives: str, code: str, words: str) -> None:
    """Class, code, worker and line are those of the innermost task, at the top and in a parent that catches it."""
    error = error_of(outer, how)
    assert (arrives, code, workers()["innermost"]) == (type(error).__name__, error.code, error.worker)
    assert words in str(error)
    assert ("nested.innermost", error.worker) == (error.failure.task_name, error.failure.worker)
    assert "in between" in "".join(traceback.format_exception(error))
    caught = flyte.run(reads, how).outputs()[0].split()
    assert [arrives, code, workers()["innermost"]] == caught[:3]


def test_the_cause_carries_the_lines_of_the_innermost() -> None:
    """The traceback shows the line that raised, two processes away, and the lines of its callers."""
    error = error_of(outer, "raises")
    shown = "".join(traceback.format_exception(error))
    for line in ('raise ValueError("the innermost line")', "return await innermost(how)", "return await between(how)"):
        assert line in shown
    assert "True" == flyte.run(reads, "raises").outputs()[0].split()[3]


def test_the_cause_is_the_exception_itself() -> None:
    """Three processes away ``__cause__`` is the very ValueError that the innermost task raised."""
    error = error_of(outer, "raises")
    assert (ValueError, "the innermost line") == (type(error.__cause__), str(error.__cause__))
    assert "WorkerTraceback" == type(error.__cause__.__cause__).__name__


def test_a_class_that_only_a_task_knows_is_stood_in_for() -> None:
    """The cause of a class that cannot be pickled keeps name and message on its way through two parents."""
    error = error_of(outer, "local")
    assert ("Local", "made here") == (error.code, str(error))
    assert ("Local", "made here") == (type(error.__cause__).__name__, str(error.__cause__))


def test_an_error_made_of_another_is_of_the_task_that_made_it() -> None:
    """``raise ... from`` in a parent: code and worker are the parent's, and the first error is shown as well."""
    error = error_of(outer, "turned")
    assert ("KeyError", workers()["between"]) == (error.code, error.worker)
    shown = "".join(traceback.format_exception(error))
    assert 'raise ValueError("the innermost line")' in shown
    assert 'raise KeyError("made of it") from error' in shown


def test_the_size_of_a_refused_allocation_is_told() -> None:
    """A MemoryError says what it is not, and how much was asked for where its text knows."""
    pytest.importorskip("numpy")
    error = error_of(innermost, "numpy")
    assert ("RuntimeUserError", "MemoryError") == (type(error).__name__, error.code)
    headline = error.failure.headline
    assert "one allocation of 1 EiB was larger than the machine can give (Unable to allocate 1.00 EiB" in headline
    assert "this is not an OOM kill" in headline
