"""Modules that are on this machine only: files of the user, which an image does not have.

Functions that are imported from them are pickled by name. They are sent as they are in the file now, with the modules
of the user that they import.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.core.userfiles import is_user_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SAME_TIME = (1980, 1, 1, 0, 0, 0)


def archive(names: Iterable[str]) -> tuple[bytes, tuple[str, ...]]:
    """Return the user's own modules among these, and those that they import, as a ZIP file; and their names.

    No bytes where there are none.
    """
    files: dict[str, dict[str, bytes]] = {}
    todo = [name.partition(".")[0] for name in names]
    while todo:
        name = todo.pop()
        if name not in files:
            files[name] = _files(name)
            todo += [found for text in files[name].values() for found in imported_in(text)]
    own = {name: found for name, found in files.items() if found}
    if not own:
        return b"", ()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path, text in sorted(pair for found in own.values() for pair in found.items()):
            zipped.writestr(zipfile.ZipInfo(path, _SAME_TIME), text, zipfile.ZIP_DEFLATED)
    return file.getvalue(), tuple(sorted(own))


def _files(name: str) -> dict[str, bytes]:
    """Return the files of a module of the user, by their paths in an archive; none for any other module."""
    origin = _origin(name)
    if origin is None or origin.suffix != ".py" or not is_user_file(str(origin)):
        return {}
    if origin.name != "__init__.py":
        return {origin.name: origin.read_bytes()}
    top = origin.parent.parent
    paths = sorted(path for path in origin.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(top)): path.read_bytes() for path in paths}


def _origin(name: str) -> Path | None:
    found = getattr(sys.modules.get(name), "__file__", None)
    if found is None and name not in sys.modules:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        found = None if spec is None else spec.origin
    path = None if found is None else Path(found)
    return path if path is not None and path.is_file() else None


def imported_in(text: str | bytes) -> Iterator[str]:
    """Yield the top names of the modules that a program imports; none where it cannot be read."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
