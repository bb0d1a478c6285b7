"""Shows one live line for each cell with a run of half a second or more.

A line is a display of the cell that began the runs, sent with that cell's header like all its output. Widgets are made
and changed in a copy of the cell's context: comm messages take their parent from there (ipykernel 7.0 fails without
it). When the last run of a cell is over, the display is replaced by plain HTML: a saved notebook must not contain a
widget without its kernel. This is done before the cell ends, because nbclient ignores output of an ended cell, or a
moment later in the background: a cell that begins one run after the other keeps its line.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.bound import monotonic_s, unique
from flyte_notebook.core.outcome import Success
from flyte_notebook.core.reliance import losses
from flyte_notebook.history import Rerun, SweepPoint
from flyte_notebook.notebook import output, relies
from flyte_notebook.notebook.output import KernelSink
from flyte_notebook.views.history import live

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flyte_notebook.engine import Sink
    from flyte_notebook.history import Run
    from flyte_notebook.sdk.session import Session

logger = logging.getLogger("flyte_notebook.notebook")

SHOWN_AFTER_S = 0.5
"""How long a run has to last before a line is shown."""

STREAK_SHOWN_AFTER_S = 2.0
"""The same for several shorter runs, one after the other."""

INTERVAL_S = 0.25
CALM_AFTER_S = 5.0
"""If all runs last longer, the line is updated half as often: each update takes the kernel about 2 ms."""
LINGER_S = 0.5
"""How long a line waits for the next run of its cell."""

KEPT_CELLS = 32
"""How many cells without a run are kept, for cells that begin one run after the other."""

JOIN_BOUND_S = 5.0

_hushed: contextvars.ContextVar[bool] = contextvars.ContextVar("flyte_notebook hushed", default=False)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Show no line for runs that begin in this context."""
    token = _hushed.set(True)
    try:
        yield
    finally:
        _hushed.reset(token)


@dataclass(slots=True, eq=False)
class _Cell:
    """The line of one cell. ``lock`` is held while it is changed or shown."""

    sink: KernelSink
    context: contextvars.Context
    display_id: str = field(default_factory=unique)
    written: int = 0
    """How many texts had been written to it when the line was shown."""
    began_s: dict[str, float] = field(default_factory=dict)
    """The runs that are not over, by name."""
    busy_since_s: float = 0.0
    idle_since_s: float = float("-inf")
    ended: deque[Run] = field(default_factory=lambda: deque(maxlen=live.SHOWN_RUNS))
    ended_count: int = 0
    line: live.LiveLine | None = None
    displayed: bool = False
    stopping: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)


