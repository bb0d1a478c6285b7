"""Libraries that the SDK has put off loading stay so while a traceback is made.

The SDK puts a stand-in for pandas and for pyarrow into ``sys.modules``, `importlib.util.LazyLoader`'s, that loads the
library at the first look at any of its attributes. `inspect.getmodule`, which IPython calls for each error that leaves
a cell, asks every module for its ``__file__``: the first error of a notebook took a second, and 100 MiB of its memory.
What such a question asks for is known before loading.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_StandIn: Any = importlib.util._LazyModule  # type: ignore[attr-defined]  # noqa: SLF001 - no public name of it exists

ANSWERED = frozenset({"__file__", "__name__"})
"""What may be asked without loading. Not what an import statement asks for: ``__spec__``, ``__path__``."""


class _LazyModule(_StandIn):  # type: ignore[misc]  # the name is how the SDK tells what is not loaded
    """A stand-in that says where its library is without loading it."""

    def __getattribute__(self, name: str) -> Any:
        known = object.__getattribute__(self, "__dict__")
        if name in ANSWERED and name in known:
            return known[name]
        object.__setattr__(self, "__class__", _StandIn)  # from here on as ever: it loads
        return getattr(self, name)


def let_stand_ins_be_asked() -> Callable[[], None]:
    """Let each stand-in answer where its library is without loading it; return what undoes this."""
    found = [module for module in tuple(sys.modules.values()) if type(module) is _StandIn]
    for module in found:
        object.__setattr__(module, "__class__", _LazyModule)

    def undo() -> None:
        for module in found:
            if type(module) is _LazyModule:  # else it was loaded since
                object.__setattr__(module, "__class__", _StandIn)

    return undo
