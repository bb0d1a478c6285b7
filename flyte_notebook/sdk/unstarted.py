"""The failure of a task that never started: a bad quantity, inputs that do not fit, code that cannot travel."""

from __future__ import annotations

from typing import Any

from flyte_notebook.limits import Limits
from flyte_notebook.outcome import Failure, WorkerReport
from flyte_notebook.worker.raised import describe

WHY = "it did not start"


def with_failure(error: Any, task_name: str) -> Any:
    """Give an error the failure that it stands for, as ``error.failure``, and return it."""
    raised = describe(error)
    said = raised.message.strip().splitlines() or [raised.type_name]
    error.failure = Failure(
        error=error,
        kind=str(getattr(error, "kind", "user")),
        code=str(getattr(error, "code", raised.type_name)),
        worker=f"none: {WHY}",
        message=raised.message,
        reason="raised",
        headline=f"{said[0][:200]} ({WHY})",
        task_name=task_name,
        attempt=0,
        max_attempts=1,
        limits=Limits(),
        report=WorkerReport(raised=raised),
        line=raised.lines[-1] if raised.lines else None,
        lines=raised.lines,
        traceback=raised.traceback,
    )
    return error
