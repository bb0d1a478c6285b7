"""Turns any exception that user code raises inside the SDK into an ordinary error of that call.

Values are pickled and loaded on the SDK's loops, and their classes may raise any exception there. An exit or an
interrupt would end the loop with its thread, and each later run would wait for ever. If several conversions run side by
side, the SDK would even use it as the value, since there only an ``Exception`` counts as an error.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from flyte.types import TypeEngine

from flyte_notebook.core.stand_in import attach
from flyte_notebook.errors import RuntimeUserError
from flyte_notebook.sdk import seam
from flyte_notebook.sdk.failures_without_attempt import failure_outside
from flyte_notebook.worker.values.ordinary import words_of

IN_ITS_SUBMISSION = "raised by code that the SDK calls for a task, outside of it"
CONVERSIONS = ("to_literal", "to_python_value")


async def submitted(task: Any, submission: Awaitable[Any]) -> Any:
    """Await the run of a task. Raises RuntimeUserError in place of a BaseException."""
    mine = asyncio.current_task()
    try:
        return await submission
    except Exception:
        raise
    except BaseException as error:
        if _ends(mine, error):
            raise
        wrong = RuntimeUserError(type(error).__name__, words_of(error))
        wrong.__cause__ = error
        attach(wrong, "failure", failure_outside(wrong, str(getattr(task, "name", "")), IN_ITS_SUBMISSION))
        raise wrong from error


_Convert = Callable[..., Awaitable[Any]]


def guard_conversions(guard: Callable[[_Convert], _Convert] | None = None) -> Callable[[], None]:
    """Let conversions of values raise errors only, or wrap each in a ``guard``; return a function to undo this."""
    guard = guard or _guarded
    before = vars(TypeEngine)
    return seam.replaced(TypeEngine, **{name: classmethod(guard(before[name].__func__)) for name in CONVERSIONS})


def _guarded(convert: _Convert) -> _Convert:
    @functools.wraps(convert)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        mine = asyncio.current_task()
        try:
            return await convert(*args, **kwargs)
        except Exception:
            raise
        except BaseException as error:
            if _ends(mine, error):
                raise
            raise ValueError(words_of(error)) from error

    return guarded


def _ends(task: asyncio.Task[Any] | None, error: BaseException) -> bool:
    """Whether an exception only ends a coroutine: it was cancelled or closed; user code did not raise it."""
    if isinstance(error, asyncio.CancelledError):
        return task is None or task.cancelling() > 0
    try:
        return isinstance(error, GeneratorExit) and asyncio.current_task() is not task
    except RuntimeError:  # no loop runs: the coroutine is being closed
        return True
