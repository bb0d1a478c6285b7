"""What is found out in workers when a session starts: that they are isolated, what an empty one holds, what is lost.

The first attempt waits until a worker has proved to be a process of its own. What is relied on of other libraries is
tried out after that, in a worker that nobody waits for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flyte_notebook.core.reliance import Reliance, losses
from flyte_notebook.engine.canary import CanaryError, run_canary, try_out
from flyte_notebook.engine.link import SupervisorError
from flyte_notebook.worker.relies import BY_KEY, LINES

if TYPE_CHECKING:
    from flyte_notebook.engine.link import SupervisorLink

NOT_TRIED = Reliance(
    key="rehearsal",
    library="flyte",
    behaviour="a small run in a worker shows what is relied on",
    lost="what works here is known to the doctor: it could not be tried out",
)


class UnprovenError(RuntimeError):
    """Nothing may be run; the text says why."""


class Proof:
    """The proof of one session. ``canary`` and ``rehearsal`` are entries (``module:function``); the second may be "".

    Everything runs on the engine's loop. ``baseline_bytes`` is what a worker holds before any code, ``no_line`` why the
    line that a task stands at cannot be seen, empty when it can; both are known when it is isolated.
    """

    def __init__(self, link: SupervisorLink, *, canary: str, rehearsal: str) -> None:
        self.baseline_bytes: int | None = None
        self.no_line = ""
        self._refused = ""
        self._link = link
        self._isolated = asyncio.ensure_future(self._isolate(canary))
        self._rehearsed = asyncio.ensure_future(self._rehearse(rehearsal))

    async def isolated(self) -> None:
        """Wait until workers are known to be isolated. Raises `UnprovenError` where nothing may run."""
        await asyncio.shield(self._isolated)
        if self._refused:
            raise UnprovenError(f"nothing is run, since this is lost: {self._refused}")

    async def complete(self) -> None:
        """Wait until all is known. Raises as `isolated`."""
        await asyncio.shield(self._isolated)
        await asyncio.shield(self._rehearsed)
        await self.isolated()

    async def _isolate(self, canary: str) -> None:
        try:
            report = await run_canary(canary, self._link)
        except CanaryError as error:
            raise UnprovenError(str(error)) from error
        # It does nothing, so its peak is its baseline, which is not seen where it ended before somebody looked.
        self.baseline_bytes, self.no_line = report.trace.baseline_bytes or report.trace.peak_bytes, report.no_line
        losses.settle(BY_KEY[LINES], self.no_line)

    async def _rehearse(self, rehearsal: str) -> None:
        await asyncio.wait({self._isolated})
        if not rehearsal or self._isolated.cancelled() or self._isolated.exception() is not None:
            return
        try:
            found = await try_out(rehearsal, self._link)
        except (CanaryError, SupervisorError, OSError) as error:
            losses.settle(NOT_TRIED, str(error))
            return
        losses.settle(NOT_TRIED, "")
        for key, loss in found.items():
            losses.put(key, loss)
        self._refused = "; ".join(str(loss) for loss in found.values() if loss is not None and loss.refuse)
