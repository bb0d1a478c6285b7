"""Finds the part of an object that cannot be pickled."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.worker.values.elsewhere import lost
from flyte_notebook.worker.values.outside import is_outside

SEARCH_S = 2.0
MAX_DEPTH = 25


class PicklingProblem(ValueError):  # noqa: N818 - a problem to tell the user about; the name is public
    """Something cannot be pickled.

    ``path`` is the expression that leads to it from the variable, ``type_name`` its type, ``detail`` pickle's message.
    """

    def __init__(self, path: str, type_name: str, detail: str) -> None:
        article = "an" if type_name[:1].lower() in "aeiou" else "a"
        super().__init__(f"`{path}` is {article} {type_name}, which cannot be pickled ({detail})")
        self.path = path
        self.type_name = type_name
        self.detail = detail

    def __reduce__(self) -> tuple[type[PicklingProblem], tuple[str, str, str]]:
        return type(self), (self.path, self.type_name, self.detail)


def locate(
    obj: Any,
    error: Exception,
    *,
    name: str,
    attempt: Callable[[Any], Exception | None],
    reads: Callable[[types.FunctionType], dict[str, Any]],
) -> PicklingProblem:
    """Follow the failing part down from ``obj``, and return it as a problem.

    ``attempt`` tries to pickle a part and returns its error; ``reads`` gives the globals of a function.
    """
    path, current, where, deadline = name, obj, "", monotonic_s() + SEARCH_S
    seen = {id(obj)}
    for _ in range(MAX_DEPTH):
        if isinstance(current, functools.cached_property) and isinstance(current.func, types.FunctionType):
            where = f"; {path} is defined on line {current.func.__code__.co_firstlineno}"
        for step, part in _parts(current, path, reads):
            if monotonic_s() > deadline:
                break
            if id(part) in seen:
                continue
            problem = attempt(part)
            if problem is not None:
                seen.add(id(part))
                path, current, error = step, part, problem
                break
        else:
            break
        if monotonic_s() > deadline:
            break
    return PicklingProblem(path, type_name(current), _first_line(error) + where)


def type_name(obj: Any) -> str:
    """Return the name of an object's type as a person would write it: ``_thread.lock``, ``generator``."""
    kind = type(obj)
    if kind.__module__ in {"builtins", "__main__"}:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _parts(obj: Any, path: str, reads: Callable[[types.FunctionType], dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an object that are pickled with it, each with its path."""
    if is_outside(obj) or (isinstance(obj, types.ModuleType) and lost(obj)):
        return
    if isinstance(obj, (dict, list, tuple, set, frozenset)):
        yield from _items(obj, path)
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj, path, reads)
    elif isinstance(obj, types.MethodType):
        yield f"{path}.__self__", obj.__self__
        yield f"{path}.__func__", obj.__func__
    elif isinstance(obj, (classmethod, staticmethod)):
        yield path, obj.__func__
    elif isinstance(obj, property):
        yield from ((path, part) for part in (obj.fget, obj.fset, obj.fdel) if part is not None)
    yield from _attributes(obj, path)


def _items(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield f"{path}[{_short(key)}]", value
            yield f"{path} key {_short(key)}", key
    elif isinstance(obj, (list, tuple)):
        yield from ((f"{path}[{index}]", value) for index, value in enumerate(obj))
    else:
        yield from ((f"{path} element {_short(value)}", value) for value in obj)


def _function_parts(
    function: types.FunctionType, path: str, reads: Callable[[types.FunctionType], dict[str, Any]]
) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        if _has_contents(cell):
            yield f"{path} -> {name}", cell.cell_contents
    yield from ((f"{path} -> {name}", value) for name, value in reads(function).items())
    yield from ((f"{path} default {number}", value) for number, value in enumerate(function.__defaults__ or ()))
    yield from ((f"{path} default {name}", value) for name, value in (function.__kwdefaults__ or {}).items())


def _attributes(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    try:
        held = vars(obj)
    except TypeError:
        held = {}
    for name, value in list(held.items()):
        if not (isinstance(obj, type) and name in {"__dict__", "__weakref__", "__doc__", "__module__"}):
            yield f"{path}.{name}", value
    if isinstance(obj, type):
        return
    for name in (slot for kind in type(obj).__mro__ for slot in _slots(kind)):
        if hasattr(obj, name):
            yield f"{path}.{name}", getattr(obj, name)


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in {"__dict__", "__weakref__"})


def _has_contents(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - read for its effect: it may raise
    except ValueError:
        return False
    return True


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return text if len(text) <= 40 else text[:37] + "..."  # noqa: PLR2004 - characters that fit in a sentence
