"""The main thread of a worker, which runs the body of a cell: with a running event loop for the body only.

This is as in a notebook's kernel, whether the cell awaits or not: signal handlers can be set, ``get_running_loop``
finds a loop, ``create_task`` works. The SDK runs beside it, in a thread with a loop of its own: a body that blocks
delays only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from flyte_notebook.worker.process import context
from flyte_notebook.worker.stacks import layout

T = TypeVar("T")

PENDING_BOUND_S = 2.0
"""How long asyncio tasks may go on that the body started and did not await; a kernel would continue them."""

_loop: _BodyLoop | None = None


class _BodyLoop(asyncio.SelectorEventLoop):
    """Allows calls of its ``run_until_complete`` from code that it runs, as the notebook's loop does."""

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until a future has its result, nested if the loop runs already."""
        if not self.is_running():
            return super().run_until_complete(future)
        _nest(self)
        return self.run_until_complete(future)  # which nest-asyncio2 has replaced


def beside(sdk: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new thread, and the calls of its `on_main` in this one; return or raise as it does.

    For the main thread, once in a process.
    """
    global _loop  # noqa: PLW0603 - one worker process, one body
    loop = _loop = _BodyLoop()
    asyncio.set_event_loop(loop)
    _allow_nested_run()
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(sdk))
        except BaseException as error:  # raised again below
            done.set_exception(error)
        try:
            loop.call_soon_threadsafe(loop.stop)
        except MemoryError:
            context.fail()  # else the main thread would not wake up

    threading.Thread(target=run, name="flyte-notebook-sdk", daemon=True).start()
    while not done.done():
        try:
            loop.run_forever()
        except BaseException as error:  # for example sys.exit() in an asyncio task that is not awaited
            if isinstance(error, MemoryError) and context.at_step():
                context.fail()  # the next round would raise it again
            loop.call_exception_handler({"message": "a task of asyncio ended the loop", "exception": error})
    return done.result()


def has_loop() -> bool:
    """Whether this code runs on the loop of a body."""
    return _loop is not None and asyncio._get_running_loop() is _loop  # noqa: SLF001 - without raising


async def on_main(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the main thread, under its loop, in a copy of this context; return or raise as it does.

    Where there is no such loop, it runs here.
    """
    loop = _loop
    if loop is None or has_loop():
        return await call()
    ended: Future[tuple[T | None, BaseException | None]] = Future()
    started: list[asyncio.Task[None]] = []

    async def run() -> None:
        coroutine = call()
        layout.runs(coroutine)
        # As a value: a future does not accept StopIteration, and a task passes an exit or an interrupt to its loop.
        try:
            ended.set_result((await coroutine, None))
        except BaseException as error:  # user code may raise anything
            ended.set_result((None, error))

    copied = contextvars.copy_context()
    loop.call_soon_threadsafe(lambda: started.append(loop.create_task(run(), context=copied)))
    try:
        value, error = await asyncio.wrap_future(ended)
    except asyncio.CancelledError:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in started])
        raise
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # it is set if there is no error


async def pending() -> list[str]:
    """Let asyncio tasks that the body started go on for a while; return the names of those that do not end.

    Those wait for something: a task that runs without waiting ends first.
    """
    if not has_loop():
        return []
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=PENDING_BOUND_S)
    return sorted(task.get_name() for task in left)


@contextlib.contextmanager
def as_in_thread() -> Iterator[None]:
    """Hide the running loop from a block of a body: code that it calls may block without delaying anything else."""
    if not has_loop():
        yield
        return
    asyncio._set_running_loop(None)  # noqa: SLF001 - documented for event loops
    try:
        yield
    finally:
        asyncio._set_running_loop(_loop)  # noqa: SLF001 - as above


def _nest(loop: asyncio.AbstractEventLoop) -> None:
    import nest_asyncio2  # noqa: PLC0415 - it patches asyncio: only for cells that nest loops

    nest_asyncio2.apply(loop)


def _allow_nested_run() -> None:
    """Let ``asyncio.run`` work under the body's loop."""
    before = asyncio.run

    def run(main: Coroutine[Any, Any, T], **options: bool) -> T:
        if not has_loop() or asyncio.run is not run:
            return before(main, **options)
        assert _loop is not None
        _nest(_loop)
        return asyncio.run(main, **options)  # which nest-asyncio2 has replaced

    asyncio.run = run  # type: ignore[assignment]  # its options depend on the version
