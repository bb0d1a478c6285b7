"""The error classes of ``flyte.errors`` under all documented names, and their conversion for other processes.

Every public class and function of the installed SDK's ``flyte.errors`` is importable from here, and so is every name
of the published reference, whichever supported SDK is installed:

- ``silence_grpc_polling_error`` is ``silence_polling_error`` in newer SDKs;
- ``RunAbortedError`` is ``ActionAbortedError`` where the SDK has only that one;
- ``ReferenceTaskError`` is, where the SDK has no such class, the tuple ``(RemoteTaskNotFoundError,
  RemoteTaskUsageError)``: the two have no common base class of their own, and a tuple works in ``except`` and
  ``isinstance``.

The place of our own classes in the SDK's tree::

    RuntimeError
    ├── ActionNotFoundError
    └── BaseRuntimeError
        ├── RuntimeSystemError
        ├── RuntimeUnknownError
        └── RuntimeUserError
            ├── OOMError, TaskTimeoutError, ...
            └── UnschedulableError    ours: this machine can never admit the task
    ValueError
    └── UnitError                     ours, in `flyte_notebook.core.units`

Most of the SDK's classes do not survive pickling, because their ``__init__`` takes other arguments than ``args``.
`pack` turns an error into plain values, `rebuild` turns those into an error of the same class with the same fields.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import flyte.errors
from flyte.errors import *  # noqa: F403 - all names of the installed SDK are available here, also those added later
from flyte.errors import ActionNotFoundError, BaseRuntimeError, RuntimeUserError

FlyteError: TypeAlias = BaseRuntimeError | ActionNotFoundError

ROOTS: Final = (BaseRuntimeError, ActionNotFoundError)
"""The two base classes of all errors of Flyte."""

_PLAIN_SCALARS: Final = (str, int, float, bool, bytes, type(None))
_PLAIN_CONTAINERS: Final = (dict, list, tuple, set, frozenset)
_PLAIN_DEPTH: Final = 8
MAX_TEXT_CHARS: Final = 250_000
MAX_NAME_CHARS: Final = 1_000
MAX_FIELDS_BYTES: Final = 1 << 20
"""Roughly the maximum size in memory of an error's values that are sent; values beyond it are left out."""

_OWN_FIELDS: Final = frozenset({"code", "kind", "worker"})
ON_CLUSTER: Final = "on_cluster"
"""The attribute of a task's error with the error that a caller on a cluster would get instead."""
_ATTACHED: Final = frozenset({"failure", "recoverable", ON_CLUSTER})
"""Attributes that diagnosis sets on an error for one attempt; they must not be sent to the next one."""


def failure_in(error: BaseException | None) -> Any:  # noqa: ANN401 - a Failure, which is of a floor above
    """Return the failure that an attempt gave an error; ``None`` when none did.

    ``error.failure`` itself exists for every error of Flyte while limits are enforced.
    """
    return getattr(error, "__dict__", {}).get("failure")


if TYPE_CHECKING:
    RunAbortedError = flyte.errors.ActionAbortedError
    silence_grpc_polling_error = flyte.errors.silence_polling_error
else:

    def _first(*names: str) -> Any:  # noqa: ANN401 - a class or a function, as the SDK has it
        return next(vars(flyte.errors)[name] for name in names if name in vars(flyte.errors))

    RunAbortedError = _first("RunAbortedError", "ActionAbortedError")
    silence_grpc_polling_error = _first("silence_grpc_polling_error", "silence_polling_error")

    def _bound(name: str) -> type[RuntimeUserError]:
        """Return the class of one bound of ``flyte.Timeout``; older SDKs have only its base, so it is made here."""
        if hasattr(flyte.errors, name):
            return getattr(flyte.errors, name)

        def init(self: RuntimeUserError, message: str) -> None:
            RuntimeUserError.__init__(self, name, message, "user")

        words = {"__doc__": "As in newer SDKs.", "__module__": __name__, "__qualname__": name, "__init__": init}
        return type(name, (flyte.errors.TaskTimeoutError,), words)

    DeadlineExceededError = _bound("DeadlineExceededError")
    MaxQueuedTimeExceededError = _bound("MaxQueuedTimeExceededError")
    MaxRuntimeExceededError = _bound("MaxRuntimeExceededError")

ReferenceTaskError: type[RuntimeUserError] | tuple[type[RuntimeUserError], ...] = getattr(
    flyte.errors,
    "ReferenceTaskError",
    tuple(
        getattr(flyte.errors, name)
        for name in ("RemoteTaskNotFoundError", "RemoteTaskUsageError")
        if hasattr(flyte.errors, name)
    ),
)
"""A class in old SDKs, else a tuple of the two classes that replaced it; usable in ``except`` and ``isinstance``."""


class UnschedulableError(RuntimeUserError):
    """The task can never start on this machine.

    Either it needs more memory than the machine has, or the memory it needs is held by tasks that wait for it.
    """

    def __init__(self, message: str, worker: str | None = None) -> None:
        super().__init__("Unschedulable", message, worker)


def recoverable(error: BaseException) -> bool:
    """Whether another attempt may help, by class alone, as the SDK decides it.

    ``NonRecoverableError`` and `UnschedulableError` end the attempts; for a class of the SDK that declares
    ``recoverable``, as the Apple Silicon errors do, this value is used; after any other error the task's retries are
    used.
    """
    never = (UnschedulableError, getattr(flyte.errors, "NonRecoverableError", UnschedulableError))
    if isinstance(error, never):
        return False
    of_the_sdk = (base for base in type(error).__mro__ if base.__module__ == flyte.errors.__name__)
    declared = any("recoverable" in vars(base) for base in of_the_sdk)
    return not declared or getattr(type(error), "recoverable", True) is not False


