"""What ``task(...)`` does, outside of a run and in the body of a cell: part of where the SDK is met (`seam`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyte import _context
from flyte.extend import TaskTemplate

from flyte_notebook.sdk.seam import is_sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


def replace_call(outside: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Callable[[], None]:
    """Let ``task(...)`` outside of any run go through ``outside(task, args, kwargs)``; return what undoes it.

    Without it the SDK runs such a call as a plain function in the kernel, under no limit.
    """
    template: Any = TaskTemplate
    before = template.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _context.internal_ctx().is_task_context():
            return before(self, *args, **kwargs)
        return outside(self, args, kwargs)

    template.__call__ = call

    def undo() -> None:
        template.__call__ = before

    return undo


def replace_sync_calls(around: Callable[[], AbstractContextManager[None]]) -> Callable[[], None]:
    """Make calls of tasks that block inside of ``around()``; return what undoes it.

    The SDK refuses them where a loop is running.
    """
    template: Any = TaskTemplate
    before = template.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_sync(self):
            return before(self, *args, **kwargs)
        with around():
            return before(self, *args, **kwargs)

    template.__call__ = call

    def undo() -> None:
        template.__call__ = before

    return undo
