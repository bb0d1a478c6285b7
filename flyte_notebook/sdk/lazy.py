"""Libraries that the SDK has put off loading stay so while a traceback is made.

The SDK puts a stand-in for pandas and for pyarrow into ``sys.modules``, `importlib.util.LazyLoader`'s, that loads the
library at the first look at any of its attributes. `inspect.getmodule`, which IPython calls for each error that leaves
a cell, asks every module for its ``__file__``: the first error of a notebook took a second, and 100 MiB of its memory.
What such a question asks for is known before loading.

A stand-in has a class that Python keeps to itself, and is taught by giving it another one. Whether that works here is
tried out on a stand-in for nothing; where it does not, all stay as they are, and `lost` says why.
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
"""What may be asked without loading. Not what an import statement asks for: ``__spec__``, ``__path__``."""

_NAME: Final = "flyte_notebook_nothing"
_FILE: Final = "nothing.py"


def let_stand_ins_be_asked() -> Callable[[], None]:
    """Let each stand-in answer where its library is without loading it; return what undoes this. Never raises."""
    before, taught, _ = _classes()
    found = [] if taught is None else [module for module in tuple(sys.modules.values()) if type(module) is before]
    for module in found:
        object.__setattr__(module, "__class__", taught)

    def undo() -> None:
        for module in found:
            if type(module) is taught:  # else it was loaded since
                object.__setattr__(module, "__class__", before)

    return undo


def lost() -> str:
    """Return what does not work because stand-ins are not as they are known, and why; empty when all does."""
    why = _classes()[2]
    return f"the first error of a notebook loads pandas and pyarrow, which takes about a second: {why}" if why else ""


@functools.cache
def _classes() -> tuple[type[ModuleType], type[ModuleType] | None, str]:
    """Return the class of stand-ins, and the one that answers; ``None`` for that with the reason."""
    before: type[ModuleType] = ModuleType
    try:
        before = type(_stand_in())
        if before is ModuleType:
            return before, None, "there are none, and what is to stand for a library loads it"
        taught = _taught(before)
        why = _tried(before, taught)
    except Exception as error:  # noqa: BLE001 - whatever a class that is not known may raise
        return before, None, f"{type(error).__name__}: {error}"
    return before, None if why else taught, why


def _taught(before: type[ModuleType]) -> type[ModuleType]:
    """Return a class for stand-ins that says where its library is without loading it."""

    def answer(self: ModuleType, name: str) -> Any:
        known = object.__getattribute__(self, "__dict__")
        if name in ANSWERED and name in known:
            return known[name]
        if type(self) is taught:  # else another thread was faster
            object.__setattr__(self, "__class__", before)  # from here on as ever: it loads
        return getattr(self, name)

    # The name is how the SDK tells what is not loaded.
    taught = type(before.__name__, (before,), {"__getattribute__": answer, "__module__": __name__})
    return taught


def _tried(before: type[ModuleType], taught: type[ModuleType]) -> str:
    """Teach a stand-in, ask it, undo it, and let it load; return what was not as expected."""
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
    """Return a stand-in for nothing, as the SDK makes one. In nobody's ``sys.modules``."""
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
        """Leave that to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Show that it was loaded."""
        module.__dict__["whole"] = True
