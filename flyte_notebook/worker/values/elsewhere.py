"""Modules of a notebook that no import would find: loaded from a path, or by a search path that has changed.

The recipe in the documentation of `importlib` loads a file under any name. And a module found by a relative entry of
``sys.path`` is not found any more after ``os.chdir``. Such modules are only in ``sys.modules``, so a worker gets their
files by name, and uses these before any other place. A module that is not in ``sys.modules`` is sent by value, as
cloudpickle does it.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from flyte_notebook.core import private
from flyte_notebook.core.userfiles import is_user_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_LOADERS = ("SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader")


class Files:
    """The files of modules by name; after it is loaded from a pickle, imports find the modules there."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def __reduce__(self) -> tuple[Callable[[dict[str, str]], None], tuple[dict[str, str]]]:
        return find, (self._files,)


def files() -> dict[str, str]:
    """Return the files of those modules that have one which an import would not find now."""
    found = {}
    modules = {name: sys.modules.get(name) for name in _top_level(tuple(sys.modules))}
    for name, file in _of_the_user(tuple(modules), tuple(map(id, modules.values()))):
        place = os.path.dirname(os.path.dirname(file) if _is_package(file) else file)
        if place in _places() and _ordinary(name) == file:
            continue
        if private.exists(file):
            found[name] = file
    return found


# Both are computed for each cell, but seldom change: so they are cached by arguments that identify the modules.


@functools.lru_cache(maxsize=1)
def _top_level(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if "." not in name)


@functools.lru_cache(maxsize=1)
def _of_the_user(names: tuple[str, ...], _ids: tuple[int, ...]) -> list[tuple[str, str]]:
    """Return those of the modules that belong neither to Python nor to an installed library, with their files."""
    named = [(name, _file(sys.modules.get(name))) for name in names]
    return [(name, file) for name, file in named if file is not None and is_user_file(file)]


def _places() -> set[str]:
    return {_absolute(str.__str__(entry)) for entry in _search_path() if isinstance(entry, str)}


def _search_path() -> list[Any]:
    try:
        return list(sys.path)
    except TypeError:  # any object may replace it
        return []


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # the current directory was removed
        return path


def lost(module: ModuleType) -> str:
    """Return the message for a module that a worker cannot load, as its file is missing; empty when it can."""
    file = _file(module)
    if file is None or sys.modules.get(module.__name__) is not module or not is_user_file(file) or private.exists(file):
        return ""
    return f"the module {module.__name__} was loaded from {file}, which is gone"


def find(files: dict[str, str]) -> None:
    """Have modules of these names found in these files, before anything else. Called while loading."""
    if files:
        sys.meta_path.insert(0, _Finder(files))


class _Finder:
    """Finds modules by the files it was given."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        file = self._files.get(fullname)
        return None if file is None else importlib.util.spec_from_file_location(fullname, file)


def _file(module: Any) -> str | None:
    """Return the file that a module was loaded from; ``None`` if it has none, or is not loaded yet."""
    try:
        spec = object.__getattribute__(module, "__dict__").get("__spec__")
    except AttributeError:  # any object may be in sys.modules
        return None
    origin = getattr(spec, "origin", None)
    if type(getattr(spec, "loader", None)).__name__ not in _LOADERS or not isinstance(origin, str):
        return None
    return _absolute(origin)


def _is_package(file: str) -> bool:
    return os.path.basename(file).startswith("__init__.")


def _ordinary(name: str) -> str | None:
    """Return the file that an import would find."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(name)
    except Exception:
        return None
    return None if spec is None or spec.origin is None else _absolute(spec.origin)
