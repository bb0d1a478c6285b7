"""A run that goes on while other cells run: a thread, and the handle that a notebook holds."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from flyte_notebook.core.bound import monotonic_s, unique
from flyte_notebook.core.units import format_duration
from flyte_notebook.errors import failure_in
from flyte_notebook.notebook import output

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from flyte_notebook.history import Run
    from flyte_notebook.notebook.output import Sink
    from flyte_notebook.sdk.session import Session

State = Literal["running", "succeeded", "failed"]

logger = logging.getLogger("flyte_notebook.notebook")

SLICE_S = 0.05
"""How long a wait lasts before messages of the front end are handled again."""

JOIN_BOUND_S = 5.0
"""How long the end of a session waits for a background run to notice it."""


class BackgroundRun:
    """A run in a separate thread.

    ``await`` it, or `wait` for it, in any later cell; ``result`` is the value of its last expression. The variables
    assigned by the cell are in the notebook once the run has ended and no cell runs, or when `wait`, ``await`` or
    ``result`` returned. An interrupt of the kernel stops the runs that a cell waits for, but not this run: `stop` ends
    it.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[], Any],
        *,
        stop: Callable[[], object],
        ended: Callable[[BackgroundRun], Callable[[], object] | None],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the function to run. Nothing begins before `start`.

        ``ended`` is called in the thread when ``call`` has returned or raised; it returns a function that is called on
        the main thread when a cell waits there. ``meanwhile`` is called repeatedly on the main thread while it waits.
        """
        self.name = name
        self._call: Callable[[], Any] | None = call
        self._stop = stop
        self._ended: Callable[[BackgroundRun], Callable[[], object] | None] | None = ended
        self._meanwhile = meanwhile
        self._land: Callable[[], object] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._began_s = monotonic_s()
        self._took_s: float | None = None
        context = contextvars.copy_context()  # the thread's output belongs to the cell that began it
        self._displays: list[tuple[Sink, str]] = []
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"flyte-notebook {name}", daemon=True
        )

    def start(self) -> BackgroundRun:
        """Begin; returns at once."""
        self._thread.start()
        return self

    def _run(self) -> None:
        # The handle may exist for long, and the function holds the values of inputs.
        call, self._call = self._call, None
        ended, self._ended = self._ended, None
        assert call is not None
        assert ended is not None
        try:
            self._value = call()
        except BaseException as error:  # noqa: BLE001 - it is raised when the result is read
            self._error = error
        self._took_s = monotonic_s() - self._began_s
        for sink, shown_as in tuple(self._displays):
            sink.display({**self._display(shown_as), "update": True})
        try:
            self._land = ended(self)
        except Exception:  # a separate thread: no other code would report it
            logger.exception("could not show the end of %s", self.name)
        finally:
            self._done.set()

    @property
    def state(self) -> State:
        """Its state."""
        if self._took_s is None:
            return "running"
        return "succeeded" if self._error is None else "failed"

    @property
    def error(self) -> BaseException | None:
        """Its exception; ``None`` while it runs and when it succeeded."""
        return self._error

    @property
    def value(self) -> Any:
        """Its result, without waiting: ``None`` while it runs and when it failed."""
        return self._value

    @property
    def failure(self) -> Any:
        """Why it failed, as ``exc.failure``; ``None`` while it runs and when it succeeded."""
        return failure_in(self._error)

    @property
    def result(self) -> Any:
        """The value of the last expression; waits for the end. Raises the run's exception."""
        self.wait()
        if self._error is not None:
            raise BaseException.with_traceback(self._error, None)  # each cell that waits has only its own lines in it
        return self._value

    def done(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end, at most that many seconds; return whether it has ended. An interrupt ends the wait only."""
        until_s = None if timeout_s is None else monotonic_s() + timeout_s
        on_main = threading.current_thread() is threading.main_thread()
        while not self._done.wait(SLICE_S if until_s is None else min(SLICE_S, max(0.0, until_s - monotonic_s()))):
            if until_s is not None and monotonic_s() >= until_s:
                return False
            if on_main:
                self._meanwhile()
        if on_main and self._land is not None:
            self._land()
        return True

    def join(self, timeout_s: float) -> None:
        """Wait until its thread has ended, at most that many seconds."""
        self._thread.join(timeout_s)

    def stop(self) -> None:
        """Stop it and everything it started; it fails with ActionAbortedError. Returns at once."""
        if not self.done():
            self._stop()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        while not self._done.is_set():  # noqa: ASYNC110 - the end comes from another thread, and so may an interrupt
            await asyncio.sleep(SLICE_S)
        return self.result

    def _ipython_display_(self) -> None:
        """Show its state, which is shown again when it has ended."""
        sink, shown_as = output.cell_sink(), unique()
        if self._took_s is None:
            self._displays.append((sink, shown_as))
        sink.display(self._display(shown_as))

    def _display(self, shown_as: str) -> dict[str, Any]:
        how = "\nKeep it with `run = _`. Then `await run` waits for its value, and `run.stop()` ends it."
        words = f"{self!r}{how if self._took_s is None else ''}"
        return {"data": {"text/plain": words}, "transient": {"display_id": shown_as}}

    def __repr__(self) -> str:
        took = format_duration(self._took_s if self._took_s is not None else monotonic_s() - self._began_s)
        words = {"running": f"running for {took}", "succeeded": f"succeeded after {took}"}
        state = words.get(self.state, f"failed after {took}: {type(self._error).__name__}")
        if getattr(self.failure, "reason", None) == "stopped":
            state = f"stopped after {took}"
        return f"<BackgroundRun {self.name}: {state}>"


class BackgroundRuns:
    """The background runs of one session: reruns by a click, and cells with ``--background``.

    ``meanwhile`` is called repeatedly while the main thread waits for one.
    """

    def __init__(self, session: Session, meanwhile: Callable[[], object]) -> None:
        self._session = session
        self._meanwhile = meanwhile
        self._running: dict[str, BackgroundRun] = {}

    def begin(
        self,
        run: Run,
        sink: Sink,
        *,
        call: Callable[[], Any],
        ended: Callable[[BackgroundRun], Callable[[], object] | None],
    ) -> BackgroundRun:
        """Begin a run that no cell waits for, and that an interrupt does not stop; its output goes to ``sink``."""
        back = self._session.set_apart(run.name)
        handle = BackgroundRun(
            run.name,
            partial(_call_with_output_to, sink, call),
            stop=partial(self._session.stop_run, run.name),
            ended=partial(self._over, back, ended),
            meanwhile=self._meanwhile,
        )
        self._running[run.name] = handle
        return handle.start()

    def _over(
        self,
        back: Callable[[], object],
        ended: Callable[[BackgroundRun], Callable[[], object] | None],
        handle: BackgroundRun,
    ) -> Callable[[], object] | None:
        back()
        try:
            return ended(handle)
        finally:
            self._running.pop(handle.name, None)

    def join(self) -> None:
        """Wait until each has noticed that the session is closed, for a bounded time."""
        for handle in list(self._running.values()):
            handle.join(JOIN_BOUND_S)


def _call_with_output_to(sink: Sink, call: Callable[[], Any]) -> Any:
    output.use(sink)
    return call()
