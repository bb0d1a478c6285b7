"""What may only happen between two cells: a background run gives the notebook its values then, never inside a cell."""

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

    ``loop`` is the kernel's, ``None`` where there is none: then the end of the next cell is when the kernel is idle.
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
        """Count no more; what waits, and what would come, is forgotten."""
        self._shell.events.unregister("pre_run_cell", self._begin)
        self._shell.events.unregister("post_run_cell", self._end)
        with self._lock:
            self._over = True
            self._waiting.clear()

    def call(self, function: Callable[[], object]) -> Callable[[], None]:
        """Have a function called when the kernel is idle: soon if it is now. Thread-safe; returns at once.

        Return what calls it sooner, inside a cell that asks for it; on the main thread.
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
        if text is None or text.strip():  # of an empty cell IPython tells the end only
            with self._lock:
                self._running = max(0, self._running - 1)
        if threading.current_thread() is threading.main_thread():
            self._work()
        else:  # a cell of a subshell
            self._soon()

    def _work(self) -> None:
        while not self._running:  # else the end of the cell comes here
            with self._lock:
                if not self._waiting:
                    return
                once = self._waiting.popleft()
            once()


class _Once:
    """A function that is called once, by whoever comes first; what it raises is logged."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function: Callable[[], object] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is None:
            return
        try:
            function()
        except Exception:  # nobody else would hear of it, and others wait
            logger.exception("could not do what waited for the kernel to be idle")


def _nothing() -> None:
    """Do nothing."""
