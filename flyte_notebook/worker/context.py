"""What code inside a worker may tell the outside: how far it is, and what to display.

Outside of a worker every function here does nothing, so that the same code runs in both places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.outcome import Stage

_tell: Callable[[dict[str, Any]], None] | None = None


def connect(tell: Callable[[dict[str, Any]], None]) -> None:
    """Set the function that carries messages to the kernel; called once by the worker."""
    global _tell  # noqa: PLW0603 - one worker process, one channel
    _tell = tell


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
