"""However a task dies, the error is the proper one, the caller lives, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from bounds import under_load

import flyte_notebook as fn
from flyte_notebook.errors import UnschedulableError

if TYPE_CHECKING:
    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.quick, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="deaths", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
def allocate(mebibytes: int) -> int:
    return len(bytearray(mebibytes << 20))


@env.task
def segfault() -> None:
    import ctypes  # noqa: PLC0415 - in the worker

    ctypes.string_at(0)


@env.task
async def leave(status: int) -> None:
    os._exit(status)


@env.task
def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


@env.task(timeout=1)
def spin() -> None:
    while True:
        pass


@env.task
def fork_an_eater() -> None:
    program = "x = bytearray(2 ** 30); import time; time.sleep(60)"
    subprocess.run([sys.executable, "-c", program], check=True)


@env.task
def daemonise_an_eater() -> None:
    program = "import os; os.setsid(); os.fork() and os._exit(0); x = bytearray(2 ** 30); import time; time.sleep(60)"
    subprocess.run([sys.executable, "-c", program], check=True)
    time.sleep(60)


@env.task
def exit_by_sys(status: str) -> None:
    sys.exit(status)


@env.task
def look_up(key: str) -> int:
    return {"known": 1}[key]


@env.task
async def call_look_up(key: str) -> int:
    return await look_up.aio(key)


@env.task
async def call_allocate(mebibytes: int) -> int:
    return await allocate.aio(mebibytes)


@env.task
def ask_for_too_much() -> int:
    return len(bytearray(10**15))


def error_of(task: Any, *args: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value


def test_memory_over_the_limit_is_an_oom_error(session: Session) -> None:
    """The kernel kills at the limit: OOMError, user, OOMKilled, the cluster's message, the peak at the limit."""
    error = error_of(allocate, 600)
    assert flyte.errors.OOMError is type(error)
    assert ("user", "OOMKilled") == (error.kind, error.code)
    assert (
        f"[{error.worker}] terminated with exit code (137). Reason [OOMKilled]. Message: " == str(error).split("\n")[1]
    )
    assert error.worker.endswith("-a0-0")
    failure = error.failure
    assert "memory" == failure.reason
    assert 250 << 20 == failure.limits.memory_bytes
    if session.engine.enforcement.kernel_memory:
        assert 250 << 20 == failure.report.trace.peak_bytes
        assert "kernel counter" == failure.report.trace.peak_source
    assert fn.last_failure is failure
    assert fn.last_run is not None
    assert failure is fn.last_run.failure


def test_below_the_limit_a_task_returns(session: Session) -> None:
    """A task that fits under its limit gives its result, and its peak is what it used."""
    assert 100 << 20 == flyte.run(allocate, 100).outputs()[0]
    assert fn.last_run is not None
    peak = fn.last_run.actions[0].attempts[0].trace.peak_bytes
    assert peak is not None
    assert 130 << 20 < peak < 200 << 20


@pytest.mark.parametrize("task", [fork_an_eater, daemonise_an_eater])
def test_the_memory_of_children_counts(task: Any) -> None:
    """A child that eats the memory ends the whole task as OOM, also one that left the session of its parent."""
    error = error_of(task)
    assert flyte.errors.OOMError is type(error)
    assert "OOMKilled" == error.code


def test_a_segfault_is_a_system_error() -> None:
    """SIGSEGV: RuntimeSystemError, system, Interrupted, exit code 139."""
    error = error_of(segfault)
    assert flyte.errors.RuntimeSystemError is type(error)
    assert ("system", "Interrupted") == (error.kind, error.code)
    assert "terminated with exit code (139). Reason [Error]" in str(error)
    assert "SIGSEGV" in error.failure.headline


def test_an_exit_before_the_result_is_a_system_error() -> None:
    """os._exit(3): RuntimeSystemError with the status in the message."""
    error = error_of(leave, 3)
    assert flyte.errors.RuntimeSystemError is type(error)
    assert "terminated with exit code (3). Reason [Error]" in str(error)
    assert "exited with status 3" in error.failure.headline


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_from_outside_is_not_an_oom(number: signal.Signals) -> None:
    """A kill that the kernel did not count as one for memory is an interruption, whatever the signal."""
    error = error_of(kill_itself, int(number))
    assert flyte.errors.RuntimeSystemError is type(error)
    assert f"exit code ({128 + number})" in str(error)
    assert number.name in error.failure.headline


def test_an_endless_loop_ends_at_max_runtime() -> None:
    """max_runtime=1: MaxRuntimeExceededError about a second after the worker was ready."""
    error = error_of(spin)
    assert fn.errors.MaxRuntimeExceededError is type(error)
    assert "max_runtime" == error.failure.reason
    assert "MAX_RUNTIME_EXCEEDED" == error.failure.wire_code
    assert 1.0 <= error.failure.report.ran_s < 1.0 + under_load(1.0)


