"""``%load_ext flyte_notebook``, up to the check that the required libraries exist.

If one is missing, a line names the library and the command that installs it, and nothing is changed.
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
"""The imported modules of the required libraries, by distribution."""

FEATURES: Mapping[str, str] = {
    "ipywidgets": "the form of a card, and the live line with its Stop button",
    "matplotlib": "charts of memory",
    "nest-asyncio2": "`asyncio.run(...)` and `loop.run_until_complete(...)` in a cell",
}
"""The feature that is lost if a library is too old or missing, by distribution."""


def load(shell: Any, begun: Callable[[], AbstractContextManager[None]]) -> None:
    """Load the extension into a shell. Raises UsageError, in one line, if this is not possible.

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
        if isinstance(error, RuntimeError):  # isolation, or a behaviour that limits depend on, does not work
            raise UsageError(f"flyte_notebook is not loaded: {error}") from error
        raise


def _broken() -> tuple[str, str] | None:
    """Return the required library that cannot be imported, and why."""
    for library, module in NEEDED.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken library may raise any error
            return library, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return None
