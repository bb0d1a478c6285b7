"""What code inside a worker may tell the outside: how far it is, what to display, and what does not work here.

Outside of a worker every function here does nothing, so that the same code runs in both places.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.reliance import lost_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.endings import Step
    from flyte_notebook.core.outcome import Stage
    from flyte_notebook.core.reliance import Reliance
    from flyte_notebook.worker.process.last_words import LastWords

_tell: Callable[[dict[str, Any]], None] | None = None
_at_end: Callable[[], object] | None = None
_pid: int | None = None
_words: LastWords | None = None

formats = b""
"""How the notebook's shell shows values, as `flyte_notebook.cells.formats` reads it; empty for what is usual."""

directory = ""
"""The directory of the session, which nobody else may enter; empty outside of a worker."""


def connect(tell: Callable[[dict[str, Any]], None], place: str, words: LastWords | None = None) -> None:
    """Set what carries messages to the kernel, and the session's directory; called once by the worker."""
    global _tell, _pid, _words, directory
    _tell, _pid, _words, directory = tell, os.getpid(), words, place


def disconnect() -> None:
    """Send nothing any more: this process was forked by a worker, and is none."""
    global _tell, _words  # noqa: PLW0603 - as above
    _tell = _words = None


def forked() -> bool:
    """Whether this process was forked by a worker."""
    return _pid not in {None, os.getpid()}


def at_end(call: Callable[[], object]) -> None:
    """Set what is called when the body of the job has ended; called once by the worker. It must not raise."""
    global _at_end  # noqa: PLW0603 - one worker process, one job
    _at_end = call


def step(name: Step) -> None:
    """Say what the worker does now that the user's code is over; takes no memory."""
    if _words is not None:
        _words.step(name)


def at_step() -> Step | None:
    """Return what the worker has said that it does; ``None`` while the user's code is not over, and outside."""
    return None if _words is None else _words.at


def body_raised() -> None:
    """Say that the user's code is over by an error of its own."""
    if at_step() is None:
        step("describing")


def fail() -> None:
    """End this worker: it can do no more, and says at what it failed. Returns where it is none."""
    if _words is not None:
        _words.fail()


def body_ended() -> None:
    """Say that the user's code is over, before its values are pickled, or after: only the first time counts."""
    global _at_end
    if at_step() is None:
        step("handing over")
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

    ``message`` is ``{"data": mimebundle, "metadata": {}, "transient": {}, "update": bool}`` ``{"clear": wait}``,
    or ``{"comm": {"id": ..., "kind": ..., "state": {}}}`` of a widget; plain JSON-like values only.
    """
    if _tell is not None:
        _tell({"kind": "display", "message": message})


def lose(entry: Reliance, why: BaseException | str) -> None:
    """Say that something that is relied on turned out not to be there."""
    if _tell is not None:
        _tell({"kind": "lost", "loss": asdict(lost_by(entry, why))})
