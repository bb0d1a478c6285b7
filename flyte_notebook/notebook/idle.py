"""Calls functions between two cells: values of a background run are assigned only then, never during a cell."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

logger = logging.getLogger("flyte_notebook.notebook")


class WhenIdle:
    """Calls functions on the main thread while no cell of a shell runs.

    ``loop`` is the kernel's, ``None`` where there is none: then the functions are called at the end of the next cell.
    """

    def __init__(self, shell: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self._shell = shell
        self._loop = loop
        self._running = 0
        self._waiting: deque[_Once] = deque()
        self._lock = threading.Lock()
        self._over = False

    def install(self) -> None:
        """Count cells from now on, the running one included."""
        self._running = 1
        self._shell.events.register("pre_run_cell", self._begin)
        self._shell.events.register("post_run_cell", self._end)

    def uninstall(self) -> None:
        """Stop counting; waiting and later functions are dropped."""
        self._shell.events.unregister("pre_run_cell", self._begin)
        self._shell.events.unregister("post_run_cell", self._end)
        with self._lock:
            self._over = True
            self._waiting.clear()

    def call(self, function: Callable[[], object]) -> Callable[[], None]:
        """Call a function when the kernel is idle: soon if it is idle now. Thread-safe; returns at once.

        Return a function that calls it sooner, inside a cell that needs it; on the main thread.
        """
        once = _Once(function)
        with self._lock:
            if self._over:
                return _nothing
            self._waiting.append(once)
        self._soon()
        return once

    def _soon(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._work)

    def _begin(self, _info: object = None) -> None:
        with self._lock:
            self._running += 1

    def _end(self, result: object = None) -> None:
        text = getattr(getattr(result, "info", None), "raw_cell", None)
        if text is None or text.strip():  # for an empty cell IPython reports the end only
            with self._lock:
                self._running = max(0, self._running - 1)
        if threading.current_thread() is threading.main_thread():
            self._work()
        else:  # a cell of a subshell
            self._soon()

    def _work(self) -> None:
        while not self._running:  # else this is called at the end of the cell
            with self._lock:
                if not self._waiting:
                    return
                once = self._waiting.popleft()
            once()


class _Once:
    """A function that is called once, by the first caller; its exceptions are logged."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function: Callable[[], object] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is None:
            return
        try:
            function()
        except Exception:  # no other code would report it, and other functions wait
            logger.exception("could not do what waited for the kernel to be idle")


def _nothing() -> None:
    """Do nothing."""
