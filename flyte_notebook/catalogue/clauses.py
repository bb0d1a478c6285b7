"""The other classic mistake: an ``except`` clause with Python's own class around a task, which never fires."""

from __future__ import annotations

import ast
import linecache
import traceback
from collections.abc import Iterator

from flyte_notebook.catalogue.mistakes import classic_mistake
from flyte_notebook.catalogue.moved import moved_name
from flyte_notebook.core.userfiles import is_user_file
from flyte_notebook.errors import RuntimeUserError, failure_in


def hint(error: BaseException) -> str | None:
    """Return the correct code, if an error is one of the typical mistakes."""
    return classic_mistake(error) or moved_name(error) or clause_that_never_fires(error)


def clause_that_never_fires(error: BaseException) -> str | None:
    """Return the right clause if an error passed an ``except`` with the name that it had in its task.

    A ``ValueError`` of a task arrives as RuntimeUserError with code ``ValueError``. ``None`` for every other error.
    Reads the source of the user's frames that the error passed, those in tasks included.
    """
    code = getattr(error, "code", None)
    if not isinstance(error, RuntimeUserError) or type(error).__name__ == code:
        return None
    if any(code in _clauses_around(file, number) for file, number in _places(error)):
        return (
            f"`except {code}` never fires around a task: what it raises arrives as RuntimeUserError with the class "
            f'name as its code. Write `except flyte.errors.RuntimeUserError as error:` and ask `error.code == "{code}"`'
        )
    return None


def _places(error: BaseException) -> list[tuple[str, int]]:
    """Yield file and line of each user frame in the traceback: reading a library's files would take 50 ms each."""
    passed = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    passed += [(line.file, line.number) for line in getattr(failure_in(error), "lines", ())]
    return [(file, number) for file, number in passed if is_user_file(file)]


def _clauses_around(file: str, number: int) -> set[str]:
    """Return the names of the classes that the ``try`` statements around a line catch."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return set()
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    around = [node for node in tries if any(_spans(statement, number) for statement in node.body)]
    caught = [handler.type for node in around for handler in node.handlers if handler.type is not None]
    return {name for kind in caught for name in _names(kind)}


def _spans(statement: ast.stmt, number: int) -> bool:
    return statement.lineno <= number <= (statement.end_lineno or statement.lineno)


def _names(kind: ast.expr) -> Iterator[str]:
    if isinstance(kind, ast.Tuple):
        for element in kind.elts:
            yield from _names(element)
    elif isinstance(kind, ast.Name):
        yield kind.id
    elif isinstance(kind, ast.Attribute):
        yield kind.attr
