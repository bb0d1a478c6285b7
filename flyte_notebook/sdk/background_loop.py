"""The SDK's loop for its blocking functions: changes how they wait, and stops it before a fork and starts it after.

``flyte.syncify`` runs coroutines on a loop in a thread of its own, and blocks until they are done. All its private
names that this package uses are in this module, once.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import flyte
from flyte.syncify import _api as _syncify
from flyte.syncify import syncify as _syncify_instance

from flyte_notebook.sdk import seam

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Coroutine


def replace_wait(waiting: Callable[[concurrent.futures.Future[Any]], object]) -> Callable[[], None]:
    """Have ``waiting(future)`` called where the SDK would block the main thread for a result.

    ``waiting`` returns when the future is done; if it returns sooner, the SDK waits for the rest of the time. An
    exception from it ends the wait. Return a function that undoes this; raises RuntimeError when the SDK has no such
    place.
    """
    background: Any = getattr(_syncify, "_BackgroundLoop", None)
    before = getattr(background, "call_in_loop_sync", None)
    if before is None:
        raise RuntimeError(f"flyte {flyte.__version__} has no call_in_loop_sync")

    def call_in_loop_sync(self: Any, coro: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return before(self, coro)
        future = asyncio.run_coroutine_threadsafe(coro, self.loop)
        waiting(future)
        return before(self, _result_of(future))

    return seam.replaced(background, call_in_loop_sync=call_in_loop_sync)


async def _result_of(future: concurrent.futures.Future[Any]) -> Any:
    return await asyncio.wrap_future(future)


def run_in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the loop of the SDK's sync functions, and block as they do until it has ended."""
    return _background().call_in_loop_sync(coroutine)


def stop_background_loop() -> None:
    """Stop the thread and the loop of the SDK's sync functions, before a fork. Raises RuntimeError if this fails."""
    background = _background()
    background.stop()
    if background.thread.is_alive():
        raise RuntimeError("the SDK's background loop goes on")
    atexit.unregister(background.stop)
    background.loop.close()


def start_background_loop() -> None:
    """Start the loop again in a forked process, after `stop_background_loop`."""
    background = _background()
    background.__init__(background.thread.name)


def _background() -> Any:
    """Return the SDK's background loop. Raises RuntimeError when this version has no known one."""
    background = getattr(_syncify_instance, "_bg_loop", None)
    if any(getattr(background, name, None) is None for name in ("stop", "thread", "loop")):
        raise RuntimeError(f"flyte {flyte.__version__} has no background loop that is known to flyte_notebook")
    return background


def outlive_exits() -> None:
    """Keep the loop running when user code raises an exit or an interrupt on it, which would end its thread.

    Another thread replaces the SDK's, with the same loop, so nothing is lost. Idempotent; it cannot be undone. Raises
    RuntimeError when this version has no known background loop.
    """
    background = _background()
    if not isinstance(background.thread, _Lasting) or not background.thread.is_alive():
        _Lasting(background).start()


class _Lasting(threading.Thread):
    """Runs the SDK's loop until it is stopped; begins when the previous thread has left the loop."""

    def __init__(self, background: Any) -> None:
        super().__init__(name=background.thread.name, daemon=True)
        self._background = background
        self._before: threading.Thread = background.thread
        background.thread = self

    def run(self) -> None:
        loop: asyncio.AbstractEventLoop = self._background.loop
        loop.call_soon_threadsafe(self._take_over)
        self._before.join()
        asyncio.set_event_loop(loop)
        while not self._run(loop):
            pass

    def _take_over(self) -> None:
        if threading.current_thread() is self._before:  # it may have ended just now
            self._background.loop.stop()

    def _run(self, loop: asyncio.AbstractEventLoop) -> bool:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            return True
        return False


def claim_loop(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Keep the SDK from setting its polling-error handler on a loop that has one; return a function to undo this."""
    if id(loop) in _syncify._configured_loops:
        return lambda: None
    _syncify._configured_loops.add(id(loop))

    def unclaim() -> None:
        _syncify._configured_loops.discard(id(loop))

    return unclaim


def forget_loop(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Have the SDK treat a loop as new: it identifies loops by reusable ids. Return a function to undo this."""
    known = id(loop) in _syncify._configured_loops
    _syncify._configured_loops.discard(id(loop))

    def undo() -> None:
        _syncify._configured_loops.discard(id(loop))
        if known:
            _syncify._configured_loops.add(id(loop))

    return undo
