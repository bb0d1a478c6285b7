"""Tests of the error classes: every promised name is there, and every class crosses processes whole."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import flyte.errors
import pytest

from flyte_notebook import errors

if TYPE_CHECKING:
    from pathlib import Path

# The names of the published reference (flyte 2.0.0b33).
REFERENCE = [
    "ActionNotFoundError",
    "BaseRuntimeError",
    "CustomError",
    "DeploymentError",
    "ImageBuildError",
    "ImagePullBackOffError",
    "InitializationError",
    "InlineIOMaxBytesBreached",
    "InvalidImageNameError",
    "LogsNotYetAvailableError",
    "ModuleLoadError",
    "NotInTaskContextError",
    "OOMError",
    "OnlyAsyncIOSupportedError",
    "PrimaryContainerNotFoundError",
    "ReferenceTaskError",
    "RetriesExhaustedError",
    "RunAbortedError",
    "RuntimeDataValidationError",
    "RuntimeSystemError",
    "RuntimeUnknownError",
    "RuntimeUserError",
    "SlowDownError",
    "TaskInterruptedError",
    "TaskTimeoutError",
    "UnionRpcError",
    "silence_grpc_polling_error",
]

SDK_ERRORS = [
    thing
    for thing in vars(flyte.errors).values()
    if inspect.isclass(thing) and issubclass(thing, BaseException) and thing.__module__ == flyte.errors.__name__
]
ALL_ERRORS = [*SDK_ERRORS, errors.UnschedulableError]


def _made(cls: type[BaseException]) -> BaseException:
    """Return an instance of an error class with a different value for each argument its constructor names."""
    if cls is flyte.errors.ActionNotFoundError:
        return cls("no such action", 7)
    values: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            values[name] = 31 if name.endswith(("_code", "_index")) else f"the {name}"
    if issubclass(cls, getattr(flyte.errors, "GPUFaultError", ())):  # older SDKs have no such class
        values |= {"fault_kind": "xid", "fault_code": 31}
    return cls(**values)


@pytest.mark.parametrize("name", REFERENCE)
def test_every_name_of_the_reference_is_importable(name: str) -> None:
    """Each name of the reference can be imported from the errors module."""
    assert name in errors.__all__
    assert hasattr(errors, name)


@pytest.mark.parametrize(
    "name",
    [name for name, thing in vars(flyte.errors).items() if name[0] != "_" and hasattr(thing, "__module__")],
)
def test_every_name_of_the_sdk_is_the_sdks_own(name: str) -> None:
    """Each class and function of the installed SDK is here, as the same object."""
    assert getattr(flyte.errors, name) is getattr(errors, name)


@pytest.mark.parametrize("name", errors.__all__)
def test_everything_listed_exists(name: str) -> None:
    """The public list holds no name that is not there."""
    assert hasattr(errors, name)


def test_an_abort_is_caught_under_both_of_its_names() -> None:
    """The class that the reference calls RunAbortedError catches what the SDK raises for an aborted action."""
    with pytest.raises(errors.RunAbortedError):
        raise flyte.errors.ActionAbortedError("aborted")


@pytest.mark.parametrize("cls", [flyte.errors.RemoteTaskNotFoundError, flyte.errors.RemoteTaskUsageError])
def test_a_reference_task_error_works_in_except_and_isinstance(cls: type[Exception]) -> None:
    """ReferenceTaskError catches both classes that took its place."""
    error = cls("no such task")
    with pytest.raises(errors.ReferenceTaskError):
        raise error
    assert isinstance(error, errors.ReferenceTaskError)


def test_the_polling_handler_drops_blocking_errors_and_nothing_else() -> None:
    """The polling-error handler silences BlockingIOError and passes everything else to the loop's default."""
    passed: list[dict[str, Any]] = []
    loop = asyncio.new_event_loop()
    try:
        loop.default_exception_handler = passed.append  # type: ignore[method-assign] # to see what arrives
        other = {"exception": ValueError("other")}
        errors.silence_grpc_polling_error(loop, {"exception": BlockingIOError()})
        errors.silence_grpc_polling_error(loop, other)
    finally:
        loop.close()
    assert [other] == passed


def test_the_sdk_was_asked_for_its_errors() -> None:
    """The introspection below finds the SDK's classes: at least the 26 of the reference's time."""
    assert len(SDK_ERRORS) >= 26


