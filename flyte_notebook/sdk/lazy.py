"""Keeps libraries unloaded that the SDK loads lazily, while a traceback is made.

The SDK puts stand-ins of `importlib.util.LazyLoader` for pandas and pyarrow into ``sys.modules``. They load the library
at the first access to any attribute. `inspect.getmodule`, which IPython calls for each uncaught error of a cell, reads
the ``__file__`` of every module: the first error in a notebook took a second, and 100 MiB of memory. But these
attributes are known before loading.

The class of stand-ins is private to Python; a stand-in is changed by setting another class. This is first tried out
with a stand-in for a module without content; if it does not work, nothing is changed, and `lost` says why.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec

ANSWERED: Final = frozenset({"__file__", "__name__"})
"""Attributes that can be read without loading. Not those that an import statement reads: ``__spec__``, ``__path__``."""

_NAME: Final = "flyte_notebook_nothing"
_FILE: Final = "nothing.py"


def let_stand_ins_be_asked() -> Callable[[], None]:
    """Let stand-ins tell the path of their library without loading it; return a function to undo this. Never raises."""
    before, taught, _ = _classes()
    found = [] if taught is None else [module for module in tuple(sys.modules.values()) if type(module) is before]
    for module in found:
        object.__setattr__(module, "__class__", taught)

    def undo() -> None:
        for module in found:
            if type(module) is taught:  # else it was loaded meanwhile
                object.__setattr__(module, "__class__", before)

    return undo


def lost() -> str:
    """Return the features that do not work because stand-ins are different, and why; empty when all work."""
    why = _classes()[2]
    return f"the first error of a notebook loads pandas and pyarrow, which takes about a second: {why}" if why else ""


@functools.cache
def _classes() -> tuple[type[ModuleType], type[ModuleType] | None, str]:
    """Return the class of stand-ins, and the new class; ``None`` for the latter with the reason."""
    before: type[ModuleType] = ModuleType
    try:
        before = type(_stand_in())
        if before is ModuleType:
            return before, None, "there are none, and what is to stand for a library loads it"
        taught = _taught(before)
        why = _tried(before, taught)
    except Exception as error:  # noqa: BLE001 - an unknown class may raise any error
        return before, None, f"{type(error).__name__}: {error}"
    return before, None if why else taught, why


def _taught(before: type[ModuleType]) -> type[ModuleType]:
    """Return a class for stand-ins that tells the path of its library without loading it."""

    def answer(self: ModuleType, name: str) -> Any:
        known = object.__getattribute__(self, "__dict__")
        if name in ANSWERED and name in known:
            return known[name]
        if type(self) is taught:  # else another thread was faster
            object.__setattr__(self, "__class__", before)  # from here on as before: it loads
        return getattr(self, name)

    # The SDK recognises unloaded modules by this name.
    taught = type(before.__name__, (before,), {"__getattribute__": answer, "__module__": __name__})
    return taught


def _tried(before: type[ModuleType], taught: type[ModuleType]) -> str:
    """Change a stand-in, read its path, undo the change, and load it; return the unexpected results."""
    module = _stand_in()
    for kind in (taught, before, taught):
        object.__setattr__(module, "__class__", kind)
        if type(module) is not kind:
            return "its class cannot be changed"
    if (module.__file__, module.__name__) != (_FILE, _NAME) or type(module) is not taught:
        return "it does not know where its library is"
    if not getattr(module, "whole", False) or type(module) is not ModuleType:
        return "it does not load what it stands for"
    return ""


def _stand_in() -> ModuleType:
    """Return a stand-in for an empty module, as the SDK makes one. It is not in ``sys.modules``."""
    loader: Any = importlib.util.LazyLoader(_Nothing())  # type: ignore[arg-type]  # a loader by its methods
    spec = importlib.util.spec_from_loader(_NAME, loader, origin=_FILE)
    assert spec is not None
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class _Nothing:
    """Loads nothing."""

    def create_module(self, _spec: ModuleSpec) -> None:
        """Return None, so that the import system makes the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Mark the module as loaded."""
        module.__dict__["whole"] = True
