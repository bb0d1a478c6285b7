"""Where output goes without a notebook: the process's own streams."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyte_notebook.engine.output_pump import StreamName


class StandardSink:
    """Writes a task's output to ``sys.stdout`` and ``sys.stderr``; of rich output it shows the text.

    Whatever stands there may be closed, nothing at all, or an object of the user's: the run goes on all the same.
    """

    def write(self, stream: StreamName, text: str) -> None:
        """Write text to the stream of that name."""
        target = sys.stdout if stream == "stdout" else sys.stderr
        with contextlib.suppress(Exception):
            try:
                target.write(text)
            except UnicodeEncodeError as error:  # a terminal of another encoding
                target.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))

    def display(self, message: dict[str, Any]) -> None:
        """Write the plain text of something rich."""
        text = (message.get("data") or {}).get("text/plain")
        if text:
            self.write("stdout", f"{text}\n")

    def flush(self) -> None:
        """Flush both streams."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


class Nowhere:
    """The sink of what prints nothing that anybody wants to see: the canary, and a run that only repeats another."""

    def write(self, stream: StreamName, text: str) -> None:
        """Forget the text."""

    def display(self, message: dict[str, Any]) -> None:
        """Forget the message."""

    def flush(self) -> None:
        """Do nothing."""
