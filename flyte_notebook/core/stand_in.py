"""The exception that user code raised in another process, or the closest substitute in this process."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from flyte_notebook.errors import rebuild


class Described(Protocol):
    """The facts about a worker's exception that are needed here; `flyte_notebook.core.outcome.Raised` has them."""

    @property
    def type_name(self) -> str: ...  # noqa: D102 - the class says it

    @property
    def module(self) -> str: ...  # noqa: D102 - as above

    @property
    def message(self) -> str: ...  # noqa: D102 - as above

    @property
    def fields(self) -> dict[str, Any] | None: ...  # noqa: D102 - as above

    @property
    def pickled(self) -> bytes | None: ...  # noqa: D102 - as above


class WorkerTraceback(Exception):  # noqa: N818 - not an error of its own: the text of another process's traceback
    """Holds a traceback's text, so that ``traceback.format_exception`` shows it above the error it belongs to."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the worker process\n\n{self.text.rstrip()}\n"


def as_raised(raised: Described, unpickle: Callable[[bytes], Any] | None) -> BaseException:
    """Return the exception as user code raised it, or one of the same name and message. Never raises."""
    with suppress(BaseException):  # unpickling and a user's class may run any code
        if raised.fields is not None:
            return rebuild(raised.fields)
        if raised.pickled is not None and unpickle is not None:
            loaded = unpickle(raised.pickled)
            if isinstance(loaded, BaseException):
                return loaded
    return _stand_in(raised)


def attach(error: BaseException, name: str, value: object) -> None:
    """Set an attribute of an exception of any class, where that can be done at all."""
    # This bypasses the class's own __setattr__, since an exception class may be a frozen dataclass. A property that has
    # no setter, or whose setter raises any exception, is not changed.
    with suppress(BaseException):
        BaseException.__setattr__(error, name, value)


def attribute(error: BaseException, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as `getattr`
    """Return an attribute of an exception of any class; the default also where a property of the class raises."""
    with suppress(BaseException):
        return getattr(error, name, default)
    return default


def annotate(error: BaseException, note: str) -> None:
    """Add a note to an exception of any class, once: a traceback shows it below the message."""
    with suppress(BaseException):
        if note not in attribute(error, "__notes__", ()):
            BaseException.add_note(error, note)


def _stand_in(raised: Described) -> BaseException:
    """Return an exception with the message, and a class with the name, of the one that could not be loaded here.

    Where the original is a built-in class, ``isinstance`` still holds.
    """
    base = getattr(builtins, raised.type_name, None) if raised.module == "builtins" else None
    if not (isinstance(base, type) and issubclass(base, BaseException)):
        base = Exception
    namespace = {"__module__": raised.module, "__str__": lambda _: raised.message}
    for candidate in (base, Exception):
        with suppress(Exception):  # some built-in classes need arguments; the name may be no valid class name
            stand_in = type(raised.type_name, (candidate,), namespace)
            made: BaseException = candidate.__new__(stand_in)
            return made
    return Exception(raised.message)
