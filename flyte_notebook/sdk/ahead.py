"""Starts the engine before the SDK is imported, so that the supervisor starts during the import.

The imports of this module load nothing of the SDK beyond ``import flyte``.
"""

from __future__ import annotations

from flyte_notebook.engine import Engine
from flyte_notebook.engine.link import Prefork
from flyte_notebook.engine.scheduler import MAX_PROCESSES
from flyte_notebook.history import History

CANARY = "flyte_notebook.sdk.inside:canary"
REHEARSAL = "flyte_notebook.sdk.relies:try_out"
PREFORK = Prefork(
    modules=("flyte_notebook.sdk.inside", "flyte_notebook.cells.shell_in_worker"),
    if_installed=("flyte._utils.asyncify", "rich.console", "rich.logging", "rich.jupyter", "rich.pager", "getpass"),
    before_fork=("flyte_notebook.sdk.seam:look_for_plugins", "flyte_notebook.sdk.background_loop:stop_background_loop"),
    after_fork=("flyte_notebook.sdk.background_loop:start_background_loop",),
)
"""Modules that every job needs and that are imported before workers are forked: the SDK, and no user code."""

_begun: Engine | None = None


def begin() -> None:
    """Begin to start an engine for the next session; returns at once. The caller must also call `end_unused`."""
    global _begun  # noqa: PLW0603 - there is one session in a process, and so one that opens next
    if _begun is None:
        _begun = Engine(history=History(), canary=CANARY, rehearsal=REHEARSAL, prefork=PREFORK)
        _begun.begin()


def engine(history: History, max_processes: int = MAX_PROCESSES) -> Engine:
    """Return the engine that was begun, or a new one."""
    global _begun  # noqa: PLW0603 - as above
    found, _begun = _begun, None
    if found is None or max_processes != found.max_processes:
        _begun = found
        return Engine(history=history, canary=CANARY, rehearsal=REHEARSAL, max_processes=max_processes, prefork=PREFORK)
    found.history = history
    return found


def end_unused() -> None:
    """Close the engine that was begun, if no session took it."""
    global _begun
    found, _begun = _begun, None
    if found is not None:
        found.close()
