"""Changes the call ``task(...)`` outside of a run and in the body of a cell; part of the SDK connection (`seam`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyte import _context
from flyte.extend import TaskTemplate

from flyte_notebook.sdk.seam import is_sync, replaced

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


def replace_call(outside: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Callable[[], None]:
    """Let ``task(...)`` outside of any run call ``outside(task, args, kwargs)``; return a function to undo this.

    Without it the SDK runs such a call as a plain function in the kernel, under no limit.
    """
    template: Any = TaskTemplate
    before = template.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _context.internal_ctx().is_task_context():
            return before(self, *args, **kwargs)
        return outside(self, args, kwargs)

    return replaced(template, __call__=call)


def replace_sync_calls(around: Callable[[], AbstractContextManager[None]]) -> Callable[[], None]:
    """Make blocking calls of tasks inside of ``around()``; return a function to undo this.

    The SDK refuses such calls where a loop is running.
    """
    template: Any = TaskTemplate
    before = template.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_sync(self):
            return before(self, *args, **kwargs)
        with around():
            return before(self, *args, **kwargs)

    return replaced(template, __call__=call)
