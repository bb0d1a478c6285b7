"""Errors that make trouble on their way: each arrives as a proper error, with what of it can be saved, and quickly."""

# ruff: noqa: N818 - the classes are named as users name theirs

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import os
import sys
import threading
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import flyte
import flyte.errors
import pytest
from bounds import under_load

from flyte_notebook.errors import MAX_TEXT_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

QUICK_S = 9.0
"""How soon each is there on a busy machine: sooner than any wait for what does not come, the shortest of which is 10 s.

On one with nothing else to do it is less than two seconds.
"""

HUGE = 50 * 2**20
SURROGATES = "half a letter: \ud800 and \udfff"
HTML = "<script>alert('x')</script> & <b>bold</b>"

env = flyte.TaskEnvironment(name="bad", resources=flyte.Resources(cpu=1, memory="700Mi"))


class StrRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a text")


class StrExits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class FlyteStrRaises(flyte.errors.OOMError):
    def __str__(self) -> str:
        raise RuntimeError("not even a text")


class ReprRaises(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("not even a repr")


class StrIsNoText(Exception):
    def __str__(self) -> Any:
        return 3  # noqa: PLE0307 - that is what is wrong with it


class Locked(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class NeedsTwo(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Ends(BaseException):
    pass


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    row: int


class ReadOnly(Exception):
    @property
    def worker(self) -> str:
        return "mine"

    @property
    def failure(self) -> str:
        return "mine"

    @property
    def recoverable(self) -> bool:
        return False

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is read-only")


class ReduceRaises(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("never pickled")


def _refuse() -> None:
    raise TypeError("never loaded")


class LoadRaises(Exception):
    def __reduce__(self) -> Any:
        return _refuse, ()


class LoadExits(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, (7,)


class LoadInterrupts(Exception):
    def __reduce__(self) -> Any:
        return _interrupt, ()


def _interrupt() -> None:
    raise KeyboardInterrupt


class LoadEndsTheProcess(Exception):
    def __reduce__(self) -> Any:
        return os._exit, (7,)


class LoadIsSomethingElse(Exception):
    def __reduce__(self) -> Any:
        return dict, ()


class RoomNotFound(Exception):
    pass


class ZoomApiError(Exception):
    pass


class UnknownUser(Exception):
    pass


class MyRetriesExhausted(Exception):
    pass


class GivesUp(flyte.errors.NonRecoverableError):
    pass


class Bad(NamedTuple):
    """How to raise it, and what is to arrive; the cause is a class's name, ``code`` that of the error."""

    act: Callable[[], Any]
    code: str
    message: str
    cause: str | None = None
    arrives: str = "RuntimeUserError"


BAD: dict[str, Bad] = {}


def bad(
    code: str, message: str, *, cause: str | None = None, arrives: str = "RuntimeUserError"
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Note a function that raises, and what is to arrive."""

    def note(act: Callable[[], Any]) -> Callable[[], Any]:
        BAD[act.__name__] = Bad(act, code, message, cause or code, arrives)
        return act

    return note


@bad("StrRaises", "<the message could not be read: RuntimeError in __str__>")
def text_that_raises() -> None:
    raise StrRaises("a")


@bad("StrExits", "<the message could not be read: SystemExit in __str__>")
def text_that_exits() -> None:
    raise StrExits("a")


@bad("OOMKilled", "a", cause="WorkerTraceback", arrives="OOMError")
def text_of_a_flyte_error_that_raises() -> None:
    raise FlyteStrRaises("OOMKilled", "a")


@bad("ReprRaises", "a")
def repr_that_raises() -> None:
    raise ReprRaises("a")


@bad("StrIsNoText", "<the message could not be read: TypeError in __str__>")
def text_that_is_none() -> None:
    raise StrIsNoText("a")


@bad("ValueError", "xxxx")
def a_message_of_50_mib() -> None:
    raise ValueError("x" * HUGE)


@bad("CustomCode", "xxxx", cause="CustomError")
def a_flyte_message_of_50_mib() -> None:
    raise flyte.errors.CustomError("CustomCode", "x" * HUGE)


@bad("OOMKilled", "xxxx", cause="WorkerTraceback", arrives="OOMError")
def an_oom_error_by_hand_of_50_mib() -> None:
    raise flyte.errors.OOMError("OOMKilled", "x" * HUGE)


@bad("ValueError", r"half a letter: \ud800 and \udfff")
def lone_surrogates() -> None:
    raise ValueError(SURROGATES)


@bad("OOMKilled", r"half a letter: \ud800 and \udfff", cause="WorkerTraceback", arrives="OOMError")
def lone_surrogates_in_a_flyte_error() -> None:
    raise flyte.errors.OOMError("OOMKilled", SURROGATES)


@bad("ValueError", HTML)
def markup() -> None:
    raise ValueError(HTML)


@bad("ValueError", "nul \0 and bell \a")
def control_characters() -> None:
    raise ValueError("nul \0 and bell \a")


@bad("Locked", "holds a lock")
def that_cannot_be_pickled() -> None:
    raise Locked("holds a lock")


@bad("NeedsTwo", "one and two")
def that_cannot_be_unpickled() -> None:
    raise NeedsTwo("one", "two")


@bad("Local", "made here")
def of_a_class_made_in_the_task() -> None:
    class Local(Exception):
        pass

    raise Local("made here")


@bad("Ends", "no exception at all")
def no_exception_but_a_base_exception() -> None:
    raise Ends("no exception at all")


@bad("Frozen", "3")
def a_frozen_dataclass() -> None:
    raise Frozen(3)


@bad("ReadOnly", "a")
def attributes_that_cannot_be_set() -> None:
    raise ReadOnly("a")


@bad("ReduceRaises", "a")
def reduce_that_raises() -> None:
    raise ReduceRaises("a")


@bad("LoadRaises", "a")
def load_that_raises() -> None:
    raise LoadRaises("a")


@bad("LoadExits", "a")
def load_that_exits() -> None:
    raise LoadExits("a")


@bad("LoadInterrupts", "a")
def load_that_interrupts() -> None:
    raise LoadInterrupts("a")


@bad("LoadEndsTheProcess", "a")
def load_that_ends_the_process() -> None:
    raise LoadEndsTheProcess("a")


@bad("LoadIsSomethingElse", "a")
def load_that_is_something_else() -> None:
    raise LoadIsSomethingElse("a")


@bad("ExceptionGroup", "two at once (2 sub-exceptions)")
def a_group() -> None:
    raise ExceptionGroup("two at once", [ValueError("a"), KeyError("b")])


@bad("ExceptionGroup", "unhandled errors in a TaskGroup (1 sub-exception)")
async def a_task_group() -> None:
    async def fail() -> None:
        raise ValueError("inside the group")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


@bad("ValueError", "in a thread")
def from_a_thread() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            raise ValueError("in a thread")  # noqa: TRY301 - raised where it is caught, in the thread
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise caught[0]


@bad("ValueError", "in a thread of asyncio")
async def from_to_thread() -> None:
    def work() -> None:
        raise ValueError("in a thread of asyncio")

    await asyncio.to_thread(work)


@bad("KeyError", "'the second'")
def with_a_cause() -> None:
    try:
        raise ValueError("the first")  # noqa: TRY301 - the cause of the next
    except ValueError as error:
        raise KeyError("the second") from error


@bad("RecursionError", "maximum recursion depth exceeded")
def without_end() -> None:
    without_end()


@bad("KeyboardInterrupt", "by hand")
def an_interrupt_by_hand() -> None:
    raise KeyboardInterrupt("by hand")


@bad("SystemExit", "sys.exit() was called in the task, with status 3")
def an_exit() -> None:
    sys.exit(3)


@bad("GeneratorExit", "by hand")
def a_generator_exit() -> None:
    raise GeneratorExit("by hand")


@bad("StopIteration", "by hand")
def a_stop_iteration() -> None:
    raise StopIteration("by hand")


@bad("RuntimeError", "coroutine raised StopIteration")
async def a_stop_iteration_in_a_coroutine() -> None:
    next(iter(()))


@bad("StopAsyncIteration", "by hand")
async def a_stop_async_iteration() -> None:
    raise StopAsyncIteration("by hand")


@bad("CancelledError", "by hand")
async def a_cancelled_error() -> None:
    raise asyncio.CancelledError("by hand")


@bad("UserWarning", "taken seriously")
def a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("taken seriously", stacklevel=1)


@bad("RoomNotFound", "no room")
def a_room() -> None:
    raise RoomNotFound("no room")


@bad("ZoomApiError", "no call")
def a_zoom() -> None:
    raise ZoomApiError("no call")


@bad("UnknownUser", "who?")
def an_unknown_user() -> None:
    raise UnknownUser("who?")


@bad("MyRetriesExhausted", "tired")
def exhausted_by_name() -> None:
    raise MyRetriesExhausted("tired")


@bad("InterruptedError", "a system call")
def an_interrupted_error() -> None:
    raise InterruptedError("a system call")


@bad("OOMKilled", "by hand", cause="WorkerTraceback", arrives="OOMError")
def an_oom_error_by_hand() -> None:
    raise flyte.errors.OOMError("OOMKilled", "by hand")


@bad("NonRecoverableError", "by hand", cause="WorkerTraceback", arrives="GivesUp")
def a_subclass_of_non_recoverable() -> None:
    raise GivesUp("by hand")


@bad("TableEmpty", "by hand", cause="CustomError")
def a_custom_error() -> None:
    raise flyte.errors.CustomError("TableEmpty", "by hand")


@bad("TaskTimeoutError", "by hand", cause="WorkerTraceback", arrives="TaskTimeoutError")
def a_timeout_by_hand() -> None:
    raise flyte.errors.TaskTimeoutError("by hand")


@bad("TypeError", "missing 1 required positional argument: 'message'")
def the_classic_mistake() -> None:
    raise flyte.errors.OOMError("no memory")  # type: ignore[call-arg]  # that is the mistake


@bad("MemoryError", "")
def more_than_any_machine() -> int:
    return len(bytearray(1 << 60))


@env.task
def raises(case: str) -> None:
    BAD[case].act()


@env.task
async def raises_in_a_coroutine(case: str) -> None:
    await BAD[case].act()


@env.task
async def callbacks_fail() -> str:
    def work() -> None:
        raise ValueError("nobody hears")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    asyncio.get_running_loop().call_soon(work)
    task = asyncio.ensure_future(asyncio.sleep(0))
    task.add_done_callback(lambda _: work())
    await task
    await asyncio.sleep(0)
    return "went on"


def error_of(task: Any, *args: Any) -> Any:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller looks at it
        flyte.run(task, *args)
    return caught.value


@pytest.mark.parametrize("case", BAD)
def test_it_arrives_with_what_can_be_saved(case: str) -> None:
    """Class, code, message and cause are right, the user's line is named, nothing takes long; the session goes on."""
    expected = BAD[case]
    began_s = time.monotonic()
    error = error_of(raises_in_a_coroutine if inspect.iscoroutinefunction(expected.act) else raises, case)
    took_s = time.monotonic() - began_s
    assert (expected.arrives, expected.code, "user") == (type(error).__name__, error.code, error.kind)
    assert expected.message in str(error)
    assert len(str(error)) <= MAX_TEXT_CHARS + 100
    assert expected.cause == type(error.__cause__).__name__
    assert isinstance(str(error.__cause__), str)
    failure = error.failure
    assert error is failure.error
    assert "raised" == failure.reason
    assert error.worker == failure.worker
    assert failure.worker.endswith("-a0-0")
    shown = "".join(traceback.format_exception(error))
    assert f"in {expected.act.__name__}\n" in shown
    if expected.message != "coroutine raised StopIteration":  # Python raises that one at the coroutine's caller
        assert expected.act.__name__ in {line.function for line in failure.lines}
    json.loads(failure.to_json())
    json.dumps(failure.to_dict(), ensure_ascii=False).encode("utf-8")  # else no frontend can be told
    assert under_load(QUICK_S) > took_s


def test_what_nobody_hears_does_not_end_the_task() -> None:
    """An exception in a thread or a callback that nobody waits for is printed, and the task goes on."""
    assert "went on" == flyte.run(callbacks_fail).outputs()[0]
