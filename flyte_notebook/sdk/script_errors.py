"""Shows the notes of an error that ends a script: the SDK sets a hook for such errors that leaves notes out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flyte_notebook.core.outcome import NOTE_MARK
from flyte_notebook.core.stand_in import attribute


def install() -> None:
    """Have our notes printed after an uncaught error, until the process ends: ``enable`` may have been left by then."""
    if sys.excepthook is not sys.__excepthook__ and not isinstance(sys.excepthook, _WithNotes):
        sys.excepthook = _WithNotes(sys.excepthook)


class _WithNotes:
    """Calls a hook for uncaught errors, then prints our notes; Python's own hook prints them itself."""

    def __init__(self, before: Callable[..., Any]) -> None:
        self._before = before

    def __call__(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        self._before(kind, error, trace)
        notes = attribute(error, "__notes__", ())
        for note in notes if isinstance(notes, list) else ():
            if isinstance(note, str) and note.startswith(NOTE_MARK):
                sys.stderr.write(f"{note}\n")
