"""Errors of a control plane: which they are, and the endpoint that they are about.

The SDK lets most errors of its client through as they are, so those of the RPC library belong to them. That library is
loaded in the kernel only: in a worker it would count against the user's limit.
"""

from __future__ import annotations

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
    """Return the classes that a call of a control plane raises and that are none of ``flyte.errors``."""
    from connectrpc.errors import ConnectError  # noqa: PLC0415 - not in a worker

    return (ConnectError,)


def endpoint_words(error: BaseException) -> str:
    """Return which endpoint an error is about, in a few words; empty for an error that is about none."""
    if not isinstance(error, _OF_FLYTE) and rpc_code(error) is None:
        return ""
    endpoint = seam.endpoint()
    return f"the endpoint is {endpoint}" if endpoint else "no endpoint is configured"


def rpc_code(error: BaseException) -> str | None:
    """Return the code of the RPC library's error as gRPC names it, ``None`` for any other error."""
    loaded = sys.modules.get("connectrpc.errors")
    if loaded is None or not isinstance(error, loaded.ConnectError):
        return None
    return str(error.code.name)
