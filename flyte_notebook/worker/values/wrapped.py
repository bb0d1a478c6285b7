"""Pickles objects that `functools` makes from functions of a notebook: cached properties and single dispatch.

pickle refuses both: a cached property holds a lock on Python 3.11, and a function with single dispatch a cache of weak
references. The user wrote neither of these. Each object is made empty and filled afterwards, as it may refer to itself.
"""

from __future__ import annotations

import functools
import threading
import types
from typing import Any

_DISPATCHING: Any = functools.singledispatch(lambda _: None)
_OF_DISPATCH = ("register", "dispatch", "registry", "_clear_cache", "__wrapped__")


def reduced(obj: Any) -> Any:
    """Return how an object is made again, in the form for a pickler; ``None`` for any other object."""
    kind = type(obj)
    if issubclass(kind, functools.cached_property):
        state = {name: value for name, value in vars(obj).items() if name != "lock"}
        return _new_property, (kind, "lock" in vars(obj)), state, None, None, _fill_property
    if is_dispatching(obj):
        state = {
            "function": obj.__wrapped__,
            "registry": list(obj.registry.items()),
            "dict": {name: value for name, value in vars(obj).items() if name not in _OF_DISPATCH},
        }
        return _new_dispatching, (obj.__name__,), state, None, None, _fill_dispatching
    return None


def is_dispatching(obj: Any) -> bool:
    """Whether an object was made by ``functools.singledispatch``."""
    return type(obj) is types.FunctionType and obj.__code__ is _DISPATCHING.__code__


def _new_property(kind: Any, locked: bool) -> Any:  # noqa: FBT001 - arguments in a pickle have no names
    made = kind.__new__(kind)
    if locked:
        made.lock = threading.RLock()
    return made


def _fill_property(made: Any, state: dict[str, Any]) -> None:
    vars(made).update(state)


def _new_dispatching(name: str) -> Any:
    def function(_: Any) -> None:
        """Take the place of the function that all others are registered with."""

    function.__name__ = name  # the dispatch's errors contain it
    return functools.singledispatch(function)


def _fill_dispatching(made: Any, state: dict[str, Any]) -> None:
    for kind, function in state["registry"]:
        made.register(kind, function)
    functools.update_wrapper(made, state["function"])
    vars(made).update(state["dict"])
