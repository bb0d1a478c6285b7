"""All texts of the catalogue by class name, and the names of the reference that are not separate classes."""

from __future__ import annotations

from typing import Final

from flyte_notebook.catalogue import bound_texts, call_texts, cluster_texts, run_texts
from flyte_notebook.catalogue.explanation import Words

WORDS: Final[dict[str, Words]] = {
    **run_texts.WORDS,
    **bound_texts.WORDS,
    **call_texts.WORDS,
    **cluster_texts.CONTROL_PLANE,
    **cluster_texts.BUILDING,
    **cluster_texts.DEVICES,
}

POLLING: Final = Words(
    meaning="Not an error: a handler for an event loop, which drops the BlockingIOErrors that polling for messages "
    "causes in a notebook, and hands everything else on.",
    kind="none",
    on_cluster="Nothing is raised. The SDK puts it on a loop when `.aio()` is called there, over whatever was there.",
    here="`%load_ext flyte_notebook` installs a handler that does the same, once, and calls the one that was there "
    "before for everything else. `%flyte doctor` shows how many it silenced.",
    recover="""\
import asyncio

from flyte_notebook.errors import silence_grpc_polling_error


async def main() -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(silence_grpc_polling_error)
    try:
        loop.call_exception_handler({"message": "polling", "exception": BlockingIOError()})
        print("caught BlockingIOError: nothing is shown")
    finally:
        loop.set_exception_handler(before)


asyncio.run(main())
""",
    prevent="Nothing to prevent; the errors that it drops mean nothing.",
    related=("UnionRpcError", "BlockingIOError"),
    real_here=True,
)

REMOTE_TASKS: Final = Words(
    meaning="The reference's name for errors of deployed tasks. Newer SDKs have two classes for it, so here it is a "
    "tuple of both, which works in `except` and `isinstance`.",
    kind="user",
    on_cluster="As RemoteTaskNotFoundError (no such task) or RemoteTaskUsageError (used in a way that is not allowed).",
    here="Not by itself: getting a deployed task needs a control plane.",
    recover="""\
from flyte.errors import RemoteTaskUsageError

from flyte_notebook.errors import ReferenceTaskError


def call_by_position() -> str:
    # Raised by hand, to try the clause below: by itself it needs a control plane.
    raise RemoteTaskUsageError("Remote task etl.load does not support positional arguments")


try:
    call_by_position()
except ReferenceTaskError as error:
    print("caught", type(error).__name__, error.code)
    print("call it with keyword arguments: await load(path=...)")
""",
    prevent="Deploy first, check name and version, and call with keyword arguments.",
    related=("RemoteTaskNotFoundError", "RemoteTaskUsageError"),
)
