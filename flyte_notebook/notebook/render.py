"""A failure as IPython shows it: the bundle above, and the few lines of traceback below."""

from __future__ import annotations

import traceback
from typing import Any

from flyte_notebook.errors import ActionNotFoundError, BaseRuntimeError
from flyte_notebook.limits import Limits
from flyte_notebook.outcome import Failure, WorkerReport
from flyte_notebook.views import bundle, text
from flyte_notebook.worker.raised import describe


def render(error: BaseException) -> tuple[dict[str, Any], list[str]] | None:
    """Return what to show for an error that left a cell; ``None`` for one that is not ours to show.

    An interrupt of a run arrives as a KeyboardInterrupt whose cause is the error of the run.
    """
    if isinstance(error, KeyboardInterrupt):
        if error.__cause__ is None:
            return None
        return {}, [f"KeyboardInterrupt: {error.__cause__}"]
    if getattr(error, "of_flyte_cell", False):
        return {}, _as_in_a_plain_cell(error)
    failure = getattr(error, "failure", None)
    if not isinstance(failure, Failure):
        if not isinstance(error, (BaseRuntimeError, ActionNotFoundError)):
            return None
        failure = _of_this_process(error)
    return bundle.failure_bundle(failure), text.short_traceback(failure)


def _of_this_process(error: BaseException) -> Failure:
    """Return the failure that an error of the SDK stands for when no task of ours raised it."""
    raised = describe(error)
    said = raised.message.strip().splitlines() or [raised.type_name]
    return Failure(
        error=error,
        kind=str(getattr(error, "kind", "user")),
        code=str(getattr(error, "code", raised.type_name)),
        worker=str(getattr(error, "worker", None) or "none: it was raised in the notebook itself"),
        message=raised.message,
        reason="raised",
        headline=f"{said[0][:200]} (raised in the notebook itself)",
        task_name="this cell",
        attempt=0,
        max_attempts=1,
        limits=Limits(),
        report=WorkerReport(raised=raised),
        line=raised.lines[-1] if raised.lines else None,
        lines=raised.lines,
        traceback=raised.traceback,
    )


def _as_in_a_plain_cell(error: BaseException) -> list[str]:
    """Return the lines of an error in a cell's text: what a plain cell shows, none of our frames."""
    name = "NameError" if isinstance(error, NameError) else type(error).__name__
    if not isinstance(error, SyntaxError):
        return [f"{name}: {error}"]
    lines = traceback.format_exception_only(type(error), error)
    return "".join(lines).replace('  File "', "  ", 1).replace('", line', ", line", 1).rstrip().split("\n")


class Text(str):
    """A text that a notebook shows as it is, without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
