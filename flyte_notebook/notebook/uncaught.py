"""An uncaught Flyte error in any cell is shown as a card above a short traceback.

IPython calls one custom handler for the exception classes it was given (``set_custom_exc``), for cells that await too,
and the reply to the frontend keeps ``status: error`` with the class of the exception as ``ename``. There is one such
handler per shell, so ours calls the previous one for the classes of that one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias

from flyte_notebook.errors import sendable

logger = logging.getLogger("flyte_notebook.notebook")

Rendered: TypeAlias = "tuple[Callable[[], object] | None, list[str]]"
"""A function that shows the card (``None``: there is none) and the lines of a short traceback."""


class UncaughtHandler:
    """The handler that `install` set on a shell; `uninstall` restores the previous one."""

    def __init__(
        self,
        shell: Any,
        render: Callable[[BaseException], Rendered | None],
        classes: tuple[type[BaseException], ...],
    ) -> None:
        self._shell = shell
        self._render: Callable[[BaseException], Rendered | None] | None = render
        self._classes = classes
        self._before_classes: tuple[type[BaseException], ...] = tuple(shell.custom_exceptions)
        self._before: Any = shell.CustomTB
        shell.set_custom_exc((*classes, *self._before_classes), self._handle)
        self._ours = shell.CustomTB

    def uninstall(self) -> None:
        """Restore the previous handler. Idempotent.

        A handler that other code set after us stays; if it calls ours, ours shows plain tracebacks from now on.
        """
        self._render = None
        if self._shell.CustomTB is self._ours:
            self._set(self._before_classes, self._before)

    def _set(self, classes: tuple[type[BaseException], ...], handler: Any) -> None:
        self._shell.custom_exceptions, self._shell.CustomTB = classes, handler

    def _handle(
        self,
        shell: Any,
        kind: type[BaseException],
        error: BaseException,
        traceback: TracebackType | None,
        tb_offset: int | None = None,
    ) -> list[str] | None:
        try:
            if isinstance(error, self._classes) and self._show(shell, error, traceback):
                return None
            if isinstance(error, self._before_classes):
                return self._hand_on(kind, error, traceback, tb_offset)
        except Exception:  # if our side fails, the user's error is still shown
            logger.exception("could not show the card of %s", kind.__name__)
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset, running_compiled_code=True)
        return None

    def _hand_on(
        self,
        kind: type[BaseException],
        error: BaseException,
        traceback: TracebackType | None,
        tb_offset: int | None,
    ) -> list[str] | None:
        try:
            lines: list[str] | None = self._before(kind, error, traceback, tb_offset=tb_offset)
            return lines
        finally:
            if not self._shell.custom_exceptions:  # that handler failed, and IPython dropped all of them
                self._before_classes = ()
                self._set(self._classes, self._ours)

    def _show(
        self,
        shell: Any,
        error: BaseException,
        traceback: TracebackType | None,
    ) -> bool:
        rendered = None if self._render is None else self._render(error)
        if rendered is None:
            return False
        show_card, lines = rendered
        if show_card is not None:
            show_card()
        _remember(error, traceback)
        # The one call that sends the error message and keeps the lines for the execute reply. A text in place of the
        # error can always be sent to a frontend: an error whose own text raises would make IPython drop this handler.
        shell._showtraceback(type(error), _text(error), list(lines))  # noqa: SLF001 - the hook that shells override
        if shell.call_pdb:
            shell.debugger(force=True)
        return True


def install(
    shell: Any,
    render: Callable[[BaseException], Rendered | None],
    classes: tuple[type[BaseException], ...],
) -> UncaughtHandler:
    """Show every uncaught exception of ``classes`` in a cell of ``shell`` with ``render``.

    ``render(error)`` returns a function that shows the card, and the lines of a short traceback, or ``None`` to leave
    the exception to the previous handler, else to IPython's plain traceback. If ``render`` itself fails, this is logged
    and the plain traceback is shown. ``classes`` may contain KeyboardInterrupt: an interrupted run arrives as one whose
    ``__cause__`` is a Flyte error. ``%tb`` and ``%debug`` still show the whole traceback.
    """
    return UncaughtHandler(shell, render, classes)


def _text(error: BaseException) -> str:
    try:
        return sendable(str(error))
    except Exception as inner:  # noqa: BLE001 - a user's class may raise any error
        return f"<the message could not be read: {type(inner).__name__} in __str__>"


def _remember(error: BaseException, traceback: TracebackType | None) -> None:
    """Set the exception that ``%tb``, ``%debug`` and ``pdb.pm()`` read."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
    if sys.version_info >= (3, 12):
        sys.last_exc = error
