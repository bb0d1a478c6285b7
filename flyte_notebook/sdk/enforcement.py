"""The single session of this process: opening, closing, settings. The history outlives a session."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from flyte_notebook.engine.output_pump import StandardSink
from flyte_notebook.engine.scheduler import MAX_PROCESSES
from flyte_notebook.history import History
from flyte_notebook.sdk.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.job import Semantics
    from flyte_notebook.engine import Sink
    from flyte_notebook.sdk.watching import Watch

SEMANTICS: tuple[Semantics, ...] = ("cluster", "reference")

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
    watch: Watch | None = None,
    max_processes: int = MAX_PROCESSES,
) -> Session:
    """Open the session of this process, or return the open one. Raises `EngineError` when nothing can be isolated."""
    global _session  # noqa: PLW0603 - enforcement is a property of the process: the SDK has one seam
    with _lock:
        if _session is None:
            session = Session(history=history, sink=sink, watch=watch, max_processes=max_processes)
            session.open()
            atexit.register(close_session)
            _session = session
        return _session


def check_settings(*, semantics: Semantics | None = None, system_retries: int | None = None) -> None:
    """Refuse invalid settings. Raises ValueError, which says what is allowed."""
    if semantics is not None and semantics not in SEMANTICS:
        raise ValueError(f"{semantics!r} is neither {' nor '.join(SEMANTICS)}")
    if system_retries is not None and (type(system_retries) is not int or system_retries < 0):
        raise ValueError(f"{system_retries!r} is not a number of retries; give 0, 1, 2, ...")


def change_settings(session: Session, *, semantics: Semantics | None = None, system_retries: int | None = None) -> None:
    """Change the given settings, for attempts that begin afterwards. Raises ValueError."""
    check_settings(semantics=semantics, system_retries=system_retries)
    if semantics is not None:
        session.semantics = semantics
    if system_retries is not None:
        session.system_retries = system_retries


def close_session() -> None:
    """Close the session, if one is open, and wait until all of it is removed."""
    global _session
    with _lock:
        session, _session = _session, None
        if session is not None:
            atexit.unregister(close_session)
            session.close()
