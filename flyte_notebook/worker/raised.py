"""An exception of user code as plain facts that always travel, whatever the exception is made of."""

from __future__ import annotations

import contextlib
import linecache
import os
import sysconfig
import traceback
from typing import TYPE_CHECKING

from flyte_notebook import errors
from flyte_notebook.outcome import Raised, SourceLine
from flyte_notebook.worker import pickling

if TYPE_CHECKING:
    from types import TracebackType

MAX_MESSAGE_CHARS = 1_000_000
MAX_TRACEBACK_CHARS = 200_000
MAX_PICKLED_BYTES = 8 << 20
MAX_LINES = 50

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def describe(error: BaseException) -> Raised:
    """Return the facts of an exception. Never raises, whatever its ``__str__`` does."""
    cut = user_traceback(error.__traceback__)
    fields = None
    pickled = None
    with contextlib.suppress(Exception):
        fields = errors.pack(error)
    with contextlib.suppress(Exception):
        pickled = pickling.dumps(error)
        pickling.loads(pickled)
    if pickled is not None and len(pickled) > MAX_PICKLED_BYTES:
        pickled = None
    return Raised(
        type_name=type(error).__name__,
        module=type(error).__module__,
        message=_message(error),
        traceback=_traceback_text(error, cut),
        lines=user_lines(cut),
        fields=fields,
        pickled=pickled,
        recoverable=bool(getattr(error, "recoverable", True)),
    )


def user_traceback(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's first frame on; the whole if no frame is the user's."""
    at = trace
    while at is not None and not is_user_file(at.tb_frame.f_code.co_filename):
        at = at.tb_next
    return at if at is not None else trace


def user_lines(trace: TracebackType | None) -> tuple[SourceLine, ...]:
    """Return the user's frames of a traceback, outermost first, at most the last 50."""
    lines = []
    for frame, number in traceback.walk_tb(trace):
        code = frame.f_code
        if is_user_file(code.co_filename):
            text = linecache.getline(code.co_filename, number, frame.f_globals).strip()
            lines.append(SourceLine(file=code.co_filename, number=number, text=text, function=code.co_name))
    return tuple(lines[-MAX_LINES:])


def is_user_file(filename: str) -> bool:
    """Whether a frame of that file is the user's: not ours, not installed, not the standard library."""
    if filename.startswith("<") and not filename.startswith(("<ipython", "<cell", "<string", "<stdin")):
        return False
    installed = f"{os.sep}site-packages{os.sep}" in filename or f"{os.sep}dist-packages{os.sep}" in filename
    return not installed and not filename.startswith((_HERE, *_installed()))


def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[key] + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as inner:
        text = f"<the message could not be read: {type(inner).__name__} in __str__>"
    if len(text) > MAX_MESSAGE_CHARS:
        text = f"{text[:MAX_MESSAGE_CHARS]}... [{len(text)} characters in all]"
    return text


def _traceback_text(error: BaseException, trace: TracebackType | None) -> str:
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:
        text = "".join(traceback.format_tb(trace)) + type(error).__name__
    return text if len(text) <= MAX_TRACEBACK_CHARS else f"[...]\n{text[-MAX_TRACEBACK_CHARS:]}"
