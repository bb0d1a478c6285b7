"""Turns exceptions of user code during pickling or loading into ordinary errors.

User classes may raise any exception then. An exit or an interrupt would end a loop with its thread, or the process.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator

from flyte_notebook.errors import sendable
from flyte_notebook.worker.process import context


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Let a block raise errors only: PickleError in place of a BaseException, except for a real interrupt."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        on_main = threading.current_thread() is threading.main_thread()
        if isinstance(error, KeyboardInterrupt) and on_main and not context.in_worker():
            raise
        raise pickle.PickleError(words_of(error)) from error


def words_of(error: BaseException) -> str:
    """Return the message for an exception that no code should raise there."""
    try:
        said = sendable(str(error))
    except BaseException:
        said = ""
    return f"{type(error).__name__}({said}) was raised while values were pickled or loaded"
