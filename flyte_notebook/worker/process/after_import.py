"""Runs a function as soon as a library was imported, by any code in the process."""

from __future__ import annotations

import logging
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

logger = logging.getLogger("flyte_notebook.worker")


def call_after_import(name: str, then: Callable[[], object]) -> None:
    """Call ``then`` once, right after the module ``name`` was imported; at once if it is imported already."""
    if loaded(name):
        then()
        return
    spec = _put_off(sys.modules.get(name))
    if spec is not None:  # it is loaded at the first access, by the loader that it has then
        ours_too: Any = _ThenLoader(spec.loader, [then])
        spec.loader = ours_too
        return
    for finder in sys.meta_path:
        if isinstance(finder, _AfterImport):
            finder.calls.setdefault(name, []).append(then)
            return
    ours: Any = _AfterImport({name: [then]})
    sys.meta_path.insert(0, ours)


def loaded(name: str) -> bool:
    """Whether a module was imported here, and is not a stand-in that loads it later (`importlib.util.LazyLoader`)."""
    return name in sys.modules and _put_off(sys.modules[name]) is None


def _put_off(module: ModuleType | None) -> Any:  # noqa: ANN401 - a spec, of which the loader is replaced
    """Return the spec of a stand-in, ``None`` for any other module; this check loads nothing.

    Since 3.13 a stand-in becomes a module after its code has run, before that at its first access.
    """
    if module is None or type(module) is types.ModuleType:
        return None
    spec = object.__getattribute__(module, "__dict__").get("__spec__")
    state = getattr(spec, "loader_state", None)
    waits = isinstance(state, dict) and "__class__" in state and not state.get("is_loading")
    return spec if waits else None


class _AfterImport:
    """A finder that uses the other finders, and calls functions after a module was loaded.

    Finder and loader have only the methods, not the base classes: importing ``importlib.abc`` would cost half a MiB.
    """

    def __init__(self, calls: dict[str, list[Callable[[], object]]]) -> None:
        self.calls = calls

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.calls:
            return None
        # It stays installed: libraries ask importlib.util.find_spec whether IPython exists, and import it later.
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                loader: Any = _ThenLoader(spec.loader, self.calls[fullname])
                spec.loader = loader
                return spec
        return None


class _ThenLoader:
    """Loads with the loader it wraps, sets that loader as the module's again, then calls the functions."""

    def __init__(self, loader: Loader, calls: Sequence[Callable[[], object]]) -> None:
        self._loader = loader
        self._calls = calls

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for call in self._calls:
            try:
                call()
            except Exception:  # the user's import itself succeeded
                logger.exception("could not set up what follows the import of %s", module.__name__)
