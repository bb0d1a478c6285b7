"""How long a worker may take to answer after the body has ended: as long as it does something.

Pickling values and writing them to a file system may take long. So the total time is not bounded, but the time in which
a worker does nothing, measured by its CPU time, its page faults and its messages; and each single step, where a thread
of the task still runs beside it. Checks are counted, not seconds: a worker has to wait while the notebook's kernel is
stopped.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flyte_notebook.core.endings import Unanswered
from flyte_notebook.limiters import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.endings import Step

LOOK_EVERY_S = 0.5
SILENT_BOUND_S = 30.0
"""How long a worker may do nothing before it has answered."""
REFUSED_BOUND_S = 5.0
"""The same where the process has reached one of its limits: a step that failed then does not succeed later."""
STEP_BOUND_S = 3600.0
"""How long one step may take, for example one output."""


class Returning:
    """Watches one worker after the end of the body; calls ``give_up`` with the step that failed."""

    def __init__(self, pid: int, give_up: Callable[[Unanswered], None]) -> None:
        self._pid = pid
        self._give_up = give_up
        self._at = Unanswered(step="handing over")
        self._heard = 0
        self._looks: asyncio.Task[None] | None = None

    def at(self, step: Step, detail: str | None = None) -> None:
        """Note the step that the worker has reported."""
        self._heard += 1
        self._at = Unanswered(step=step, detail=detail)
        if self._looks is None:
            self._looks = asyncio.get_running_loop().create_task(self._look())

    def failed(self, step: Step) -> None:
        """Note that the worker reported a failed step."""
        known = self._at.detail if self._at.step == step else None
        self._give_up(Unanswered(step=step, detail=known, refused=True, reached=processes.reached(self._pid)))

    def close(self) -> None:
        """Stop watching. Idempotent."""
        looks, self._looks = self._looks, None
        if looks is not None:
            looks.cancel()

    async def _look(self) -> None:
        before: tuple[int, ...] | None = None
        heard = silent = looks = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = processes.activity(self._pid)
            silent = silent + 1 if now is not None and (now, self._heard) == (before, heard) else 0
            looks = looks + 1 if self._heard == heard else 0
            before, heard = now, self._heard
            silent_s, took_s = silent * LOOK_EVERY_S, looks * LOOK_EVERY_S
            if silent_s < min(REFUSED_BOUND_S, SILENT_BOUND_S) and took_s < STEP_BOUND_S:
                continue
            reached = processes.reached(self._pid)
            bound_s = SILENT_BOUND_S if reached is None else REFUSED_BOUND_S
            if silent_s >= bound_s or took_s >= STEP_BOUND_S:
                silent_s = silent_s if silent_s >= bound_s else 0.0
                self._give_up(replace(self._at, silent_s=silent_s, took_s=took_s, reached=reached))
                return
