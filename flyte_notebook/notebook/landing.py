"""Assigns the results of a cell in the notebook: the only place where outputs are bound to its names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyte_notebook.cells.returned import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flyte_notebook.cells.returned import ReturnedValues


def land(  # noqa: PLR0913 - the differences between a cell and its rerun, each by name
    values: ReturnedValues,
    namespace: dict[str, Any],
    show: Callable[[dict[str, Any]], object],
    *,
    notes: Sequence[str] = (),
    note_setting: Callable[[str], object] = lambda _: None,
    silent: bool,
) -> None:
    """Bind outputs to names, show the notes, and show the last value as the task showed it.

    ``show`` takes a MIME bundle. ``notes`` come first; ``note_setting`` is called with each setting that the cell
    changed in the task only. ``silent``: the last value is not shown. On the main thread.
    """
    for note in (*notes, *bind(values, namespace)):
        show({"text/plain": f"[flyte_notebook: {note}]"})
    for setting in values.outcome.settings:
        note_setting(setting)
    if values.outcome.shown is not None and not silent:
        show(dict(values.outcome.shown))
