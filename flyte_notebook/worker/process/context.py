"""Messages that code inside a worker may send: its progress, output to display, features that do not work here.

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
"""How the notebook's shell formats values, as `flyte_notebook.cells.formats` reads it; empty for the defaults."""

directory = ""
"""The directory of the session, which other users may not enter; empty outside of a worker."""


def connect(tell: Callable[[dict[str, Any]], None], place: str, words: LastWords | None = None) -> None:
    """Set the function that sends messages to the kernel, and the session's directory; called once by the worker."""
    global _tell, _pid, _words, directory
    _tell, _pid, _words, directory = tell, os.getpid(), words, place


def disconnect() -> None:
    """Stop sending: this process was forked by a worker, and is not a worker."""
    global _tell, _words  # noqa: PLW0603 - as above
    _tell = _words = None


def forked() -> bool:
    """Whether this process was forked by a worker."""
    return _pid not in {None, os.getpid()}


def at_end(call: Callable[[], object]) -> None:
    """Set the function to call when the body of the job has ended; called once by the worker. It must not raise."""
    global _at_end  # noqa: PLW0603 - one worker process, one job
    _at_end = call


def step(name: Step) -> None:
    """Report the worker's step after the end of the user's code; allocates no memory."""
    if _words is not None:
        _words.step(name)


def at_step() -> Step | None:
    """Return the reported step; ``None`` before the end of the user's code, and outside of a worker."""
    return None if _words is None else _words.at


def body_raised() -> None:
    """Report that the user's code ended with an error of its own."""
    if at_step() is None:
        step("describing")


def fail() -> None:
    """Report the failed step and end this worker, which cannot go on. Returns if this is not a worker."""
    if _words is not None:
        _words.fail()


def body_ended() -> None:
    """Report the end of the user's code, before or after its values are pickled: only the first call counts."""
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
    """Report the stage of the attempt; ``detail`` names the output while ``returning``."""
    if _tell is not None:
        _tell({"kind": "stage", "stage": name, "detail": detail})


def publish(message: dict[str, Any]) -> None:
    """Show rich output in the cell.

    ``message`` is ``{"data": mimebundle, "metadata": {}, "transient": {}, "update": bool}`` ``{"clear": wait}``,
    or ``{"comm": {"id": ..., "kind": ..., "state": {}}}`` of a widget; plain JSON-like values only.
    """
    if _tell is not None:
        _tell({"kind": "display", "message": message})


def lose(entry: Reliance, why: BaseException | str) -> None:
    """Report that a behaviour that is relied on is missing."""
    if _tell is not None:
        _tell({"kind": "lost", "loss": asdict(lost_by(entry, why))})
