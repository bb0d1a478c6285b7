"""Renders a failure for IPython: the card above, and a few lines of traceback below."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.outcome import Failure
from flyte_notebook.errors import ROOTS, failure_in
from flyte_notebook.notebook.refusals import CellTextError
from flyte_notebook.sdk.control_plane import rpc_errors
from flyte_notebook.sdk.failures_without_attempt import IN_THE_NOTEBOOK, THIS_CELL, failure_outside
from flyte_notebook.views import text
from flyte_notebook.worker.process.raised import user_lines
from flyte_notebook.worker.values.pickling import PicklingProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flyte_notebook.core.outcome import SourceLine
    from flyte_notebook.notebook.uncaught import Rendered

OF_FLYTE: tuple[type[BaseException], ...] = (*ROOTS, *rpc_errors())
CLASSES: tuple[type[BaseException], ...] = (
    *OF_FLYTE,
    PicklingProblem,
    CellTextError,
    KeyboardInterrupt,
    asyncio.CancelledError,
)
"""The exceptions passed to a `Renderer`; most of the last two are not related to this package."""

MOST_LINES = 3
"""How many lines of the notebook's own code are shown above the error of a task."""


class Renderer:
    """Decides how an uncaught error of a cell is shown.

    ``stopped`` is the error of the runs that an interrupt stopped in this cell, ``None`` when it stopped none: the
    kernel cancels a cell that awaits, and its CancelledError does not tell why. ``show`` shows the card of a failure in
    the running cell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.show: Callable[[Failure], object] | None = None
        self.stopped: BaseException | None = None

    def __call__(self, error: BaseException) -> Rendered | None:
        """Return a function that shows the card, and the lines for an error; ``None`` for an error not shown by us."""
        if isinstance(error, CellTextError):
            return None, list(error.lines)
        if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            # An interrupt of a run arrives as a KeyboardInterrupt whose cause is the error of the run.
            cause = self.stopped if isinstance(error, asyncio.CancelledError) else error.__cause__
            return None if cause is None else (None, [*self._here(error), f"{type(error).__name__}: {cause}"])
        if isinstance(error, PicklingProblem):
            return None, [*self._here(error), f"PicklingProblem: {error}"]
        failure = self.failure_of(error)
        if failure is None:
            return None
        shown = self.with_cell_names(failure)
        # The notebook's own lines, if the failure is that of a task which it started.
        here = self._here(error) if failure is failure_in(error) else []
        show = self.show
        return None if show is None else lambda: show(failure), [*here, *text.short_traceback(shown)]

    def failure_of(self, error: BaseException) -> Failure | None:
        """Return the failure of an error, or one made for it when no task raised it; ``None`` for other errors."""
        failure = failure_in(error)
        if isinstance(failure, Failure):
            return failure
        return of_this_process(error) if isinstance(error, OF_FLYTE) else None

    def _here(self, error: BaseException) -> list[str]:
        """Return the lines of plain cells in the traceback of an error, without those of a magic."""
        lines = [line for line in user_lines(error.__traceback__) if not _is_of_a_magic(line)]
        return [
            f"  {text.clean_line(line.file)}, line {line.number}: {text.clean_line(line.text)}"
            for line in self._named(lines[-MOST_LINES:])
        ]

    def with_cell_names(self, failure: Failure) -> Failure:
        """Return a failure whose lines name cells by their numbers, as the notebook shows them."""
        lines = self._named(failure.lines)
        traceback = failure.traceback
        for file, name in {(old.file, new.file) for old, new in zip(failure.lines, lines, strict=True)}:
            traceback = traceback.replace(f'"{file}"', f'"{name}"')
        line = None if failure.line is None else self._named([failure.line])[0]
        grew = tuple(dataclasses.replace(grew, line=self._named([grew.line])[0]) for grew in failure.report.grew)
        report = dataclasses.replace(failure.report, grew=grew)
        return dataclasses.replace(failure, lines=lines, line=line, traceback=traceback, report=report)

    def _named(self, lines: Iterable[SourceLine]) -> tuple[SourceLine, ...]:
        """Name cells by their numbers, where the kernel names them by paths of files that do not exist."""
        return tuple(dataclasses.replace(line, file=self._cell_name(line.file)) for line in lines)

    def _cell_name(self, file: str) -> str:
        found = self._shell.compile.format_code_name(file)
        return file if found is None else " ".join(found)


def of_this_process(error: BaseException) -> Failure:
    """Return the failure for an error of the SDK that came from no attempt of a task."""
    return failure_outside(error, THIS_CELL, IN_THE_NOTEBOOK, wanted=lambda line: not _is_of_a_magic(line))


def _is_of_a_magic(line: SourceLine) -> bool:
    """Whether a line is the call that IPython makes for a cell magic; it does not help a reader."""
    return line.text.startswith(("get_ipython().run_cell_magic(", "get_ipython().run_line_magic('flyte'"))


class Text(str):
    """A text that a notebook shows as it is, without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
