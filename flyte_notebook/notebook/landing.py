"""Assigns the results of a cell in the notebook: the only place where outputs are bound to its names."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from flyte_notebook.cells.returned import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flyte_notebook.cells.returned import ReturnedValues

logger = logging.getLogger("flyte_notebook.notebook")


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
    if _has_figure([values.result, *values.outputs.values()]):
        _show_figures_as_pictures()
    if values.outcome.shown is not None and not silent:
        show(dict(values.outcome.shown))


def _has_figure(found: Iterable[object]) -> bool:
    """Whether one of the values is a figure of matplotlib."""
    figures = getattr(sys.modules.get("matplotlib.figure"), "FigureBase", ())
    # By type(): isinstance asks lazy proxies for their __class__, and some answer by importing a library.
    return any(issubclass(type(value), figures) for value in found)


def _show_figures_as_pictures() -> None:
    """Load the backend of the notebook, which registers how figures are shown: pyplot does so for its first figure.

    Without it, a figure that was made in a task and closed there would be shown as text.
    """
    backend = os.environ.get("MPLBACKEND", "")
    if "inline" not in backend:
        return
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
        if not pyplot.get_fignums():
            pyplot.switch_backend(backend)
    except Exception:  # of the library; the values are in the notebook already
        logger.debug("could not load the backend of the notebook", exc_info=True)
