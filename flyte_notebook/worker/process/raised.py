"""An exception of user code as plain facts, which can always be sent, whatever the exception contains."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import linecache
import mmap
import pickle
import traceback
from typing import TYPE_CHECKING

from flyte_notebook.core.bound import open_file
from flyte_notebook.core.outcome import Raised, RefusedAllocation, SourceLine
from flyte_notebook.core.stand_in import WorkerTraceback
from flyte_notebook.core.userfiles import is_user_file
from flyte_notebook.errors import MAX_TEXT_CHARS, ON_CLUSTER, pack, sendable, short
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from typing_extensions import Buffer

PAGE_BYTES = mmap.PAGESIZE
MAX_TRACEBACK_CHARS = 200_000
MAX_PICKLED_BYTES = 4 << 20
"""The maximum size of the pickles of an exception and its causes together."""

MAX_PICKLED_PARTS = 100_000
"""The maximum number of steps in a pickle: an empty set takes two bytes there, and two hundred when it is loaded."""

MAX_LOADED_BYTES = 32 << 20
"""The maximum growth of the worker when an exception is loaded; the notebook would grow as much."""

LOADED_RATIO = 4
"""A loaded exception takes about this many times the size of its pickle, or more if the process grew more."""

MAX_LINES = 50
MAX_CAUSES = 8
MAX_CAUSES_CHARS = MAX_TEXT_CHARS + 1_000
"""The maximum length of the texts of all causes."""


def _refused(error: BaseException) -> RefusedAllocation | None:
    if not isinstance(error, MemoryError):
        return None
    try:
        from flyte_notebook.worker.stacks.allocation import refused_allocation  # noqa: PLC0415 - 70 KiB, seldom needed
    except Exception:
        return RefusedAllocation()
    return refused_allocation(error)


def describe(error: BaseException) -> Raised:
    """Return the facts of an exception, without the exception itself. Never raises, even if its ``__str__`` does."""
    cut = user_traceback(error.__traceback__)
    # Removed, so that it is not sent with the exception itself.
    elsewhere = getattr(error, "__dict__", {}).pop(ON_CLUSTER, None)
    facts = _bare(error)
    return dataclasses.replace(
        facts,
        traceback=_traceback_text(error, cut),
        lines=user_lines(cut),
        recoverable=_recoverable(error),
        on_cluster=None if elsewhere is None else pack(elsewhere),
        refused=_refused(error),
        cause=None if facts.fields is None else _cause(error, MAX_CAUSES, MAX_CAUSES_CHARS),
    )


def _bare(error: BaseException) -> Raised:
    """Return the facts of one exception, without its causes."""
    fields = None
    with contextlib.suppress(BaseException):
        fields = pack(error)
    return Raised(
        type_name=short(type(error).__name__),
        module=short(str(type(error).__module__)),
        message=_message(error),
        traceback="",
        fields=fields,
        loaded_bytes=0 if fields is None else LOADED_RATIO * len(pickle.dumps(fields)),
    )


def with_pickled(facts: Raised, error: BaseException, most_bytes: int = MAX_PICKLED_BYTES) -> Raised:
    """Return the facts of an exception with the exception itself and its causes. May not return."""
    data, loaded_bytes = pickled(error, most_bytes)
    below, left_bytes = error.__cause__, most_bytes - len(data or b"")
    cause = None if facts.cause is None or below is None else with_pickled(facts.cause, below, left_bytes)
    return dataclasses.replace(facts, pickled=data, cause=cause, loaded_bytes=facts.loaded_bytes + loaded_bytes)


def pickled(error: BaseException, most_bytes: int = MAX_PICKLED_BYTES) -> tuple[bytes | None, int]:
    """Return an exception as bytes that can be loaded again, and roughly its size in memory then.

    No bytes if this is impossible, or if there would be too many. It is loaded here once: a class may run any code when
    its exception is loaded, and for example end the process; this must not happen in the notebook. So this function may
    not return; the facts from `describe` should be sent before.
    """
    with contextlib.suppress(BaseException):
        file = _Bounded(most_bytes)
        pickling.CellPickler(file).dump(error)
        data = file.getvalue()
        if _has_too_many_parts(data):
            return None, 0
        before_bytes = _resident_bytes()
        loaded = pickling.loads(data)
        grown_bytes = _resident_bytes() - before_bytes
        str(loaded)  # if str() raises here, it would do so in the notebook, too
        if type(loaded).__name__ == type(error).__name__ and grown_bytes <= MAX_LOADED_BYTES:
            return data, max(grown_bytes, LOADED_RATIO * len(data))
    return None, 0


class _Bounded(io.BytesIO):
    """Accepts that many bytes and no more."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._left_bytes = most_bytes

    def write(self, data: Buffer) -> int:
        self._left_bytes -= memoryview(data).nbytes
        if self._left_bytes < 0:
            raise OverflowError("more than may travel")
        return super().write(data)


def _has_too_many_parts(data: bytes) -> bool:
    if len(data) <= MAX_PICKLED_PARTS:  # each takes a byte at least
        return False
    from pickletools import genops  # noqa: PLC0415 - for large ones only

    return any(number > MAX_PICKLED_PARTS for number, _ in enumerate(genops(data)))


def _resident_bytes() -> int:
    """Return the memory of this process, 0 on systems where reading it is not cheap."""
    try:
        with open_file("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def _cause(error: BaseException, depth: int, left_chars: int) -> Raised | None:
    """Return the facts of an error's causes; their tracebacks are part of the error's own."""
    cause = error.__cause__
    if cause is None or isinstance(cause, WorkerTraceback) or depth == 0:
        return None
    facts = _bare(cause)
    left_chars -= len(facts.message)
    return None if left_chars < 0 else dataclasses.replace(facts, cause=_cause(cause, depth - 1, left_chars))


def user_traceback(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's first frame on; all of it if no frame is the user's."""
    at = trace
    while at is not None and not is_user_frame(at.tb_frame):
        at = at.tb_next
    return at if at is not None else trace


def user_lines(trace: TracebackType | None) -> tuple[SourceLine, ...]:
    """Return the user's frames of a traceback, outermost first, at most the last 50."""
    lines = []
    for frame, number in traceback.walk_tb(trace):
        code = frame.f_code
        if is_user_frame(frame):
            text = linecache.getline(code.co_filename, number, frame.f_globals).strip()
            lines.append(SourceLine(file=code.co_filename, number=number, text=text, function=code.co_name))
    return tuple(lines[-MAX_LINES:])


def is_user_frame(frame: FrameType) -> bool:
    """Whether a frame is the user's: not ours, not installed, not the standard library."""
    filename = frame.f_code.co_filename
    if filename.startswith(("<string", "<stdin")):
        # Code that a program ran with exec (as for named tuples), unless it is the program itself: ``python -c``.
        return bool(frame.f_globals.get("__name__") == "__main__")
    return is_user_file(filename)


def _recoverable(error: BaseException) -> bool:
    try:
        return bool(getattr(error, "recoverable", True))
    except BaseException:
        return True


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as inner:
        text = f"<the message could not be read: {type(inner).__name__} in __str__>"
    return sendable(text)


def _traceback_text(error: BaseException, trace: TracebackType | None) -> str:
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:
        text = "".join(traceback.format_tb(trace)) + type(error).__name__
    if len(text) > MAX_TRACEBACK_CHARS:
        # Keep both ends: the lines of code come first, and a message may be longer than all other parts.
        half = MAX_TRACEBACK_CHARS // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return sendable(text)
