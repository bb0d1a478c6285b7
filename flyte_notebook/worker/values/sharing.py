"""Makes a function of the notebook again on the other side, bound to that side's own namespace.

Pickles contain the names of the functions in this module, and any unpickler calls them. They make a function first and
fill it afterwards, so that functions may refer to themselves and to each other.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any


def shared_namespace() -> dict[str, Any]:
    """Return the namespace that shared functions are bound to when a plain unpickler loads them."""
    return sys.modules["__main__"].__dict__


def shared_function(code: types.CodeType, namespace: dict[str, Any], name: str) -> types.FunctionType:
    """Make a function of the shared namespace; its state follows. Called while loading."""
    closure = tuple(types.CellType() for _ in code.co_freevars) or None
    return types.FunctionType(code, namespace, name, None, closure)


def set_shared_function_state(function: types.FunctionType, state: Mapping[str, Any]) -> None:
    """Fill a function made by `shared_function`; globals that the namespace has already are not changed."""
    for name, value in state["globals"].items():
        function.__globals__.setdefault(name, value)
    for cell, source in zip(function.__closure__ or (), state["closure"], strict=True):
        if source:
            cell.cell_contents = source[0]
    function.__dict__.update(state["dict"])
    for name, value in state["attributes"].items():
        setattr(function, name, value)


def caching_function(function: types.FunctionType, parameters: dict[str, Any]) -> Any:  # noqa: ANN401 - any function of the user
    """Put ``functools.lru_cache`` around a function. Called while loading."""
    return functools.lru_cache(**parameters)(function)


def caching_shared(code: types.CodeType, namespace: dict[str, Any], name: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401 - any function of the user
    """Make a cached function of the shared namespace; its state follows. Called while loading."""
    return caching_function(shared_function(code, namespace, name), parameters)


def set_caching_state(caching: Any, state: Mapping[str, Any]) -> None:  # noqa: ANN401 - any function of the user
    """Fill a function made by `caching_shared`."""
    set_shared_function_state(caching.__wrapped__, state)
    functools.update_wrapper(caching, caching.__wrapped__)


class NamespaceStandIn:
    """A placeholder in a pickle for the namespace of the loading side."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return shared_namespace, ()
