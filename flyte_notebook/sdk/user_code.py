"""The user's code of a task, run by the SDK: its current line, and its exception."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

from flyte_notebook.worker.process import child, context
from flyte_notebook.worker.stacks import layout


def watched(task: Any) -> tuple[Any, list[BaseException]]:
    """Return the task to run, and a list whose first item will be the exception of user code.

    The SDK keeps only code and message of it. The task is a copy: user code may call the task, which pickles it.
    """
    raised: list[BaseException] = []
    task = copy.copy(task)
    execute_task = task.execute
    function: Any = getattr(task, "func", None)

    async def executed(*args: Any, **kwargs: Any) -> Any:
        context.stage("running")
        try:
            coroutine = execute_task(*args, **kwargs)
            layout.runs(coroutine)
            result = await coroutine
            child.end_if_forked()
        except BaseException as error:
            child.end_if_forked(error)
            context.body_raised()
            raised.append(_as_raised(error))
            raise
        finally:
            layout.runs(None)
        context.step("handing over")
        context.stage("returning")
        return result

    def carried(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
            child.end_if_forked()
            context.step("handing over")
        except (StopIteration, GeneratorExit) as error:
            child.end_if_forked(error)
            context.body_raised()
            # Raised in the SDK's thread, one would let a future wait for ever, and the other would lose its details.
            raised.append(error)
            raise RuntimeError(type(error).__name__) from error
        except BaseException as error:
            child.end_if_forked(error)
            context.body_raised()
            raise
        return result

    task.execute = executed
    if inspect.isfunction(function) and not inspect.iscoroutinefunction(function):
        task.func = functools.wraps(function)(carried)
    return task, raised


def _as_raised(error: BaseException) -> BaseException:
    """Return the exception of user code: a StopIteration cannot leave a coroutine and arrives as a cause."""
    cause = error.__cause__
    return cause if isinstance(cause, StopIteration) and getattr(error, "code", None) == "StopIteration" else error
