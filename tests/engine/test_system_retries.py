"""A worker that is lost is replaced as often as ``system_retries`` says, without using up a retry of its task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest

import flyte_notebook as fn
from flyte_notebook.core.outcome import Failure

if TYPE_CHECKING:
    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="lost", resources=flyte.Resources(cpu=1, memory="250Mi"))
ONCE_MORE = flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=timedelta(0)))


def end_by(how: str) -> None:
    """End this process without a result, or the task with an error."""
    if how == "segfault":
        import ctypes  # noqa: PLC0415 - in the worker

        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "raises":
        raise ValueError("no")
    if how == "memory":
        bytearray(2**30)


@env.task
def ends(how: str) -> None:
    end_by(how)
    time.sleep(10)


@env.task
def waits_to_be_killed(place: str) -> str:
    """Say which process this is, and wait; the attempt after a kill returns."""
    if flyte.ctx().attempt_number > 0:
        return "went on"
    Path(place).write_text(str(os.getpid()))
    time.sleep(60)
    return "nobody came"


def take_turns(place: str, turns: list[str]) -> str:
    """Take the next turn at each attempt, and note the attempt's number."""
    number = flyte.ctx().attempt_number
    with Path(place).open("a") as file:
        file.write(f"{number}:{os.environ['FLYTE_ATTEMPT_NUMBER']} ")
    end_by(turns[number])
    return f"done at {number}"


@env.task
def in_turns(place: str, turns: list[str]) -> str:
    return take_turns(place, turns)


@env.task(retries=ONCE_MORE)
def in_turns_with_a_retry(place: str, turns: list[str]) -> str:
    return take_turns(place, turns)


@env.task
async def calls(place: str, turns: list[str]) -> str:
    return await in_turns.aio(place, turns)


@env.task
async def catches(how: str) -> list[str]:
    try:
        await ends.aio(how)
    except flyte.errors.RuntimeSystemError as error:
        return [error.code, error.worker, str(error)]
    return []


@env.task
async def goes_on_from_its_checkpoint() -> str:
    checkpoint = flyte.ctx().checkpoint
    before = await checkpoint.load()
    if before is None:
        await checkpoint.save(b"half way")
        os._exit(3)
    return before.read_bytes().decode()


@pytest.fixture
def twice(session: Session) -> Iterator[None]:
    """Let a worker be replaced twice in a row."""
    session.system_retries = 2
    yield
    session.system_retries = 0


