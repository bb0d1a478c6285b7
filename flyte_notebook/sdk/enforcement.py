"""The one session of this process: on, off, and what it has seen. The history outlives a session."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from flyte_notebook.engine.sinks import StandardSink
from flyte_notebook.history import History
from flyte_notebook.scheduler import MAX_PROCESSES
from flyte_notebook.sdk.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.engine import Sink
    from flyte_notebook.job import Semantics

history = History()
"""The runs of this process."""

_lock = threading.RLock()
_session: Session | None = None


def current() -> Session | None:
    """Return the open session, ``None`` while limits are not enforced."""
    return _session


def open_session(
    *,
    sink: Callable[[], Sink] = StandardSink,
    max_processes: int = MAX_PROCESSES,
    semantics: Semantics = "cluster",
) -> Session:
    """Open the session of this process, or return the open one. Raises `EngineError` when nothing can be isolated."""
    global _session  # noqa: PLW0603 - enforcement is a property of the process: the SDK has one seam
    with _lock:
        if _session is None:
            session = Session(history=history, sink=sink, max_processes=max_processes, semantics=semantics)
            session.open()
            atexit.register(close_session)
            _session = session
        return _session


def close_session() -> None:
    """Close the session, if one is open, and wait until everything of it is gone."""
    global _session
    with _lock:
        session, _session = _session, None
        if session is not None:
            atexit.unregister(close_session)
            session.close()
