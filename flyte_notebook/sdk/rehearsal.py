"""A small run of the SDK's own local controller, to check the behaviour that is relied on here.

It runs in a separate worker when a session starts: a task that calls others, a retry, a map, a failure. The events are
kept as facts; the entries in `relies` say what each fact means.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flyte
import flyte.errors
import flyte.models

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.sdk import background_loop, seam
from flyte_notebook.sdk.inputs import NamingConversion
from flyte_notebook.sdk.tasks import probe_task
from flyte_notebook.sdk.user_code import watched
from flyte_notebook.worker.process import context

BOUND_S = 10.0
MEETING_BOUND_S = 0.3
"""How long the first item of a map waits for the second: they run side by side, or the first one ends alone."""
WOKEN_AFTER_S = 0.01


@dataclass(slots=True)
class Rehearsed:
    """The facts. ``calls`` are the arguments of each dispatch, by name, in order; ``controllers`` the callers."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    controllers: list[Any] = field(default_factory=list)
    converted: list[Any] = field(default_factory=list)
    """The task whose inputs were converted, if it was found, for each conversion."""
    values: list[Any] = field(default_factory=list)
    caught: BaseException | None = None
    """The error that a caller caught when its call failed with `given`."""
    given: BaseException | None = None
    raised: list[BaseException] = field(default_factory=list)
    """The exception of a task's body, as seen by the wrapper around the task's ``execute``."""
    slept_s: float = 0.0
    met: bool = False
    """Whether two items of a map ran side by side."""
    mode: str = ""
    logged: list[str] = field(default_factory=list)


class _Rehearsal(logging.Handler):
    """Takes the place of the kernel: answers each call of a task, and records it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Rehearsed()
        self._mapped = 0
        self._alone = False
        self._both = asyncio.Event()
        self.add = probe_task(_add)
        self.again = probe_task(_again, retries=1)
        self.fail = probe_task(_fail)
        self.item = probe_task(_item)
        self.outer = probe_task(self._outer())

    def emit(self, record: logging.LogRecord) -> None:
        """Record a log message of the SDK."""
        self.seen.logged.append(str(record.msg))

    def _outer(self) -> Callable[..., Any]:
        seen = self.seen

        async def outer(x: int) -> int:
            seen.mode = str(flyte.ctx().mode)
            seen.values.append(await self.add(x))
            began_s = monotonic_s()
            seen.values.append(await self.again(x))
            seen.slept_s = monotonic_s() - began_s
            try:
                await self.fail()
            except flyte.errors.OOMError as error:
                seen.caught = error
            seen.values.append([value async for value in flyte.map.aio(self.item, [1, 2])])
            return x

        return outer

    async def dispatch(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Answer one call."""
        call = seam.call_arguments(args, kwargs)
        self.seen.calls.append(call)
        self.seen.controllers.append(seam.controller_of(args, kwargs))
        task = call.get("task")
        if task is self.again and sum(known.get("task") is task for known in self.seen.calls) == 1:
            current = asyncio.current_task()
            if current is not None:
                asyncio.get_running_loop().call_later(WOKEN_AFTER_S, seam.cut_sleep_short, current)
            return None, seam.for_retry_loop(flyte.errors.RuntimeUserError("Again", "again"), last=True)
        if task is self.fail:
            copied, raised = watched(task)
            await seam.dispatch_as_sdk(**{**call, "controller": self.seen.controllers[-1], "task": copied})
            self.seen.raised += raised
            self.seen.given = flyte.errors.OOMError("OOMKilled", "rehearsed", "rehearsal")
            return None, seam.for_retry_loop(self.seen.given, last=True)
        if task is self.item:
            self._mapped += 1
            if self._mapped > 1:
                self._both.set()
            try:
                await asyncio.wait_for(self._both.wait(), MEETING_BOUND_S)
                self.seen.met = not self._alone
            except TimeoutError:
                self._alone = True
        return await seam.dispatch_as_sdk(*args, **kwargs)


async def _add(x: int) -> int:
    return x + 1


async def _again(x: int) -> int:
    return 2 * x


async def _fail() -> None:
    raise ValueError("rehearsed")


async def _item(x: int) -> int:
    return 10 * x


class _Noting(NamingConversion):
    """Records the task whose inputs are converted."""

    seen: Rehearsed

    async def convert_from_native_to_inputs(self, interface: Any, *args: Any, **kwargs: Any) -> Any:
        """Convert as the SDK does."""
        self.seen.converted.append(seam.submitted_task(1))
        return await self._convert_inputs(interface, *args, **kwargs)


def rehearse() -> Rehearsed:
    """Run it in this process and return what happened. Raises whatever the SDK raises."""
    rehearsal = _Rehearsal()
    logger = logging.getLogger("flyte")
    level, propagates = logger.level, logger.propagate
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=context.directory or None) as place:
        call = {
            "action": flyte.models.ActionID(name="a0", run_name="rehearsal"),
            "version": "na",
            "raw_data_path": flyte.models.RawDataPath(path=f"{place}/raw"),
            "output_path": f"{place}/out",
            "run_base_dir": f"{place}/out",
        }

        def noting(convert: Any, convert_inputs: Any) -> _Noting:
            conversion = _Noting(convert, convert_inputs)
            conversion.seen = rehearsal.seen
            return conversion

        undo = [seam.replace_dispatch(rehearsal.dispatch), seam.replace_conversion(noting)]
        others, logger.handlers = logger.handlers, [rehearsal]
        logger.propagate = False
        try:
            coroutine = seam.submit_here(rehearsal.outer, (1,), call)
            rehearsal.seen.values.append(background_loop.run_in_loop(asyncio.wait_for(coroutine, BOUND_S)))
        finally:
            logger.handlers, logger.propagate = others, propagates
            logger.setLevel(level)
            for back in reversed(undo):
                back()
    return rehearsal.seen
