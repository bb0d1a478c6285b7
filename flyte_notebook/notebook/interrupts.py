"""An interrupt (■, Ctrl-C) stops the runs at once, then calls the previous handler.

How the kernel handles an interrupt (ipykernel 6.29 to 7.4): before each message it sets Python's own handler, which
raises KeyboardInterrupt in the main thread; for a cell that awaits it sets, before the cell's events fire, a handler of
its own that cancels the cell's future. So the guard wraps the handler that is set when ``pre_run_cell`` fires, and
restores it at ``post_run_cell``: it need not distinguish the two.

The kernel notices an interrupt of a cell that awaits only when its loop wakes up, for this reason: its handler
schedules the cancellation with tornado's ``add_callback``, which in the loop's own thread is ``call_soon``, and that
does not end the loop's wait for events. The guard therefore wakes the loop itself, with ``call_soon_threadsafe``. One
case remains: the operating system may deliver a signal to another thread, but Python runs handlers only in the main
thread, when it next executes code. `heartbeat` bounds that wait while runs are active.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

logger = logging.getLogger("flyte_notebook.notebook")

HEARTBEAT_S = 0.05


class _Chained:
    """A SIGINT handler that stops the runs, then calls the previous handler."""

    def __init__(
        self,
        stop_all: Callable[[str], BaseException | None],
        previous: Any,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.previous = previous
        self._stop_all = stop_all
        self._loop = loop

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        cause = self._stopped()
        try:
            if callable(self.previous):
                self.previous(signum, frame)
            elif self.previous == signal.SIG_DFL:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
        except KeyboardInterrupt as interrupt:
            if cause is None:
                raise
            # The frames of handlers do not help a reader; only ours is kept.
            raise interrupt.with_traceback(None) from cause
        finally:
            self._wake()

    def _stopped(self) -> BaseException | None:
        try:
            return self._stop_all("interrupt")
        except Exception:  # an interrupt must work even if our side fails
            logger.exception("could not stop the running tasks on interrupt")
            return None

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_nothing)


class InterruptGuard:
    """Stops every run when the kernel is interrupted, then lets the kernel's own handler act.

    ``stop_all(reason)`` is called inside a signal handler, in the main thread, between any two bytecodes: it may set
    events and call ``call_soon_threadsafe``, and must not take a lock that the main thread may hold. It returns the
    error that the stopped runs end with (ActionAbortedError), or ``None`` when nothing ran. The KeyboardInterrupt of a
    cell that does not await is raised *from* that error; it is no Exception, so a loop with ``except Exception`` cannot
    catch it. A cell that awaits is cancelled, as the kernel does.

    The guard does nothing outside of the main thread (cells of subshells): signals are not handled there.
    """

    def __init__(self, stop_all: Callable[[str], BaseException | None]) -> None:
        self._stop_all = stop_all
        self._shell: Any = None
        self._handlers: list[_Chained | None] = []

    def install(self, shell: Any) -> None:
        """Guard every cell of ``shell`` from now on, the running one included. Idempotent."""
        if self._shell is not None:
            return
        self._shell = shell
        shell.events.register("pre_run_cell", self._before_cell)
        shell.events.register("post_run_cell", self._after_cell)
        self._before_cell()  # pre_run_cell of the cell that loads us has already fired

    def uninstall(self) -> None:
        """Stop guarding, and restore the handler of the running cell. Idempotent."""
        if self._shell is None:
            return
        self._shell.events.unregister("pre_run_cell", self._before_cell)
        self._shell.events.unregister("post_run_cell", self._after_cell)
        self._shell = None
        while self._handlers:
            self._after_cell()

    def _before_cell(self, _info: object = None) -> None:
        self._handlers.append(_chain(self._stop_all))

    def _after_cell(self, _result: object = None) -> None:
        # Cells nest (get_ipython().run_cell inside a cell), hence a stack.
        if self._handlers:
            _unchain(self._handlers.pop())


class ScriptGuard:
    """The same for a plain script: SIGINT stops the runs, then calls the previous handler. Also a context manager."""

    def __init__(self, handler: _Chained | None) -> None:
        self._handler = handler

    def uninstall(self) -> None:
        """Restore the previous handler, unless other code has set another one since. Idempotent."""
        _unchain(self._handler)
        self._handler = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.uninstall()


def install_for_script(stop_all: Callable[[str], BaseException | None]) -> ScriptGuard:
    """Let SIGINT call ``stop_all`` first (see `InterruptGuard`) and then the current handler.

    Outside of the main thread Python allows no signal handler: the guard returned then does nothing.
    """
    return ScriptGuard(_chain(stop_all))


def heartbeat(loop: asyncio.AbstractEventLoop, is_active: Callable[[], bool]) -> asyncio.Task[None]:
    """Wake ``loop`` every 50 ms until ``is_active()`` is false.

    Call it in the loop's thread; cancel the task to end it sooner. Limits the delay of a signal that was delivered to
    another thread than the main one.
    """
    return loop.create_task(_beat(is_active), name="flyte_notebook heartbeat")


async def _beat(is_active: Callable[[], bool]) -> None:
    while is_active():  # noqa: ASYNC110 - waking is the purpose; there is no event to wait for
        await asyncio.sleep(HEARTBEAT_S)


def _chain(stop_all: Callable[[str], BaseException | None]) -> _Chained | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:
        return None  # a background job of a shell, or a kernel between two cells: interrupts are not for it
    if isinstance(previous, _Chained):
        return None  # a cell inside a cell: the outer one's handler serves both
    handler = _Chained(stop_all, previous, _running_loop())
    signal.signal(signal.SIGINT, handler)
    return handler


def _unchain(handler: _Chained | None) -> None:
    if handler is None or threading.current_thread() is not threading.main_thread():
        return
    current = signal.getsignal(signal.SIGINT)
    if isinstance(current, _Chained) and current is handler:  # else other code set another handler since: keep it
        signal.signal(signal.SIGINT, current.previous or signal.default_int_handler)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _nothing() -> None:
    """Do nothing; being called has woken the loop."""