@pytest.mark.parametrize("cls", ALL_ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_makes_the_round_trip(cls: type[BaseException]) -> None:
    """Every error class comes out of a pickle of its packed form with the same class, text and fields."""
    error = _made(cls)
    packed = errors.pack(error)
    assert packed is not None
    rebuilt = errors.rebuild(pickle.loads(pickle.dumps(packed)))  # noqa: S301 - pickled in the line itself
    assert type(error) is type(rebuilt)
    assert str(error) == str(rebuilt)
    assert error.args == rebuilt.args
    assert vars(error) == vars(rebuilt)
    properties = [name for name, member in inspect.getmembers(cls) if isinstance(member, property)]
    assert {name: getattr(error, name) for name in properties} == {name: getattr(rebuilt, name) for name in properties}
    assert packed == errors.pack(rebuilt)


class WithExtras(flyte.errors.OOMError):
    """An error of a user, with a constructor and attributes of its own."""

    def __init__(self, table: str, rows: int) -> None:
        super().__init__("TooManyRows", f"{table} has {rows} rows")
        self.table = table
        self.sizes = {"rows": [rows, 2.5, None, (b"x", True)]}
        self.handle = object()
        self.__notes__ = ["a note"]  # what add_note of Python 3.11 does


def test_a_users_subclass_keeps_its_class_and_plain_attributes() -> None:
    """A subclass of the user comes back as itself with its plain attributes and notes; the rest is left out."""
    packed = errors.pack(WithExtras("orders", 7))
    assert packed is not None
    rebuilt = errors.rebuild(pickle.loads(pickle.dumps(packed)))  # noqa: S301 - pickled in the line itself
    assert type(rebuilt) is WithExtras
    assert "orders has 7 rows" == str(rebuilt)
    assert ("TooManyRows", "user", None) == (rebuilt.code, rebuilt.kind, rebuilt.worker)
    assert {"table": "orders", "sizes": {"rows": [7, 2.5, None, (b"x", True)]}, "__notes__": ["a note"]} == (
        packed["attributes"]
    )
    assert "orders" == rebuilt.table
    assert ["a note"] == rebuilt.__notes__


def test_a_class_that_cannot_be_imported_becomes_its_nearest_base() -> None:
    """A class that only the worker knows comes back as the closest base that is known here."""

    class Local(flyte.errors.PrimaryContainerNotFoundError):
        pass

    packed = errors.pack(Local("C", "m", "w"))
    assert packed is not None
    rebuilt = errors.rebuild(packed)
    assert type(rebuilt) is flyte.errors.PrimaryContainerNotFoundError
    assert ("C", "m", "w") == (rebuilt.code, str(rebuilt), rebuilt.worker)


def test_a_module_that_breaks_on_import_does_not_break_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class whose module exits when it is imported comes back as its base."""
    (tmp_path / "breaks_on_import.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    packed = errors.pack(flyte.errors.OOMError("OOMKilled", "m"))
    assert packed is not None
    packed["bases"] = [packed["class"], *packed["bases"]]
    packed["class"] = "breaks_on_import:Error"
    assert type(errors.rebuild(packed)) is flyte.errors.OOMError


def test_a_name_that_now_is_something_else_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed class name never makes anything but an error of the SDK's tree."""
    module = ModuleType("something_else")
    module.Error = RuntimeError  # type: ignore[attr-defined] # a module made for this test
    monkeypatch.setitem(sys.modules, "something_else", module)
    packed = errors.pack(flyte.errors.OOMError("OOMKilled", "m"))
    assert packed is not None
    packed |= {"class": "something_else:Error", "bases": []}
    assert type(errors.rebuild(packed)) is flyte.errors.RuntimeUserError


def test_a_class_of_another_layout_becomes_its_nearest_base() -> None:
    """A subclass that is an OSError too cannot be made without its constructor and comes back as its base."""
    packed = errors.pack(TwoSidedError("C", "m"))
    assert packed is not None
    assert type(errors.rebuild(packed)) is flyte.errors.RuntimeUserError


class TwoSidedError(flyte.errors.RuntimeUserError, OSError):
    """An error of a user that is also an OSError."""


def test_an_error_whose_text_raises_is_packed_all_the_same() -> None:
    """A broken __str__ in a user's class does not lose the error."""

    class Broken(flyte.errors.OOMError):
        def __str__(self) -> str:
            raise ZeroDivisionError

    packed = errors.pack(Broken("C", "m"))
    assert packed is not None
    assert "Broken" in packed["message"]


def test_what_is_not_of_the_sdk_is_not_packed() -> None:
    """Any other exception gives None."""
    assert errors.pack(ValueError("x")) is None


def test_what_diagnosis_attached_stays_behind() -> None:
    """The failure and the verdict on retries belong to one attempt and do not travel."""
    error = flyte.errors.OOMError("OOMKilled", "m")
    error.failure, error.recoverable = "x", False  # type: ignore[attr-defined] # as diagnosis does
    packed = errors.pack(error)
    assert packed is not None
    assert {} == packed["attributes"]
    assert packed["recoverable"] is True


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (True, flyte.errors.OOMError("OOMKilled", "m")),
        (True, errors.MaxRuntimeExceededError("m")),
        (True, ValueError("m")),
        (False, flyte.errors.NonRecoverableError("m")),
        (False, errors.UnschedulableError("m")),
        *(
            (expected, getattr(flyte.errors, name)("m"))
            for expected, name in ((False, "AppleSiliconNotAvailableError"), (True, "AppleSiliconDaemonOOMError"))
            if hasattr(flyte.errors, name)  # older SDKs have no such classes
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_another_attempt_may_help_or_not_by_class(expected: bool, error: BaseException) -> None:  # noqa: FBT001 - expected value
    """Only the classes that say so end the attempts."""
    assert expected is errors.recoverable(error)


def test_unschedulable_is_a_user_error_with_its_own_code() -> None:
    """A task that can never start is a user error with code Unschedulable."""
    error = errors.UnschedulableError("needs too much", "run-a0-0")
    assert isinstance(error, flyte.errors.RuntimeUserError)
    assert ("Unschedulable", "user", "needs too much", "run-a0-0") == (error.code, error.kind, str(error), error.worker)
