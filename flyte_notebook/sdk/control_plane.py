"""Errors of a control plane: which they are, and the endpoint that they are about.

The SDK lets most errors of its client through as they are, so those of the RPC library belong to them. That library is
loaded in the kernel only: in a worker it would count against the user's limit. It is the SDK's choice and comes with
it: an SDK that has another one costs what `lost` says, and nothing else.
"""

from __future__ import annotations

import functools
import sys
from typing import Final

from flyte_notebook import errors
from flyte_notebook.sdk import seam

_OF_FLYTE: Final = (
    errors.ActionNotFoundError,
    errors.InitializationError,
    errors.LogsNotYetAvailableError,
    errors.RemoteTaskNotFoundError,
    errors.SlowDownError,
    errors.UnionRpcError,
)


def rpc_errors() -> tuple[type[Exception], ...]:
    """Return the classes that a call of a control plane raises and that are none of ``flyte.errors``, as far as known.

    Loads the RPC library.
    """
    return _rpc_library()[0]


def lost() -> str:
    """Return what does not work because the SDK's RPC library is not the known one, and why; empty when all does."""
    why = _rpc_library()[1]
    return f"an error of the control plane's client is shown as any other, without its endpoint: {why}" if why else ""


@functools.cache
def _rpc_library() -> tuple[tuple[type[Exception], ...], str]:
    """Return the classes of errors, and why there are none."""
    try:
        from connectrpc.errors import ConnectError  # noqa: PLC0415 - not in a worker
    except Exception as error:  # noqa: BLE001 - whatever the import of another version may raise
        return (), f"{type(error).__name__}: {error}"
    found: object = ConnectError
    if isinstance(found, type) and issubclass(found, Exception):
        return (found,), ""
    return (), f"connectrpc.errors.ConnectError is no class of exceptions: {found!r}"


def endpoint_words(error: BaseException) -> str:
    """Return which endpoint an error is about, in a few words; empty for an error that is about none."""
    if not isinstance(error, _OF_FLYTE) and rpc_code(error) is None:
        return ""
    endpoint = seam.endpoint()
    return f"the endpoint is {endpoint}" if endpoint else "no endpoint is configured"


def rpc_code(error: BaseException) -> str | None:
    """Return the code of the RPC library's error as gRPC names it, ``None`` for any other error."""
    if "connectrpc.errors" not in sys.modules or not isinstance(error, rpc_errors()):
        return None
    code = getattr(error, "code", None)
    return str(getattr(code, "name", code))
