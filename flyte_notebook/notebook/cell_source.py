"""Reads the text of a ``%%flyte_task`` cell: makes its task, and finds its values from the notebook."""

from __future__ import annotations

import builtins
import itertools
import linecache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from flyte_notebook.cells import formats, library_settings
from flyte_notebook.cells.analysis import FUTURES
from flyte_notebook.cells.variables import CannotSendError, UnknownNameError
from flyte_notebook.notebook import refusals
from flyte_notebook.notebook.options import MAGIC
from flyte_notebook.sdk import celltask, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flyte_notebook.notebook.options import CellOptions
    from flyte_notebook.sdk.celltask import CellParts, CellTask


class CellSource:
    """One cell of the notebook: its options, its body, and its first line.

    ``note_once`` shows a sentence only once per notebook.
    """

    def __init__(self, shell: Any, said: CellOptions, cell: str, line: str, note_once: Callable[[str], object]) -> None:
        self._shell = shell
        self._said = said
        self._cell = cell
        self._line = line
        self._note_once = note_once

    def read(self, besides: Mapping[str, Any] = MappingProxyType({})) -> tuple[CellTask, CellParts]:
        """Return its task and its parts, with the variables of the notebook and those ``besides``.

        Raises UsageError, and SyntaxError and NameError as running the cell would.
        """
        said, shell = self._said, self._shell
        head = self._head()
        source = "\n" * head.count("\n") + shell.transform_cell(self._cell)
        # Not execution_count, which includes this cell in some versions only.
        filename = f"Cell In[{len(shell.history_manager.input_hist_raw) - 1}]"
        text = head + source[head.count("\n") :]
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        try:
            known = {**shell.user_ns, **besides} if besides else shell.user_ns
            parts = celltask.read_cell(
                source,
                known,
                filename=filename,
                inputs=said.inputs,
                outputs=said.outputs,
                futures=shell.compile.flags & FUTURES,
                head=head,
            )
        except SyntaxError as error:
            raise refusals.syntax_error(error, source) from None
        except UnknownNameError as error:
            if error.name in (said.inputs or ()):
                raise UsageError(f"{MAGIC}: {error}") from None
            raise refusals.name_error(error, source, filename) from None
        except CannotSendError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        self._check_name(parts)
        environment = None if said.env is None else self._environment(said.env)
        found = library_settings.read()
        for left in found.left:
            self._note_once(left)
        try:
            task = celltask.cell_task(
                said.name or "cell",
                parts,
                env=environment,
                interactivity=shell.ast_node_interactivity,
                formats=formats.read(shell),
                library_settings=found.packed,
                **settings.task_settings(said, environment),
            )
        except CannotSendError as error:
            raise UsageError(f"{MAGIC}: {error}") from None
        return task, parts

    def _head(self) -> str:
        """Return the text above the body in the editor, so that line numbers agree."""
        raw = str(self._shell.history_manager.input_hist_raw[-1])
        above, found, _ = raw.partition(MAGIC)
        above = above if found and not above.strip() else ""
        # IPython removes empty lines at the beginning.
        body = itertools.takewhile(lambda text: not text.strip(), self._cell.splitlines())
        return f"{above}{MAGIC} {self._line}".rstrip(" ") + "\n" * (1 + len(list(body)))

    def _check_name(self, parts: CellParts) -> None:
        name = self._said.name
        if name is None:
            return
        if name in parts.names.assigned or name in (self._said.outputs or ()):
            where = "assigned in the cell" if name in parts.names.assigned else "an output"
            raise UsageError(
                f"{MAGIC}: NAME {name!r} is also {where}; it will hold the task, so give one of them another name"
            )
        if name not in self._shell.user_ns and hasattr(builtins, name):
            raise UsageError(f"{MAGIC}: NAME {name!r} would hide Python's own `{name}`; use another name")
        held = self._shell.user_ns.get(name)
        if name in self._shell.user_ns and not settings.is_task(held):
            raise UsageError(
                f"{MAGIC}: NAME {name!r} would replace your variable ({type(held).__name__}); "
                f"use another name or del {name}"
            )

    def _environment(self, name: str) -> Any:
        held = self._shell.user_ns.get(name)
        if not settings.is_environment(held):
            is_there = name in self._shell.user_ns
            what = f"is of type {type(held).__name__}, no flyte.TaskEnvironment" if is_there else "does not exist"
            other = "env" if is_there else name
            right = f'{other} = flyte.TaskEnvironment(name="{other}")'
            raise UsageError(f"{MAGIC}: --env: `{name}` {what}; write in another cell, for example, {right}")
        return held
