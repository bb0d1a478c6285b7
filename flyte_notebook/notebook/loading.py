"""``%load_ext flyte_notebook``, up to the point where the libraries that everything stands on are known to be there.

Without them there is one line that names the library and the command that mends it, and nothing is changed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from flyte_notebook.core import supported
from flyte_notebook.core.reliance import Loss, losses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

NEEDED: Mapping[str, str] = {"flyte": "flyte.extend", "cloudpickle": "cloudpickle", "ipython": "IPython"}
"""By distribution, what is imported of the libraries that nothing works without."""

FEATURES: Mapping[str, str] = {
    "ipywidgets": "the form of a card, and the live line with its Stop button",
    "matplotlib": "charts of memory",
    "nest-asyncio2": "`asyncio.run(...)` and `loop.run_until_complete(...)` in a cell",
}
"""By distribution, the feature that is lost where it is too old, or not there."""


def load(shell: Any, begun: Callable[[], AbstractContextManager[None]]) -> None:
    """Load the extension into a shell. Raises UsageError, in one line, where that cannot be.

    Inside of ``begun()`` the engine starts while the SDK is imported.
    """
    bounds = {bound.library: bound for bound in supported.bounds()}
    for library, bound in bounds.items():
        wrong = supported.problem(bound)
        if wrong and library in NEEDED:
            raise UsageError(f"flyte_notebook is not loaded: {wrong}")
        if library in FEATURES:
            key = f"version of {library}"
            loss = Loss(key=key, library=library, lost=FEATURES[library], why=wrong)
            losses.put(key, loss if wrong else None)
    try:
        with begun():
            importlib.import_module("flyte_notebook.notebook.extension").load(shell)
    except Exception as error:
        broken = _broken()
        if broken is not None:
            library, why = broken
            mending = f"; {supported.mending(bounds[library])}" if library in bounds else ""
            raise UsageError(f"flyte_notebook is not loaded: {library} cannot be imported: {why}{mending}") from error
        if isinstance(error, RuntimeError):  # nothing can be isolated, or what limits depend on is lost
            raise UsageError(f"flyte_notebook is not loaded: {error}") from error
        raise


def _broken() -> tuple[str, str] | None:
    """Return which of the libraries that are needed cannot be imported, and why."""
    for library, module in NEEDED.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever a broken library raises
            return library, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return None
