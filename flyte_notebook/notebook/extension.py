"""``%load_ext flyte_notebook``: everything that is put in place in a kernel, and how each piece is taken back."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from flyte_notebook import capabilities
from flyte_notebook.cells.selection import UnknownNameError
from flyte_notebook.errors import ActionNotFoundError, BaseRuntimeError
from flyte_notebook.notebook import interrupts, loop, options, output, uncaught
from flyte_notebook.notebook.magics import SUB_COMMANDS, FlyteMagics
from flyte_notebook.notebook.render import render
from flyte_notebook.sdk import enforcement, seam

if TYPE_CHECKING:
    from collections.abc import Callable

_loaded: dict[int, Extension] = {}


class Extension:
    """What is in place in one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._undo: list[Callable[[], object]] = []
        self.polling: loop.PollingErrorHandler | None = None

    def load(self) -> None:
        """Put everything in place. Raises `EngineError` when no worker can be started; then nothing is changed."""
        session = enforcement.open_session(sink=output.cell_sink)
        self._undo.append(enforcement.close_session)
        try:
            self._install(session)
        except BaseException:
            self.unload()
            raise

    def _install(self, session: Any) -> None:
        running = _running_loop()
        if running is not None:
            loop.apply_nest_asyncio2(running)
            self.polling = loop.PollingErrorHandler(running, claim=seam.claim_loop)
            self.polling.install()
            self._undo.append(self.polling.uninstall)
            self._register("pre_run_cell", lambda *_: self._before_cell(session, running))
        guard = interrupts.InterruptGuard(session.stop_all)
        guard.install(self._shell)
        self._undo.append(guard.uninstall)
        classes = (BaseRuntimeError, ActionNotFoundError, KeyboardInterrupt, SyntaxError, UnknownNameError)
        self._undo.append(uncaught.install(self._shell, render, classes).uninstall)
        magics = FlyteMagics(self._shell, lambda: self.polling.silenced if self.polling is not None else None)
        before = {kind: dict(table) for kind, table in self._shell.magics_manager.magics.items()}
        self._shell.register_magics(magics)
        self._undo.append(lambda: self._shell.magics_manager.magics.update(before))
        self._undo.append(options.install_completer(self._shell, SUB_COMMANDS).uninstall)

    def _register(self, event: str, callback: Callable[..., None]) -> None:
        self._shell.events.register(event, callback)
        self._undo.append(lambda: self._shell.events.unregister(event, callback))

    def _before_cell(self, session: Any, running: asyncio.AbstractEventLoop) -> None:
        """Keep our handler on top, and keep the loop waking while something runs, so that an interrupt is heard."""
        if self.polling is not None:
            self.polling.check()
        if session.engine.active:
            interrupts.heartbeat(running, lambda: bool(session.engine.active))

    def unload(self) -> None:
        """Take everything back, in reverse order. Idempotent."""
        while self._undo:
            self._undo.pop()()


def load(shell: Any) -> None:
    """Load into a shell and say in one line what this machine enforces. Idempotent."""
    if id(shell) in _loaded:
        return
    extension = Extension(shell)
    extension.load()
    _loaded[id(shell)] = extension
    session = enforcement.current()
    assert session is not None
    found = session.engine.enforcement
    sys.stdout.write(f"{capabilities.versions_line()} · {capabilities.enforcement_line(found)}\n")


def unload(shell: Any) -> None:
    """Unload from a shell, and say what stays."""
    extension = _loaded.pop(id(shell), None)
    if extension is None:
        return
    extension.unload()
    if getattr(asyncio, "_nest_patched", False):
        sys.stdout.write("flyte_notebook is unloaded; the patch of nest-asyncio2 stays until the kernel restarts.\n")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
