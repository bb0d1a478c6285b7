"""What code inside a worker may tell the outside: how far it is, and what to display.

Outside of a worker every function here does nothing, so that the same code runs in both places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.outcome import Stage

_tell: Callable[[dict[str, Any]], None] | None = None
_at_end: Callable[[], object] | None = None


def connect(tell: Callable[[dict[str, Any]], None]) -> None:
    """Set the function that carries messages to the kernel; called once by the worker."""
    global _tell  # noqa: PLW0603 - one worker process, one channel
    _tell = tell


def at_end(call: Callable[[], object]) -> None:
    """Set what is called when the body of the job has ended; called once by the worker. It must not raise."""
    global _at_end  # noqa: PLW0603 - one worker process, one job
    _at_end = call


def body_ended() -> None:
    """Say that the user's code is over, before its values are pickled, or after: only the first time counts."""
    global _at_end
    call, _at_end = _at_end, None
    if call is not None:
        call()


def in_worker() -> bool:
    """Whether this process is a worker."""
    return _tell is not None


def stage(name: Stage, detail: str | None = None) -> None:
    """Say how far the attempt is; ``detail`` names the output while ``returning``."""
    if _tell is not None:
        _tell({"kind": "stage", "stage": name, "detail": detail})


def publish(message: dict[str, Any]) -> None:
    """Show something rich in the cell.

    ``message`` is ``{"data": mimebundle, "metadata": {}, "transient": {}, "update": bool}`` or ``{"clear": wait}``;
    plain JSON-like values only.
    """
    if _tell is not None:
        _tell({"kind": "display", "message": message})
