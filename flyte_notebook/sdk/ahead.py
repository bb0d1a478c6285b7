"""The engine, begun before the SDK is imported: its supervisor starts meanwhile, and neither waits for the other.

What is imported here loads nothing of the SDK beyond ``import flyte``.
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
"""What every job needs, and so is imported before workers are forked: the SDK, and nothing of the user's."""

_begun: Engine | None = None


def begin() -> None:
    """Begin to start an engine, for the session that opens next; returns at once. Who calls this calls `end_unused`."""
    global _begun  # noqa: PLW0603 - there is one session in a process, and so one that opens next
    if _begun is None:
        _begun = Engine(history=History(), canary=CANARY, rehearsal=REHEARSAL, prefork=PREFORK)
        _begun.begin()


def engine(history: History, max_processes: int = MAX_PROCESSES) -> Engine:
    """Return the engine that was begun, else a new one."""
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
