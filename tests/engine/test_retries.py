"""The SDK's own retries: when each attempt begins, and what bounds them all."""

from __future__ import annotations

import itertools
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import flyte
import flyte.errors
import pytest

import flyte_notebook as fn

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

SLACK_S = 10.0
"""How much later than declared an attempt may begin on a busy machine; a worker alone takes some 0.3 s to start."""

env = flyte.TaskEnvironment(name="retries", resources=flyte.Resources(cpu=1, memory="250Mi"))


def note_the_time(place: str) -> None:
    with Path(place).open("a") as file:
        file.write(f"{time.monotonic()}\n")


@env.task(retries=flyte.RetryStrategy(count=2, backoff=flyte.Backoff(timedelta(seconds=1), 2.0, timedelta(seconds=9))))
def too_large(place: str) -> int:
    note_the_time(place)
    return len(bytearray(2**30))


@env.task(retries=2)
def too_large_too(place: str) -> int:
    note_the_time(place)
    return len(bytearray(2**30))


@env.task(timeout=flyte.Timeout(deadline=4), retries=1000)
def fails_until_the_deadline(place: str) -> None:
    note_the_time(place)
    raise ValueError("again")


@env.task(retries=3)
async def gives_up_by_a_class_of_its_own() -> None:
    class NoUseError(flyte.errors.NonRecoverableError):
        pass

    raise NoUseError("no use")


def error_of(task: Any, *args: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value


def began_s(place: Path) -> list[float]:
    return [float(line) for line in place.read_text().split()]


@pytest.mark.parametrize(("task", "backoffs_s"), [(too_large, (1.0, 2.0)), (too_large_too, (0.5, 1.0))])
def test_an_oom_is_retried_at_the_declared_backoff(task: Any, backoffs_s: tuple[float, float], tmp_path: Path) -> None:
    """Three attempts: the first after each OOM begins when the declared backoff, or the SDK's own, is over."""
    place = tmp_path / "times"
    error = error_of(task, str(place))
    assert flyte.errors.OOMError is type(error)
    assert fn.last_run is not None
    assert [f"{fn.last_run.name}-a0-{number}" for number in range(3)] == [
        attempt.worker for attempt in fn.last_run.actions[0].attempts
    ]
    times_s = began_s(place)
    gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
    assert 2 == len(gaps_s)
    assert all(0 <= gap - backoff < SLACK_S for gap, backoff in zip(gaps_s, backoffs_s, strict=True)), gaps_s


def test_a_deadline_counts_across_attempts(tmp_path: Path) -> None:
    """Several attempts of a task fail well within its deadline; the deadline ends the run, not the thousand retries."""
    place = tmp_path / "times"
    error = error_of(fails_until_the_deadline, str(place))
    assert fn.errors.DeadlineExceededError is type(error)
    times_s = began_s(place)
    assert 2 <= len(times_s) < 20
    assert times_s[-1] - times_s[0] < 4
    assert fn.last_run is not None
    codes = [attempt.outcome.code for attempt in fn.last_run.actions[0].attempts]
    assert ["ValueError"] * (len(codes) - 1) + ["DeadlineExceededError"] == codes
    assert error.worker.endswith(f"-a0-{len(codes) - 1}")


def test_a_subclass_of_non_recoverable_is_one_attempt() -> None:
    """A class of the user's below NonRecoverableError ends the attempts as well."""
    error = error_of(gives_up_by_a_class_of_its_own)
    assert isinstance(error, flyte.errors.NonRecoverableError)
    assert fn.last_run is not None
    assert 1 == len(fn.last_run.actions[0].attempts)


@env.task
def leaves_an_eater(seconds: float) -> str:
    """Return, and have a child fill the memory while this process takes its leave."""
    import atexit  # noqa: PLC0415 - in the worker
    import subprocess  # noqa: PLC0415 - as above
    import sys  # noqa: PLC0415 - as above

    # There is not much time for a farewell: the child is up by then.
    program = "import sys; print(flush=True); sys.stdin.readline(); x = bytearray(2 ** 30)"
    eater = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert eater.stdout is not None
    eater.stdout.readline()
    atexit.register(eater.communicate, b"\n", seconds)
    return f"well {os.getpid() > 0}"


def test_a_child_killed_after_the_task_ended_well_is_an_oom(session: Any) -> None:
    """The kernel counted a kill when the result was there already: OOMError in the cluster's words for that."""
    if not session.engine.enforcement.kernel_memory:
        pytest.skip("only the kernel counts kills")
    error = error_of(leaves_an_eater, 20.0)
    assert (flyte.errors.OOMError, "user", "OOMKilled") == (type(error), error.kind, error.code)
    assert "Pod reported success despite being OOMKilled" == str(error)
    assert error.worker.endswith("-a0-0")
    assert "the task itself ended well" in error.failure.headline
