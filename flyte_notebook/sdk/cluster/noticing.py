"""Follows the runs that a user's own ``flyte.run`` submits to a cluster, so that their failures have a card too.

What the SDK returns is not changed: nothing of ours is between the user and the run. It is followed with the client
that submitted it, and is in the history once it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.bound import monotonic_s, sleep_s
from flyte_notebook.sdk import initialization
from flyte_notebook.sdk.cluster import relies
from flyte_notebook.sdk.cluster.following import Following, LostContactError
from flyte_notebook.sdk.cluster.recording import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.engine import Sink
    from flyte_notebook.history import Run
    from flyte_notebook.sdk.session import Session

logger = logging.getLogger("flyte_notebook.sdk")


class Noticed:
    """The runs that are followed. ``ended(run, sink)`` is called for each that has ended, on the SDK's loop."""

    def __init__(self, session: Session, ended: Callable[[Run, Any], object]) -> None:
        self._session = session
        self._ended = ended
        self._following: dict[str, tuple[Following, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, sent: Any) -> None:
        """Follow the SDK's object for a run that was submitted just now. On the SDK's loop, in the cell's context."""
        relies.check()
        action_id = sent.pb2.action.id
        run = self._session.history.begin(action_id.run.name, action_id.run.name)
        run.remote, run.url = True, str(sent.url)
        following = Following(initialization.client(), action_id, lambda _text: None)
        self._following[run.name] = following, sent
        task = asyncio.create_task(self._follow(run, following, self._session.sink()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def settle(self, timeout_s: float) -> None:
        """Wait for those that have ended on the cluster and are not shown here yet, for a bounded time."""
        until_s = monotonic_s() + timeout_s
        while any(_is_over(*one) for one in tuple(self._following.values())):
            if monotonic_s() > until_s:
                return
            sleep_s(0.01)

    def close(self) -> None:
        """Follow no longer."""
        for task in tuple(self._tasks):
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def _follow(self, run: Run, following: Following, sink: Sink) -> None:
        began_s = monotonic_s()
        try:
            action = await following.to_its_end()
            run.task_name = action.task_name or run.task_name
            await Recorder(run, self._session.history).record(following)
            run.took_s = monotonic_s() - began_s
            self._ended(run, sink)
        except LostContactError:
            logger.debug("the run %s is followed no longer", run.name, exc_info=True)
        except Exception:  # nobody awaits this task
            logger.exception("could not show the end of the run %s", run.name)
        finally:
            self._following.pop(run.name, None)


def _is_over(following: Following, sent: Any) -> bool:
    """Whether a run has ended, as far as it is known here or to who has waited for the SDK's object."""
    return sent.done() or (following.action is not None and following.action.over)
