"""What an error of the SDK arrives as is what its own conversion makes of it, class by class."""

from __future__ import annotations

import inspect
from typing import Any

import flyte.errors
import pytest
from flyte._internal.runtime import convert

from flyte_notebook.sdk.conversion import as_from_cluster

CLASSES = {
    name: kind for name, kind in vars(flyte.errors).items() if inspect.isclass(kind) and not name.startswith("_")
}
ERRORS = {name: kind for name, kind in CLASSES.items() if issubclass(kind, Exception)}
OF_USERS = "RuntimeUserError"
KNOWN = {
    *("RuntimeUserError", "RuntimeSystemError", "RuntimeUnknownError", "OOMError", "TaskInterruptedError"),
    *("PrimaryContainerNotFoundError", "RetriesExhaustedError", "InvalidImageNameError", "ImagePullBackOffError"),
    *("TaskTimeoutError", "MaxQueuedTimeExceededError", "MaxRuntimeExceededError", "DeadlineExceededError"),
}


def made(kind: Any) -> Exception:
    """Return an error of a class, whatever its arguments are called."""
    given = {"code": "Odd", "kind": "user"}
    needed = [
        given.get(name, "what happened")
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    error: Exception = kind(*needed or ["what happened"])
    return error


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_each_class_arrives_as_the_conversion_gives_it(name: str) -> None:
    """One that is known arrives as itself; of another one the code, or the name of the class, is left."""
    error = made(ERRORS[name])
    found = as_from_cluster(error)
    if name in KNOWN or name.startswith(("GPUFault", "AppleSilicon")):
        assert found is None or name == "GPUFaultError"
        return
    written = (flyte.errors.RuntimeUserError, flyte.errors.RuntimeSystemError, flyte.errors.RuntimeUnknownError)
    sent = error if isinstance(error, written) else flyte.errors.CustomError.from_exception(error)
    expected: Any = convert.convert_error_to_native(convert.convert_from_native_to_error(sent))
    assert found is not None
    assert (type(expected), expected.code, str(expected)) == (type(found), getattr(found, "code", None), str(found))


def test_a_sync_call_in_an_async_task_is_a_user_error_with_its_code() -> None:
    """The example that people meet."""
    found = as_from_cluster(flyte.errors.SyncTaskCallInAsyncContextError("use aio"))
    assert (OF_USERS, "SyncTaskCallInAsyncContextError", "use aio") == (
        type(found).__name__,
        getattr(found, "code", None),
        str(found),
    )


def test_what_is_of_the_user_stays_itself() -> None:
    """A class of the user's own, and one whose code has the letters of another error, are left alone."""

    class Own(flyte.errors.RuntimeUserError):
        pass

    assert as_from_cluster(Own("OwnCode", "mine")) is None
    assert as_from_cluster(ValueError("plain")) is None
    assert as_from_cluster(flyte.errors.CustomError("RoomNotFound", "none")) is None
