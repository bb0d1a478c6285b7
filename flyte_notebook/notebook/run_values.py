"""Shows the value of ``flyte.run`` as one line: the SDK's object has no facts about a local run.

The SDK's class `Run` tells where a run is by its ``url``; that of a local run ends with the name of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.views.history.run_list import run_line

if TYPE_CHECKING:
    from flyte_notebook.history import History

MODULE: Final = "flyte.remote._run"
CLASS: Final = "Run"
"""The class of what ``flyte.run`` returns; its module is loaded by the first run only."""


def install(shell: Any, history: History) -> Callable[[], None]:
    """Show local runs in a shell as one line each, all others as before; return a function to undo this."""
    formatter = shell.display_formatter.formatters["text/plain"]

    def show(value: Any, printer: Any, cycle: bool) -> None:  # noqa: ARG001, FBT001 - IPython calls it so
        printer.text(line_of(value, history) or _safe_repr(value))

    formatter.for_type_by_name(MODULE, CLASS, show)
    return lambda: formatter.pop(f"{MODULE}.{CLASS}", None)


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - that of a dry run, which has no run behind it, asks a cluster
        return f"<{type(value).__name__} without a run on a cluster: {type(error).__name__}>"


def line_of(value: Any, history: History) -> str:
    """Return the line for the value of a local run that has ended; empty for any other run. Never raises."""
    try:
        run = history.find(str(value.url).rpartition("/")[2])
        return "" if run is None or not run.actions else run_line(run, tuple(value.outputs()))
    except Exception:  # noqa: BLE001 - another version of the SDK, or a value without a repr
        return ""
