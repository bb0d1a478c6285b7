"""Errors of a control plane: their classes, and the endpoint that they refer to.

The SDK does not convert most errors of its client, so errors of its RPC library reach the user. This library is loaded
in the kernel only: in a worker it would count against the user's limit. The SDK chooses and installs it: with an SDK
that has another one, only the features in `lost` do not work.
"""

from __future__ import annotations

import functools
import sys
from typing import Final

from flyte_notebook import errors
from flyte_notebook.sdk import initialization

_OF_FLYTE: Final = (
    errors.ActionNotFoundError,
    errors.InitializationError,
    errors.LogsNotYetAvailableError,
    errors.RemoteTaskNotFoundError,
    errors.SlowDownError,
    errors.UnionRpcError,
)


_REFUSALS: Final = frozenset(
    {
        *("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "UNAUTHENTICATED"),
        *("FAILED_PRECONDITION", "UNIMPLEMENTED", "OUT_OF_RANGE"),
    }
)


def rpc_errors() -> tuple[type[Exception], ...]:
    """Return the known classes outside of ``flyte.errors`` that a call of a control plane raises.

    Loads the RPC library.
    """
    return _rpc_library()[0]


def lost() -> str:
    """Return what does not work because the SDK's RPC library is not the known one, and why; empty when all does."""
    why = _rpc_library()[1]
    return f"an error of the control plane's client is shown as any other, without its endpoint: {why}" if why else ""


@functools.cache
def _rpc_library() -> tuple[tuple[type[Exception], ...], str]:
    """Return the classes of errors, or why there are none."""
    try:
        from connectrpc.errors import ConnectError  # noqa: PLC0415 - not in a worker
    except Exception as error:  # noqa: BLE001 - the import of another version may raise any error
        return (), f"{type(error).__name__}: {error}"
    found: object = ConnectError
    if isinstance(found, type) and issubclass(found, Exception):
        return (found,), ""
    return (), f"connectrpc.errors.ConnectError is no class of exceptions: {found!r}"


def endpoint_words(error: BaseException) -> str:
    """Return in a few words the endpoint that an error refers to; empty if it refers to none."""
    if not isinstance(error, _OF_FLYTE) and rpc_code(error) is None:
        return ""
    endpoint = initialization.endpoint()
    return f"the endpoint is {endpoint}" if endpoint else "no endpoint is configured"


def is_refusal(error: BaseException) -> bool:
    """Whether a control plane refuses a request, so that there is no use in sending it again."""
    return rpc_code(error) in _REFUSALS


def rpc_code(error: BaseException) -> str | None:
    """Return the code of the RPC library's error as gRPC names it, ``None`` for any other error."""
    if "connectrpc.errors" not in sys.modules or not isinstance(error, rpc_errors()):
        return None
    code = getattr(error, "code", None)
    return str(getattr(code, "name", code))
