"""Probes of the data that a run and a call pass to the SDK; part of `probes`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any

import flyte

from flyte_notebook.core.reliance import expect
from flyte_notebook.sdk import calls, seam
from flyte_notebook.sdk.tasks import probe_task


def settings_of_runs_are_known() -> None:
    given: dict[str, tuple[Any, dict[str, str]]] = {
        "env_vars": ({"FLYTE_NOTEBOOK_PROBE": "1"}, {"FLYTE_NOTEBOOK_PROBE": "1"}),
        "log_level": (10, {"LOG_LEVEL": "10"}),
        "user_log_level": (20, {"USER_LOG_LEVEL": "20"}),
        "reset_root_logger": (True, {"FLYTE_RESET_ROOT_LOGGER": "1"}),
    }
    known = inspect.signature(flyte.with_runcontext).parameters  # an older SDK has fewer
    runner = flyte.with_runcontext(**{name: value for name, (value, _) in given.items() if name in known})
    found = seam.variables_of(runner)
    own = {key: text for name, (_, set_) in given.items() if name in known for key, text in set_.items()}
    expect(found == own and "FLYTE_NOTEBOOK_PROBE" in own, f"a run that was given variables and log levels has {found}")


def remote_runs_are_seen() -> None:
    expect(seam.remote_submit_is_looked_up(), "runs are submitted to a cluster by another function")


def values_of_runs_are_known() -> None:
    expect(importlib.util.find_spec("flyte.remote._run") is not None, "there is no flyte.remote._run")


def blocking_calls_find_no_loop() -> None:
    found: list[Any] = []

    def blocking() -> None:
        found.append(asyncio._get_running_loop())  # noqa: SLF001 - as in `body`

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        found.append("around")
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)  # noqa: SLF001 - as in `body`
        try:
            yield
        finally:
            asyncio._set_running_loop(loop)  # noqa: SLF001 - as in `body`

    async def call() -> None:
        probe_task(blocking)()

    undo = calls.replace_sync_calls(around)
    try:
        asyncio.run(call())
    finally:
        undo()
    expect(found == ["around", None], f"a call that blocks goes past us, or finds a running loop: {found}")
