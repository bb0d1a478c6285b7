"""The failure for an error that no attempt of a task has raised.

Either its task never started (a bad quantity, wrong inputs, code that cannot be pickled), or it was raised in the
notebook itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyte_notebook.core.diagnosis import one_line
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Failure, WorkerReport
from flyte_notebook.core.private import fault_in
from flyte_notebook.errors import ROOTS, RuntimeSystemError
from flyte_notebook.sdk import control_plane
from flyte_notebook.worker.process.raised import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.outcome import SourceLine

NOT_STARTED = "it did not start"
IN_THE_NOTEBOOK = "raised in the notebook itself"
THIS_CELL = "this cell"

_NOBODY = frozenset({None, "", "user", "UNKNOWN"})  # values that the SDK writes in place of a worker's name


class RefusedRunError(ValueError):
    """A run on a cluster did not begin, as it would fail there or was refused; the text says why and what to do."""


class UnreadableOutputsError(RuntimeError):
    """A run on a cluster has passed, and its outputs cannot be read from here; the text says why and what to do."""


def failure_outside(
    error: BaseException, task_name: str, why: str, *, wanted: Callable[[SourceLine], bool] = bool
) -> Failure:
    """Return the failure of an error without an attempt; ``why`` is the reason in a few words.

    ``wanted`` chooses among the user's lines. An error of a control plane names its endpoint.
    """
    raised = describe(error)
    lines = tuple(line for line in raised.lines if wanted(line))
    worker = getattr(error, "worker", None)
    rpc_code = control_plane.rpc_code(error)
    place = "; ".join(filter(None, (why, control_plane.endpoint_words(error))))
    return Failure(
        error=error,
        kind=str(getattr(error, "kind", "user" if rpc_code is None else "system")),
        code=rpc_code or str(getattr(error, "code", raised.type_name)),
        worker=f"none: {why}" if worker in _NOBODY else str(worker),
        message=raised.message,
        reason="raised",
        headline=f"{one_line(raised.message, 200) or raised.type_name} ({place})",
        task_name=task_name,
        attempt=0,
        max_attempts=1,
        limits=Limits(),
        report=WorkerReport(raised=raised),
        line=lines[-1] if lines else None,
        lines=lines,
        traceback=raised.traceback,
    )


class _OfTheNotebook:
    """The attribute ``error.failure`` of errors without an attempt; errors with their own attribute do not use it."""

    def __get__(self, error: BaseException | None, owner: type | None = None) -> Any:
        if error is None:
            return self
        return failure_outside(error, THIS_CELL, IN_THE_NOTEBOOK)


def give_all_failures() -> Callable[[], None]:
    """Give every error of Flyte a ``failure``, also those not raised by a task; return a function to undo this."""
    classes: list[Any] = [root for root in ROOTS if "failure" not in vars(root)]
    for root in classes:
        root.failure = _OfTheNotebook()

    def undo() -> None:
        for root in classes:
            del root.failure

    return undo


def with_failure(error: Any, task_name: str) -> Any:
    """Give the error of a task that never started its failure, as ``error.failure``, and return it."""
    error.failure = failure_outside(error, task_name, NOT_STARTED)
    return error


def unusable(error: OSError, task_name: str) -> Exception:
    """Return the error of a task that cannot start because of a file of ours; any other error is returned unchanged."""
    fault = fault_in(error)
    return error if fault is None else not_run(fault, task_name)


def not_run(why: OSError, task_name: str) -> Exception:
    """Return the error of a task that cannot start because of a failure on our side."""
    found: Exception = with_failure(RuntimeSystemError("Interrupted", f"no worker could be run: {why}"), task_name)
    return found