class LiveLines:
    """The lines of one kernel; ``session()`` is the open session, if any. All methods are thread-safe."""

    def __init__(self, session: Callable[[], Session | None]) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._cells: OrderedDict[str, _Cell] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._unable = False
        self.told: set[str] = set()
        """The names of passed runs that a line has shown; the reader empties it."""

    def began(self, run: Run, sink: Sink) -> None:
        """Add a run that begins; in the context of its cell. Without a kernel there are no lines.

        A point of a sweep has no line either: the sweep has one.
        """
        if _hushed.get() or isinstance(run.purpose, SweepPoint) or not isinstance(sink, KernelSink):
            return
        with self._lock:
            if self._closing.is_set():
                return
            cell = self._cells.get(sink.cell)
            if cell is None:
                cell = self._cells[sink.cell] = _Cell(sink, contextvars.copy_context())
            self._cells.move_to_end(sink.cell)
            self._forget_idle()
            now_s = monotonic_s()
            with cell.lock:
                if not cell.began_s and now_s - cell.idle_since_s > LINGER_S:
                    cell.busy_since_s = now_s
                cell.began_s[run.name] = now_s
                sink.before_bar = functools.partial(self._hurry, cell)
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_up, name="flyte-notebook-live", daemon=True)
                self._thread.start()

    def ended(self, run: Run) -> None:
        """Note the end of a run."""
        with self._lock:
            cell = next((cell for cell in self._cells.values() if run.name in cell.began_s), None)
        if cell is None:
            return
        with cell.lock:
            now_s = monotonic_s()
            took_s = now_s - cell.began_s.pop(run.name)
            of_card = isinstance(run.purpose, Rerun) and run.background  # the card says that it passed
            if _succeeded(run) and not of_card and not run.has_tree and (cell.displayed or took_s >= SHOWN_AFTER_S):
                cell.ended.append(run)
                cell.ended_count += 1
            if not cell.began_s:
                cell.idle_since_s = now_s

    def settle(self) -> None:
        """Replace the lines of cells without a run: a cell is about to end."""
        with self._lock:
            cells = list(self._cells.values())
        for cell in cells:
            with cell.lock:
                if not cell.began_s:
                    self._finish(cell)

    def close(self) -> None:
        """End all lines and the thread. Idempotent."""
        self._closing.set()
        with self._lock:
            cells, thread = list(self._cells.values()), self._thread
        for cell in cells:
            with cell.lock:
                cell.began_s.clear()
                self._finish(cell)
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_BOUND_S)

    def _keep_up(self) -> None:
        """Update the lines until all runs have ended."""
        while True:
            self._closing.wait(self._pause_s())
            with self._lock:
                cells = [cell for cell in self._cells.values() if cell.began_s or cell.line is not None]
                if not cells:
                    self._thread = None
                    return
            for cell in cells:
                with cell.lock:
                    self._try_to_refresh(cell)

    def _hurry(self, cell: _Cell) -> None:
        """Show the line now: a progress bar is about to be written, and stands in one place only below it."""
        with cell.lock:
            if cell.line is None and cell.began_s:
                self._try_to_refresh(cell, due=True)

    def _try_to_refresh(self, cell: _Cell, *, due: bool = False) -> None:
        """Show the line of a cell, if widgets can be made: an error of the widgets does not affect the runs."""
        if self._unable:
            return
        try:
            self._refresh(cell, monotonic_s(), due=due)
        except Exception as error:
            self._unable = cell.line is None
            logger.debug("could not show a live line", exc_info=True)
            losses.settle(relies.BY_KEY[relies.WIDGETS], error)

    def _pause_s(self) -> float:
        """Return how long to wait: after a while half as many updates are enough."""
        with self._lock:
            began_s = [one_s for cell in self._cells.values() for one_s in tuple(cell.began_s.values())]
        calm = bool(began_s) and monotonic_s() - max(began_s) > CALM_AFTER_S
        return 2 * INTERVAL_S if calm else INTERVAL_S

    def _forget_idle(self) -> None:
        idle = [name for name, cell in self._cells.items() if not cell.began_s]
        for name in idle[: max(0, len(idle) - KEPT_CELLS)]:
            del self._cells[name]

    def _refresh(self, cell: _Cell, now_s: float, *, due: bool) -> None:
        if not cell.began_s:
            if now_s - cell.idle_since_s >= LINGER_S:
                self._finish(cell)
            return
        if cell.line is None and not due and not _is_due(cell, now_s):
            return
        session = self._session()
        found = [] if session is None else list(filter(None, map(session.progress, cell.began_s)))
        if not found:
            return
        line = cell.line
        if line is None:
            cell.stopping = False
            line = _in(cell, lambda: live.LiveLine(lambda: self._clicked(cell)))
        _in(cell, lambda: line.update(found, stopping=cell.stopping))
        if cell.line is None:
            cell.line = line
            cell.written = output.written.setdefault(cell.sink.cell, 0)
            self._show(cell, line.show_bundle())

    def _clicked(self, cell: _Cell) -> None:
        with cell.lock:
            names = list(cell.began_s)
            cell.stopping = True
            if cell.line is not None:
                _in(cell, cell.line.stopping)
        session = self._session()
        if session is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing runs any more
            for name in names:
                session.stop_run(name)

    def _finish(self, cell: _Cell) -> None:
        line, cell.line = cell.line, None
        if line is None:
            return
        self.told.update(run.name for run in cell.ended)
        if output.written.pop(cell.sink.cell, 0) != cell.written and cell.ended:
            # Below the output of the runs: above it, a warning would seem to follow the success.
            self._show(cell, {"text/html": "", "text/plain": ""})
            cell.display_id, cell.displayed = unique(), False
        self._show(cell, _remains(cell))
        _in(cell, line.close)

    def _show(self, cell: _Cell, data: dict[str, Any]) -> None:
        cell.sink.display({"data": data, "transient": {"display_id": cell.display_id}, "update": cell.displayed})
        cell.displayed = True


def _is_due(cell: _Cell, now_s: float) -> bool:
    """Whether a line that is not visible yet has to be shown."""
    longest_s = now_s - min(cell.began_s.values())
    return longest_s >= SHOWN_AFTER_S or now_s - cell.busy_since_s >= STREAK_SHOWN_AFTER_S


def _in(cell: _Cell, call: Callable[[], Any]) -> Any:
    # A copy: a context can be entered by one thread at a time.
    return cell.context.copy().run(call)


def _remains(cell: _Cell) -> dict[str, Any]:
    """Return the final line: the runs that succeeded; a failed run has a card."""
    if not cell.ended:
        return {"text/html": "", "text/plain": ""}
    more = cell.ended_count - len(cell.ended)
    return {
        "text/html": live.ended_html(*cell.ended, more=more),
        "text/plain": live.ended_text(*cell.ended, more=more),
    }


def _succeeded(run: Run) -> bool:
    return run.failure is None and bool(run.actions) and isinstance(run.actions[0].outcome, Success)
