"""An exception of user code as plain facts that always travel, whatever the exception is made of."""

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
from flyte_notebook.core.outcome import Raised, SourceLine
from flyte_notebook.core.stand_in import WorkerTraceback
from flyte_notebook.core.userfiles import is_user_file
from flyte_notebook.errors import MAX_TEXT_CHARS, ON_CLUSTER, pack, sendable, short
from flyte_notebook.worker.stacks.allocation import refused_allocation
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from typing_extensions import Buffer

PAGE_BYTES = mmap.PAGESIZE
MAX_TRACEBACK_CHARS = 200_000
MAX_PICKLED_BYTES = 4 << 20
"""So much an exception and those that it was raised from may take together as pickles."""

MAX_PICKLED_PARTS = 100_000
"""Of how many steps a pickle may consist: an empty set takes two bytes there, and two hundred when it is loaded."""

MAX_LOADED_BYTES = 32 << 20
"""So much the worker may grow by when an exception is loaded; the notebook would as well."""

LOADED_RATIO = 4
"""What is loaded takes about so many times the size of its pickle, or more by what can be seen."""

MAX_LINES = 50
MAX_CAUSES = 8
MAX_CAUSES_CHARS = MAX_TEXT_CHARS + 1_000
"""So much the texts of all causes may have."""


def describe(error: BaseException) -> Raised:
    """Return the facts of an exception, without the exception itself. Never raises, whatever its ``__str__`` does."""
    cut = user_traceback(error.__traceback__)
    # Taken off, so that it does not travel with the exception itself.
    elsewhere = getattr(error, "__dict__", {}).pop(ON_CLUSTER, None)
    facts = _bare(error)
    return dataclasses.replace(
        facts,
        traceback=_traceback_text(error, cut),
        lines=user_lines(cut),
        recoverable=_recoverable(error),
        on_cluster=None if elsewhere is None else pack(elsewhere),
        refused=refused_allocation(error),
        cause=None if facts.fields is None else _cause(error, MAX_CAUSES, MAX_CAUSES_CHARS),
    )


def _bare(error: BaseException) -> Raised:
    """Return what an exception says of itself, without where it came from."""
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
    """Return the facts of an exception with that exception itself, and what it was raised from. May not return."""
    data, loaded_bytes = pickled(error, most_bytes)
    below, left_bytes = error.__cause__, most_bytes - len(data or b"")
    cause = None if facts.cause is None or below is None else with_pickled(facts.cause, below, left_bytes)
    return dataclasses.replace(facts, pickled=data, cause=cause, loaded_bytes=facts.loaded_bytes + loaded_bytes)


def pickled(error: BaseException, most_bytes: int = MAX_PICKLED_BYTES) -> tuple[bytes | None, int]:
    """Return an exception as bytes that can be loaded again, and what it takes in memory then, about.

    No bytes where that cannot be, or where it would take too many. It is loaded here once: a class may do anything when
    an exception of it is loaded, end the process for example, and what does so must not happen in the notebook. So this
    may not return; what `describe` said should be sent before.
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
        str(loaded)  # one whose text raises would do so in the notebook, too
        if type(loaded).__name__ == type(error).__name__ and grown_bytes <= MAX_LOADED_BYTES:
            return data, max(grown_bytes, LOADED_RATIO * len(data))
    return None, 0


class _Bounded(io.BytesIO):
    """Takes so many bytes and no more."""

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
    """Return the memory of this process, 0 where the system does not tell it so cheaply."""
    try:
        with open_file("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def _cause(error: BaseException, depth: int, left_chars: int) -> Raised | None:
    """Return the facts of what an error was raised from; the tracebacks are in the text of the error's own."""
    cause = error.__cause__
    if cause is None or isinstance(cause, WorkerTraceback) or depth == 0:
        return None
    facts = _bare(cause)
    left_chars -= len(facts.message)
    return None if left_chars < 0 else dataclasses.replace(facts, cause=_cause(cause, depth - 1, left_chars))


def user_traceback(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the user's first frame on; the whole if no frame is the user's."""
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
        # What a program made with exec, unless it is the program: ``python -c``. Named tuples are made so, for example.
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
        # Both ends: the lines of code stand first, and a message may be longer than everything else.
        half = MAX_TRACEBACK_CHARS // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return sendable(text)
