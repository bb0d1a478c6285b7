"""The entries for the behaviour of the SDK's client that runs on a cluster rely on, tried out by the first one."""

from __future__ import annotations

import functools
from typing import Any, Final

import flyte.errors

from flyte_notebook.core.reliance import Reliance, expect, losses
from flyte_notebook.sdk import seam
from flyte_notebook.sdk.cluster.uploads import Uploads

_of_the_sdk = functools.partial(Reliance, library="flyte", where="first use")

SERVICES: Final = {
    "run_service": (
        *("list_runs", "watch_action_details", "get_action_details", "list_actions"),
        "abort_run",
    ),
    "dataproxy_service": ("tail_logs", "get_action_data"),
}
"""The services of the SDK's client, and their calls that are used."""


def _client_is_known() -> None:
    from flyte.remote._client.controlplane import ClientSet  # noqa: PLC0415 - loaded by the first run

    for service in SERVICES:
        expect(isinstance(getattr(ClientSet, service, None), property), f"its client has no {service}")


def _uploads_are_told() -> None:
    from flyte.remote._progress import current_handler  # noqa: PLC0415 - as above

    told = Uploads()
    with told.listening():
        expect(current_handler() is told, "a handler of uploads is not asked")


def _errors_have_classes() -> None:
    found: Any = seam.native_error("user", "OOMKilled", "killed")
    expect(isinstance(found, flyte.errors.OOMError), f"OOMKilled is a {type(found).__name__}")
    found = seam.native_error("user", "ValueError", "no")
    expect(getattr(found, "code", None) == "ValueError", "an error has lost its code")


ENTRIES: Final = (
    _of_the_sdk(
        key="client of a cluster",
        behaviour="the client that `flyte.init` makes has `run_service` and `dataproxy_service`, with the calls of "
        "flyteidl2 by their names",
        lost="cells with `--remote`",
        names=("_client",),
        probe=_client_is_known,
    ),
    _of_the_sdk(
        key="uploads",
        behaviour="`report_uploads` makes the SDK tell of its uploads, and send them in pieces of 1 MiB",
        lost="the progress of uploads, and their speed: a minute for 100 MiB",
        names=("_progress",),
        probe=_uploads_are_told,
    ),
    _of_the_sdk(
        key="errors of a cluster",
        behaviour="`convert_error_to_native` gives the error of a cluster its class, by its code",
        lost="the class of an error of a cell with `--remote`",
        probe=_errors_have_classes,
    ),
)


@functools.cache
def check() -> None:
    """Try them out, once in a process."""
    losses.check(ENTRIES)
