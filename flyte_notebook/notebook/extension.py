"""``%load_ext flyte_notebook``: installs all parts in a kernel, and removes them again."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from flyte_notebook import capabilities, catalogue
from flyte_notebook.core.reliance import losses
from flyte_notebook.history import CALL, Grown
from flyte_notebook.notebook import completion, interrupts, loop, output, pump, relies, run_values, uncaught
from flyte_notebook.notebook.background import BackgroundRuns
from flyte_notebook.notebook.cards import Cards, warm
from flyte_notebook.notebook.idle import WhenIdle
from flyte_notebook.notebook.liveline import LiveLines
from flyte_notebook.notebook.magics import COMPLETIONS, FlyteTaskMagics
from flyte_notebook.notebook.render import CLASSES, Renderer
from flyte_notebook.sdk import background_loop, celltask, enforcement, lazy, seam
from flyte_notebook.sdk.types import uploading
from flyte_notebook.views.history import live, tree

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable

    from flyte_notebook.history import Run
    from flyte_notebook.sdk.cluster.noticing import Noticed
    from flyte_notebook.sdk.session import Session

logger = logging.getLogger("flyte_notebook.notebook")

MOST_TREES = 3
"""How many runs with caught failures are shown below a cell."""

SETTLE_BOUND_S = 3.0
"""How long the end of a cell waits for the rest of a run that has ended on a cluster."""

WARM_BOUND_S = 10.0
"""How long unloading waits for modules being loaded in a thread, about a second: this cannot be interrupted."""

_loaded: dict[int, Extension] = {}


class Extension:
    """The parts installed in one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._undo: list[Callable[[], object]] = []
        self._running = _running_loop()
        self._beating: asyncio.Task[None] | None = None
        self._renderer = Renderer(shell)
        self._cards: Cards | None = None
        self._background: BackgroundRuns | None = None
        self._lines = LiveLines(enforcement.current)
        self._ran_before: set[str] = set()
        self._warming: threading.Thread | None = None
        self._interrupts = 0
        self._noticed: Noticed | None = None
        self.polling: loop.PollingErrorHandler | None = None
        self.pump: pump.ShellPump | None = None

    def load(self) -> None:
        """Install everything. Raises `EngineError` when no worker can be started; then nothing is changed."""
        session = enforcement.open_session(sink=self._sink, watch=self._lines)
        self._undo.append(self._join)
        self._undo.append(enforcement.close_session)
        self._undo.append(self._lines.close)
        try:
            self._install(session)
        except BaseException:
            self.unload()
            raise

    def _sink(self) -> output.Sink:
        """Return the sink for the output of a run that begins now, in the context of its cell."""
        if self._running is not None:
            self._running.call_soon_threadsafe(self._beat)
        if self.pump is not None:
            self.pump.run_begins()
        if hasattr(self._shell, "kernel") and self._warming is None:
            self._warming = threading.Thread(target=warm, name="flyte-notebook warm", daemon=True)
            self._warming.start()
        return output.cell_sink()

    def _beat(self) -> None:
        """Wake the loop regularly during runs: a signal may be delivered to another thread than the main one."""
        session = enforcement.current()
        if session is not None and self._running is not None and (self._beating is None or self._beating.done()):
            self._beating = interrupts.heartbeat(self._running, lambda: bool(session.engine.active))

    def _install(self, session: Session) -> None:
        running = self._running
        if running is not None:
            self._nest(running)
            self.polling = loop.PollingErrorHandler(running, claim=background_loop.claim_loop)
            self.polling.install()
            self._undo.append(self.polling.uninstall)
        self._register("pre_run_cell", lambda *_: self._before_cell())
        self._register("post_run_cell", self._after_cell)
        guard = interrupts.InterruptGuard(lambda reason: self._stop_all(session, reason))
        guard.install(self._shell)
        self._undo.append(guard.uninstall)
        if getattr(self._shell, "kernel", None) is not None:
            self._install_pump(session)
        idle = WhenIdle(self._shell, running)
        idle.install()
        self._undo.append(idle.uninstall)
        background = self._background = BackgroundRuns(session, self._hear)
        cards = self._cards = Cards(self._shell, session, self._renderer, idle, background)
        self._renderer.show = cards.show
        self._undo.append(cards.close)
        self._undo.append(lazy.let_stand_ins_be_asked())
        self._undo.append(seam.leave_retries_to_us())
        self._undo.append(self._follow_no_longer)
        self._undo.append(seam.replace_remote_submit(self._sent_to_cluster))
        self._undo.append(run_values.install(self._shell, session.history))
        self._undo.append(uncaught.install(self._shell, self._renderer, CLASSES).uninstall)
        self._undo.append(celltask.last_outputs.listen(session.take_outputs))
        magics = FlyteTaskMagics(
            self._shell, self._renderer, cards, lambda: self.polling.silenced if self.polling is not None else None
        )
        self._shell.register_magics(magics)
        self._undo.append(magics.forget)
        self._undo.append(completion.install_completer(self._shell, COMPLETIONS).uninstall)

    def _nest(self, running: asyncio.AbstractEventLoop) -> None:
        """Let loops run inside of the notebook's; if the library cannot be loaded, only this feature is lost."""
        try:
            loop.apply_nest_asyncio2(running)
        except Exception:  # its probe reports the loss
            logger.debug("could not patch asyncio", exc_info=True)

    def _install_pump(self, session: Session) -> None:
        """Handle messages of the front end while a cell waits."""
        self.pump = pump.ShellPump(self._shell, lambda: bool(session.engine.active))
        if not self.pump.reason:
            try:
                self._undo.append(background_loop.replace_wait(self._wait))
            except RuntimeError as error:
                self.pump.reason = str(error)
        self.pump.install()
        self._undo.append(self.pump.uninstall)
        session.on_close(capabilities.add_finding(pump.finding(self.pump.reason)))

    def _sent_to_cluster(self, sent: Any) -> None:
        """Follow a run that a cell has submitted to a cluster by itself; those of ours are followed anyway."""
        session = enforcement.current()
        if session is None or uploading.get() is not None:
            return
        if self._noticed is None:
            from flyte_notebook.sdk.cluster.noticing import Noticed  # noqa: PLC0415 - most notebooks need none

            self._noticed = Noticed(session, self._show_remote)
        self._noticed.add(sent)

    def _show_remote(self, run: Run, sink: output.Sink) -> None:
        """Show the end of such a run, in the cell that began it: its card, or its tree when a failure was caught."""
        if run.failure is not None and self._cards is not None:
            self._cards.show(run.failure, sink)
        elif run.has_tree:
            sink.display({"data": tree.run_bundle(run)})

    def _follow_no_longer(self) -> None:
        if self._noticed is not None:
            self._noticed.close()

    def _before_cell(self) -> None:
        self._renderer.stopped = None
        self._ran_before = {run.name for run in enforcement.history}
        if self._cards is not None:
            self._cards.shown.clear()
        if self.polling is not None:
            self.polling.check()

    def _say_what_is_lost(self) -> None:
        """Report once the losses that were found after the extension was loaded."""
        words = capabilities.lost_words(losses.untold())
        if words:
            text = f"[flyte_notebook: lost here: {words}; %flyte doctor says why]"
            self._shell.display_pub.publish(data={"text/plain": text}, metadata={})

    def _after_cell(self, result: Any = None) -> None:
        """Show the failures that the cell caught, and the correct code if it failed by a typical mistake."""
        self._lines.settle()
        if self._noticed is not None:
            self._noticed.settle(SETTLE_BOUND_S)
        self._say_what_is_lost()
        self._advise()
        self._show_what_was_caught()
        raw_cell = getattr(getattr(result, "info", None), "raw_cell", None)
        if self._cards is not None and raw_cell:
            self._cards.notice(raw_cell)
        error = getattr(result, "error_in_exec", None)
        words = None if error is None else catalogue.hint(error)
        if words is not None:
            self._shell.display_pub.publish(data={"text/plain": f"[flyte_notebook: {words}]"}, metadata={})

    def _advise(self) -> None:
        """Note a sufficient limit for each run of this cell with far too much, unless a line has shown it."""
        told = set(self._lines.told)
        self._lines.told.clear()
        for run in enforcement.history:
            if run.advice and run.name not in self._ran_before | told:
                data = {"text/plain": f"[flyte_notebook: {live.peak_words(run)} · {run.advice}]"}
                self._shell.display_pub.publish(data=data, metadata={})

    def _show_what_was_caught(self) -> None:
        """Show as a tree each run of this cell with a failure that no card has shown."""
        shown = self._cards.shown if self._cards is not None else set()
        new = [run for run in enforcement.history if run.name not in self._ran_before and not _noticed(run)]
        grown = {run.purpose.of for run in new if isinstance(run.purpose, Grown)}
        ran = [run for run in new if run.has_tree and not any(map(run.attempt, grown))]  # shown with those
        untold = [run for run in ran if not run.failed_workers & shown]
        for run in untold[-MOST_TREES:]:
            self._shell.display_pub.publish(data=tree.run_bundle(run), metadata={})
        if len(untold) > MOST_TREES:
            words = f"[flyte_notebook: {len(untold) - MOST_TREES} more runs had failures; %flyte runs shows them]"
            self._shell.display_pub.publish(data={"text/plain": words}, metadata={})

    def _wait(self, future: concurrent.futures.Future[Any]) -> None:
        """Wait for a run, and handle messages of the front end meanwhile. On the main thread.

        A KeyboardInterrupt in a handler of a message, or in code called by Python itself such as a finalizer, may have
        been suppressed there; it has stopped the run, and the cell has to end as after any other interrupt.
        """
        assert self.pump is not None
        before = self._interrupts
        self.pump.wait(future)
        if self._interrupts != before:
            raise KeyboardInterrupt from self._renderer.stopped

    def _hear(self) -> None:
        """Handle messages of the front end while the main thread waits for a background run."""
        if self.pump is not None:
            self.pump.pump()

    def _join(self) -> None:
        if self._background is not None:
            self._background.join()
        if self._warming is not None:
            self._warming.join(WARM_BOUND_S)

    def _stop_all(self, session: Session, reason: str) -> BaseException | None:
        self._interrupts += 1
        self._renderer.stopped = session.stop_all(reason)
        return self._renderer.stopped

    def _register(self, event: str, callback: Callable[..., object]) -> None:
        self._shell.events.register(event, callback)
        self._undo.append(lambda: self._shell.events.unregister(event, callback))

    def unload(self) -> None:
        """Remove everything, in reverse order. Idempotent."""
        while self._undo:
            self._undo.pop()()


def load(shell: Any) -> None:
    """Load into a shell and print one line about the limits that this machine enforces. Idempotent."""
    if id(shell) in _loaded:
        return
    extension = Extension(shell)
    extension.load()
    _loaded[id(shell)] = extension
    session = enforcement.current()
    assert session is not None
    losses.check(relies.entries(shell))
    lost = capabilities.lost_words(losses.untold())
    line = f"{capabilities.versions_line()} · {capabilities.enforcement_line(session.engine.enforcement)}"
    sys.stdout.write(f"{line} · lost: {lost}\n" if lost else f"{line}\n")


def unload(shell: Any) -> None:
    """Unload from a shell, and print what remains."""
    extension = _loaded.pop(id(shell), None)
    if extension is None:
        return
    extension.unload()
    if getattr(asyncio, "_nest_patched", False):
        sys.stdout.write("Unloaded. Restart the kernel to remove its asyncio changes too.\n")


def _noticed(run: Run) -> bool:
    """Whether it is a run that the user's own code has submitted to a cluster."""
    return run.remote and run.purpose is CALL


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