def error_of(task: Any, *args: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value


def outcomes(action: int = 0) -> list[tuple[int, str]]:
    """Return number and code (empty: success) of each attempt of an action of the last run."""
    assert fn.last_run is not None
    attempts = fn.last_run.actions[action].attempts
    return [(one.number, one.outcome.code if isinstance(one.outcome, Failure) else "") for one in attempts]


def test_by_default_a_lost_worker_is_not_replaced() -> None:
    """Without the setting there is one attempt, and its code is Interrupted."""
    error = error_of(ends, "exit")
    assert "Interrupted" == error.code
    assert [(1, "Interrupted")] == outcomes()


@pytest.mark.usefixtures("twice")
@pytest.mark.parametrize(("how", "status"), [("segfault", 139), ("exit", 3), ("SIGTERM", 143)])
def test_when_they_are_spent_the_code_says_so(how: str, status: int) -> None:
    """Three attempts, then MaxSystemFailuresExceeded in the backend's words, of the last attempt, kind system."""
    error = error_of(ends, how)
    assert flyte.errors.RuntimeSystemError is type(error)
    assert ("system", "MaxSystemFailuresExceeded") == (error.kind, error.code)
    assert fn.last_run is not None
    assert f"{fn.last_run.name}-a0-2" == error.worker == error.failure.worker
    assert re.fullmatch(
        r'plugin "container" failed with system error 3 times: \[Interrupted\] '
        r"Pod failed\. No message received from kubernetes\.\n"
        rf"\[{error.worker}\] terminated with exit code \({status}\)\. Reason \[Error\]\. Message: ",
        str(error),
    )
    assert [(1, "Interrupted"), (2, "Interrupted"), (3, "MaxSystemFailuresExceeded")] == outcomes()
    headlines = [attempt.outcome.headline for attempt in fn.last_run.actions[0].attempts]
    assert headlines[0].endswith("; the system tries again (1 of 2)")
    assert headlines[2].endswith("; lost 3 times in a row, with system_retries=2")
    assert [(0, 2), (1, 3), (2, 3)] == [
        (attempt.outcome.attempt, attempt.outcome.max_attempts) for attempt in fn.last_run.actions[0].attempts
    ]
    assert error.failure is fn.last_run.failure is fn.last_failure


@pytest.mark.usefixtures("twice")
def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    """Another process sends SIGKILL: the next attempt of the task runs, and gives the result."""
    place = tmp_path / "pid"

    def kill() -> None:
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(place.read_text()), signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    assert "went on" == flyte.run(waits_to_be_killed, str(place)).outputs()[0]
    killer.join()
    assert [(1, "Interrupted"), (2, "")] == outcomes()
    assert fn.last_run is not None
    assert "SIGKILL" in fn.last_run.actions[0].attempts[0].outcome.headline
    assert fn.last_run.failure is None


@pytest.mark.usefixtures("twice")
def test_a_retry_of_the_task_is_not_used_up(tmp_path: Path) -> None:
    """With one retry: lost, raised, lost, lost, done is five attempts; the count in a row begins anew after each."""
    place = tmp_path / "numbers"
    result = flyte.run(in_turns_with_a_retry, str(place), ["exit", "raises", "segfault", "exit", ""]).outputs()[0]
    assert "done at 4" == result
    assert "0:0 1:1 2:2 3:3 4:4 " == place.read_text()
    assert [(1, "Interrupted"), (2, "ValueError"), (3, "Interrupted"), (4, "Interrupted"), (5, "")] == outcomes()


@pytest.mark.usefixtures("twice")
def test_the_retries_of_the_task_end_as_ever(tmp_path: Path, session: Session) -> None:
    """With one retry: lost, raised, lost, raised is the end; the reference counts the task's own two attempts."""
    turns = ["exit", "raises", "exit", "raises", ""]
    error = error_of(in_turns_with_a_retry, str(tmp_path / "a"), turns)
    assert ("ValueError", 3, 4) == (error.code, error.failure.attempt, error.failure.max_attempts)
    session.semantics = "reference"
    try:
        error = error_of(in_turns_with_a_retry, str(tmp_path / "b"), turns)
        assert "[2/2] currentAttempt done. Last Error: USER::no" == str(error)
        error = error_of(in_turns, str(tmp_path / "c"), ["exit", "raises", ""])
        assert ("CustomError", "no") == (type(error).__name__, str(error))
        error = error_of(ends, "exit")
        assert (flyte.errors.TaskInterruptedError, "user") == (type(error), error.kind)
        assert "MaxSystemFailuresExceeded" == error.code
    finally:
        session.semantics = "cluster"


@pytest.mark.usefixtures("twice")
@pytest.mark.parametrize(("how", "code"), [("raises", "ValueError"), ("memory", "OOMKilled")])
def test_a_failure_of_the_task_is_no_system_failure(how: str, code: str) -> None:
    """What the task itself is to blame for has one attempt."""
    assert code == error_of(ends, how).code
    assert [(1, code)] == outcomes()


@pytest.mark.usefixtures("twice")
def test_nested_tasks_are_replaced_too(tmp_path: Path) -> None:
    """A child that is lost once gives its result to its parent; the SDK's record knows one action that ended well."""
    heard: list[tuple[str, Any]] = []

    class Tracker:
        def __getattr__(self, name: str) -> Any:
            return lambda **facts: heard.append((name, facts.get("attempt_num")))

        def get_action(self, _action_id: str) -> Any:
            return None

    run = flyte.with_runcontext(mode="local", _tracker=Tracker()).run(calls, str(tmp_path / "n"), ["exit", ""])
    assert "done at 1" == run.outputs()[0]
    assert [(1, "Interrupted"), (2, "")] == outcomes(1)
    assert [(1, "")] == outcomes(0)
    assert ("record_attempt_failure", 1) in heard
    assert ("record_attempt_complete", 2) in heard
    assert "record_failure" not in {name for name, _ in heard}


@pytest.mark.usefixtures("twice")
def test_a_parent_catches_what_a_cluster_would_send() -> None:
    """The error in the parent is that of the child's third attempt."""
    code, worker, message = flyte.run(catches, "exit").outputs()[0]
    assert fn.last_run is not None
    assert ("MaxSystemFailuresExceeded", fn.last_run.actions[1].attempts[2].worker) == (code, worker)
    assert message.startswith('plugin "container" failed with system error 3 times: [Interrupted] Pod failed.')


@pytest.mark.usefixtures("twice")
def test_the_next_attempt_finds_the_checkpoint() -> None:
    """What an attempt saved before it was lost, the one in its place loads."""
    assert "half way" == flyte.run(goes_on_from_its_checkpoint).outputs()[0]
    assert [(1, "Interrupted"), (2, "")] == outcomes()


def test_a_deadline_ends_them(session: Session) -> None:
    """However many are left, the deadline of the task counts over all of them."""
    session.system_retries = 10_000
    try:
        error = error_of(ends.override(timeout=flyte.Timeout(deadline=2)), "exit")
    finally:
        session.system_retries = 0
    assert fn.errors.DeadlineExceededError is type(error)
    assert 2 <= len(outcomes()) < 1_000  # 20 ms each, where nothing else runs


def test_a_stop_ends_them(session: Session) -> None:
    """A run whose worker is replaced over and over is stopped like any other."""

    async def main() -> None:
        run = asyncio.ensure_future(flyte.run.aio(ends, "exit"))
        until_s = time.monotonic() + 30
        while fn.last_run is before or not fn.last_run.actions or len(outcomes()) < 2:  # type: ignore[union-attr]  # there is one
            assert time.monotonic() < until_s
            await asyncio.sleep(0.01)
        session.stop_all("test")
        with pytest.raises(flyte.errors.ActionAbortedError):
            await run

    before = fn.last_run
    session.system_retries = 10_000
    try:
        asyncio.run(main())
    finally:
        session.system_retries = 0
    assert 0 == session.engine.active


def test_enabling_again_changes_the_setting(session: Session) -> None:
    """What is given to a later ``enable`` counts, what is not stays; what is no number is refused."""
    try:
        fn.enable(system_retries=2, semantics="reference")
        fn.enable()
        assert (2, "reference") == (session.system_retries, session.semantics)
        for wrong in (-1, 1.5, True, "2"):
            with pytest.raises(ValueError, match=r"is not a number of retries; give 0, 1, 2, \.\.\."):
                fn.enable(system_retries=wrong)  # type: ignore[arg-type]  # that is what is refused
        with pytest.raises(ValueError, match="'v1' is neither cluster nor reference"):
            fn.enable(semantics="v1")  # type: ignore[arg-type]  # that is what is refused
        assert (2, "reference") == (session.system_retries, session.semantics)
        assert "replaced up to 2 times in a row" in str(fn.doctor())
    finally:
        fn.enable(system_retries=0, semantics="cluster")
    assert "lost workers" not in str(fn.doctor())