@pytest.mark.parametrize("status", ["4", "a reason"])
def test_sys_exit_is_an_error_and_never_a_hang(status: str) -> None:
    """sys.exit() in a task: RuntimeUserError, code SystemExit, the status in the message."""
    error = error_of(exit_by_sys, status)
    assert flyte.errors.RuntimeUserError is type(error)
    assert "SystemExit" == error.code
    assert status in str(error)


def test_an_exception_keeps_class_message_and_lines() -> None:
    """RuntimeUserError with the class name as code; the original is the cause, with the user's lines in it."""
    error = error_of(look_up, "nope")
    assert flyte.errors.RuntimeUserError is type(error)
    assert ("KeyError", "'nope'") == (error.code, str(error))
    assert isinstance(error.__cause__, KeyError)
    assert 'return {"known": 1}[key]' == error.failure.line.text
    assert __file__ == error.failure.line.file


def test_an_exception_passes_through_a_parent() -> None:
    """The error of a nested task that its parent lets through is that of the child: worker and lines."""
    error = error_of(call_look_up, "nope")
    assert flyte.errors.RuntimeUserError is type(error)
    assert "KeyError" == error.code
    assert fn.last_run is not None
    assert [None, "a0"] == [action.parent for action in fn.last_run.actions]
    assert error.worker == fn.last_run.actions[1].attempts[0].worker


def test_an_oom_that_passes_through_a_parent_shows_where_it_came_up() -> None:
    """The failure that the user sees is the child's, its line after the lines of the parent that awaited it."""
    error = error_of(call_allocate, 600)
    assert flyte.errors.OOMError is type(error)
    assert "memory" == error.failure.reason
    assert "deaths.allocate" == error.failure.task_name
    assert "return len(bytearray(mebibytes << 20))" == error.failure.line.text
    texts = [line.text for line in error.failure.lines]
    assert ["return await allocate.aio(mebibytes)", "return len(bytearray(mebibytes << 20))"] == texts


def test_memory_error_of_python_is_told_apart() -> None:
    """One allocation larger than the machine can give is a MemoryError of Python, not an OOM kill."""
    error = error_of(ask_for_too_much)
    assert flyte.errors.RuntimeUserError is type(error)
    assert "MemoryError" == error.code
    assert "one allocation of about 909 TiB was larger" in error.failure.headline
    assert "not an OOM kill" in error.failure.headline


def test_a_task_that_never_fits_fails_at_once() -> None:
    """A limit above the machine's memory is refused before anything starts, naming both sizes."""
    began = time.monotonic()
    error = error_of(allocate.override(resources=flyte.Resources(memory="900Ti")), 1)
    assert UnschedulableError is type(error)
    assert "needs 900 TiB of memory, this machine has" in str(error)
    assert time.monotonic() - began < under_load(5)


def test_a_malformed_quantity_says_what_is_right() -> None:
    """A quantity that is none is refused before anything starts, with the right spelling."""
    error = error_of(allocate.override(resources=flyte.Resources(memory="250MB")), 1)
    assert "250MB is not a quantity; write 250M (10^6) or 250Mi (2^20)" == str(error)
    assert error is error.failure.error


def test_a_limit_below_the_interpreter_says_what_it_needs(session: Session) -> None:
    """A limit that not even Python and Flyte fit in is an OOM that says so."""
    if not session.engine.enforcement.kernel_memory:
        pytest.skip("a watchdog may see the worker too late")
    error = error_of(allocate.override(resources=flyte.Resources(memory="16Mi")), 1)
    assert flyte.errors.OOMError is type(error)
    assert "less than Python and Flyte need" in error.failure.headline


def test_cancelling_a_run_ends_its_processes(session: Session) -> None:
    """A run whose awaiting task is cancelled is gone within two seconds."""

    async def main() -> None:
        run = asyncio.ensure_future(flyte.run.aio(spin.override(timeout=60)))
        while not session.engine.active:  # noqa: ASYNC110 - what is waited for happens on another thread
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        until = time.monotonic() + under_load(2)
        while session.engine.active and time.monotonic() < until:  # noqa: ASYNC110 - what is waited for happens on another thread
            await asyncio.sleep(0.01)
        assert 0 == session.engine.active

    asyncio.run(main())
    assert fn.last_run is not None
    assert fn.last_run.failure is not None
    assert ("stopped", "ActionAbortedError") == (fn.last_run.failure.reason, fn.last_run.failure.code)
    assert [1] == [attempt.number for attempt in fn.last_run.actions[0].attempts]


def test_stopping_everything_aborts_the_run(session: Session) -> None:
    """stop_all from another thread: ActionAbortedError, no further attempts."""

    async def main() -> None:
        run = asyncio.ensure_future(flyte.run.aio(spin.override(timeout=60, retries=3)))
        while not session.engine.active:  # noqa: ASYNC110 - what is waited for happens on another thread
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert isinstance(session.stop_all("test"), flyte.errors.ActionAbortedError)
        with pytest.raises(flyte.errors.ActionAbortedError):
            await run
        assert 0 == session.engine.active

    asyncio.run(main())
    assert fn.last_run is not None
    assert 1 == len(fn.last_run.actions[0].attempts)
