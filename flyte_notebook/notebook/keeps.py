"""``%flyte save`` and ``%flyte saved``: the last run into a file, and what such a file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from flyte_notebook.storage import StoreError, load, save
from flyte_notebook.views.history.saved import SavedRuns

if TYPE_CHECKING:
    from flyte_notebook.history import History


def save_last(path: str, history: History) -> str:
    """Save the run that began last, and return in words where it is. Raises UsageError."""
    run = history.last_run
    if run is None:
        raise UsageError("%flyte save: nothing has run yet; run a %%flyte_task cell or flyte.run(task) first")
    try:
        place = save(run, _path(path))
    except StoreError as error:
        raise UsageError(f"%flyte save: {error}") from None
    return f"{run.name} is saved in {place}"


def saved(path: str) -> SavedRuns:
    """Return the runs that a file holds. Raises UsageError."""
    try:
        return SavedRuns(load(_path(path)))
    except StoreError as error:
        raise UsageError(f"%flyte saved: {error}") from None


def _path(line: str) -> str | None:
    """Return the path that was written, as it is or in quotation marks; ``None`` without one."""
    quoted = len(line) > 1 and line[0] == line[-1] and line[0] in "\"'"
    return (line[1:-1] if quoted else line) or None
