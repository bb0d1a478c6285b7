"""How long a worker may take to answer once the body has ended: as long as it does something.

Values may take long to be pickled, and a file system to take them. So not the whole is bounded, but how long a worker
is seen to do nothing at all, by its time, its page faults and its messages; and, where a thread of the task goes on
beside it, each single step. Counted by looks, not by the clock: while the notebook's kernel is stopped, a worker waits
for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flyte_notebook.core.endings import Unanswered
from flyte_notebook.limiters import activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.endings import Step

LOOK_EVERY_S = 0.5
SILENT_BOUND_S = 30.0
"""How long a worker may do nothing before its answer is there."""
REFUSED_BOUND_S = 5.0
"""How long, where its process has reached a limit of its own: what failed then does not go on later."""
STEP_BOUND_S = 3600.0
"""How long one step may take: one output, for example."""


class Returning:
    """Watches one worker from the end of the body on; calls ``give_up`` with what could not be done."""

    def __init__(self, pid: int, give_up: Callable[[Unanswered], None]) -> None:
        self._pid = pid
        self._give_up = give_up
        self._at = Unanswered(step="handing over")
        self._heard = 0
        self._looks: asyncio.Task[None] | None = None

    def at(self, step: Step, detail: str | None = None) -> None:
        """Take the worker's word of what it does now."""
        self._heard += 1
        self._at = Unanswered(step=step, detail=detail)
        if self._looks is None:
            self._looks = asyncio.get_running_loop().create_task(self._look())

    def failed(self, step: Step) -> None:
        """Take the worker's word that it could not do it."""
        known = self._at.detail if self._at.step == step else None
        self._give_up(Unanswered(step=step, detail=known, refused=True, reached=activity.reached(self._pid)))

    def close(self) -> None:
        """Watch no more. Idempotent."""
        looks, self._looks = self._looks, None
        if looks is not None:
            looks.cancel()

    async def _look(self) -> None:
        before: tuple[int, ...] | None = None
        heard = silent = looks = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = activity.activity(self._pid)
            silent = silent + 1 if now is not None and (now, self._heard) == (before, heard) else 0
            looks = looks + 1 if self._heard == heard else 0
            before, heard = now, self._heard
            silent_s, took_s = silent * LOOK_EVERY_S, looks * LOOK_EVERY_S
            if silent_s < min(REFUSED_BOUND_S, SILENT_BOUND_S) and took_s < STEP_BOUND_S:
                continue
            reached = activity.reached(self._pid)
            bound_s = SILENT_BOUND_S if reached is None else REFUSED_BOUND_S
            if silent_s >= bound_s or took_s >= STEP_BOUND_S:
                silent_s = silent_s if silent_s >= bound_s else 0.0
                self._give_up(replace(self._at, silent_s=silent_s, took_s=took_s, reached=reached))
                return