def pack(error: BaseException) -> dict[str, Any] | None:
    """Return the data for `rebuild`, in plain values that any pickle or JSON-like protocol supports.

    ``None`` for an error that is not of the SDK's tree. Attributes that are not plain values are left out, and so are
    those beyond `MAX_FIELDS_BYTES` in total.
    """
    if not isinstance(error, ROOTS):
        return None
    message, readable = _message(error)
    names = [_qualified(base) for base in type(error).__mro__ if issubclass(base, ROOTS)]
    if not readable:  # in the notebook its text would raise wherever it is shown
        names = [name for name in names if name.startswith(f"{flyte.errors.__name__}:")]
    room = _Room(MAX_FIELDS_BYTES)
    args = room.taken(error.args)
    attributes = {
        sendable(name): _sendable(plain[0])
        for name, value in vars(error).items()
        if name not in _OWN_FIELDS | _ATTACHED and (plain := room.taken(value)) is not None
    }
    return {
        "class": names[0],
        "bases": names[1:],
        "code": short(str(getattr(error, "code", type(error).__name__))),
        "kind": short(str(getattr(error, "kind", "user"))),
        "worker": _worker(error),
        "message": message,
        "args": (message,) if args is None else tuple(map(_sendable, args[0])),
        "attributes": attributes,
        "recoverable": recoverable(error),
    }


def rebuild(fields: dict[str, Any]) -> FlyteError:
    """Return the error from the data of `pack`: the same class, every field restored, ``__init__`` not called.

    A class that cannot be imported here, or made without its ``__init__``, is replaced by its nearest base that can.
    """
    for name in (fields["class"], *fields["bases"]):
        error = _blank(name)
        if error is None:
            continue
        # This bypasses the class's own __setattr__, since an exception class may be a frozen dataclass.
        BaseException.__setattr__(error, "args", tuple(fields["args"]))
        vars(error).update(fields["attributes"])
        if isinstance(error, BaseRuntimeError):
            vars(error).update({name: fields[name] for name in _OWN_FIELDS})
        return error
    return RuntimeUserError(fields["code"], fields["message"], fields["worker"])


def _qualified(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _message(error: BaseException) -> tuple[str, bool]:
    """Return the text of an error, and whether it has one."""
    try:
        return sendable(str(error)), True
    except BaseException:  # noqa: BLE001 - a user's class may raise any error
        return f"(the text of this {type(error).__name__} cannot be shown: its __str__ raises)", False


def sendable(text: str) -> str:
    """Return a text in a form for any protocol: of bounded length, and lone surrogates escaped.

    Jupyter cannot send these: a cell that shows one never gets a reply.
    """
    if len(text) > MAX_TEXT_CHARS:
        text = f"{text[:MAX_TEXT_CHARS]}... [{len(text)} characters in all]"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def short(text: str) -> str:
    """Return a text of one word or a few, as `sendable`."""
    return sendable(text if len(text) <= MAX_NAME_CHARS else f"{text[:MAX_NAME_CHARS]}…")


def _sendable(value: object) -> object:
    return sendable(value) if isinstance(value, str) else value


def _worker(error: BaseException) -> str | None:
    worker = getattr(error, "worker", None)
    return None if worker is None else short(str(worker))


def _blank(qualified: str) -> FlyteError | None:
    """Return an instance of the named class without attributes, ``None`` when that class cannot be loaded here."""
    module_name, _, path = qualified.partition(":")
    try:
        cls: object = attrgetter(path)(importlib.import_module(module_name))
    except (Exception, SystemExit):  # noqa: BLE001 - a user's class may raise any error
        return None
    if not inspect.isclass(cls) or not issubclass(cls, ROOTS):
        return None
    try:
        return RuntimeError.__new__(cls)
    except TypeError:  # the class also inherits from a built-in of another layout, such as OSError
        return None


class _Room:
    """A budget for values: roughly how many bytes of memory they may still take."""

    def __init__(self, left_bytes: int) -> None:
        self._left_bytes = left_bytes

    def taken(self, value: object) -> tuple[Any] | None:
        """Return a tuple holding ``value`` when it is made of plain values only and fits, else ``None``.

        Subclasses such as numpy scalars are not plain: unpickling them would import their library.
        """
        before_bytes = self._left_bytes
        if self._takes(value, _PLAIN_DEPTH):
            return (value,)
        self._left_bytes = before_bytes
        return None

    def _takes(self, value: object, depth: int) -> bool:
        kind = type(value)
        self._left_bytes -= sys.getsizeof(value) if kind in _PLAIN_SCALARS or kind in _PLAIN_CONTAINERS else 0
        if self._left_bytes < 0 or depth == 0:
            return False
        if isinstance(value, dict) and kind is dict:
            return all(self._takes(key, depth - 1) and self._takes(item, depth - 1) for key, item in value.items())
        if kind in _PLAIN_CONTAINERS:
            return all(self._takes(item, depth - 1) for item in cast("list[object]", value))
        return kind in _PLAIN_SCALARS


_OWN_NAMES: Final = (
    "FlyteError",
    "ReferenceTaskError",
    "RunAbortedError",
    "UnschedulableError",
    "pack",
    "rebuild",
    "recoverable",
    "silence_grpc_polling_error",
)
__all__ = [  # noqa: PLE0604 - the SDK's names are computed, not listed by hand
    *_OWN_NAMES,
    *(
        name
        for name, thing in vars(flyte.errors).items()
        if not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing))
    ),
]
