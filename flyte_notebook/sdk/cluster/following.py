"""Follows a run on a cluster to its end: its phases, and the log of each attempt while that attempt lives.

Everything goes through the client that submitted the run. The SDK's own functions take whatever client is configured at
that moment: after another ``flyte.init`` they would ask, and abort, elsewhere.

A pod is deleted before its task is tried again, and its log with it, so each attempt is read live. Streams end early,
and a cluster is away for a while: both are tried again, and what was read already is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.sdk import control_plane
from flyte_notebook.sdk.cluster import tagged
from flyte_notebook.sdk.cluster.observed import FAILED, RUNNING, LogFacts, action_facts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flyte_notebook.sdk.cluster.observed import ActionFacts

logger = logging.getLogger("flyte_notebook.sdk")

AWAY_S: Final = 60.0
"""For how long a cluster may not answer before the run is given up here; it may go on there."""

AGAIN_S: Final = 0.25
SOON_S: Final = 0.05
LONGEST_PAUSE_S: Final = 4.0
DETAILS_LATE_S: Final = 5.0
"""How long the details of an error are waited for: a run can be told as failed before they are known."""

LOG_LATE_S: Final = 2.0
"""How long the rest of a log is waited for when its attempt has ended."""

MOST_ACTIONS: Final = 1_000


class LostContactError(RuntimeError):
    """The cluster did not answer for too long, or refused to; the run may go on there."""


class Following:
    """Follows the root action of one run.

    ``client`` is the SDK's, ``action_id`` an ``ActionIdentifier`` of flyteidl2. ``say(text)`` takes what the pods
    print. All coroutines are for one event loop; the attributes may be read in any thread.
    """

    def __init__(self, client: Any, action_id: Any, say: Callable[[str], object]) -> None:
        self._client = client
        self._id = action_id
        self._say = say
        self._tails: dict[int, asyncio.Task[None]] = {}
        self.action: ActionFacts | None = None
        self.logs: defaultdict[int, LogFacts] = defaultdict(LogFacts)
        self.away_since_s: float | None = None
        """Since when the cluster does not answer, by the monotonic clock; ``None`` while it does."""

    async def to_its_end(self) -> ActionFacts:
        """Wait for the end of the run and of its logs. Raises `LostContactError`."""
        try:
            while self.action is None or not self.action.over:
                async for details in self._told():
                    self._heard(details)
                    if self.action is not None and self.action.over:
                        break
                else:
                    await asyncio.sleep(self._pause_s())
            return await self._ended()
        finally:
            for tail in self._tails.values():
                tail.cancel()

    async def _told(self) -> AsyncIterator[Any]:
        """Yield what one stream of the cluster tells of the action, until the stream ends or breaks."""
        stream = aiter(self._client.run_service.watch_action_details(self._watch_request()))
        while True:
            try:
                details = (await anext(stream)).details
            except StopAsyncIteration:
                return
            except Exception as error:  # noqa: BLE001 - of the network or of the service, whatever its library raises
                self._missed(error)
                return
            yield details

    async def abort(self, reason: str) -> None:
        """Abort the run. Raises what the client raises."""
        from flyteidl2.workflow import run_service_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - as in observed

        await self._client.run_service.abort_run(run_service_pb2.AbortRunRequest(run_id=self._id.run, reason=reason))

    async def results(self) -> dict[str, Any]:
        """Return the literals of the run's outputs, by name. Raises what the client raises."""
        from flyteidl2.dataproxy import dataproxy_service_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

        request = dataproxy_service_pb2.GetActionDataRequest(action_id=self._id)
        answer = await self._client.dataproxy_service.get_action_data(request=request)
        return {literal.name: literal.value for literal in answer.outputs.literals}

    async def tree(self) -> list[ActionFacts]:
        """Return all actions of the run, in start order, the root first. Raises what the client raises."""
        from flyteidl2.common import list_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
        from flyteidl2.workflow import run_service_pb2  # noqa: PLC0415 - as above

        found: list[Any] = []
        token = ""
        while len(found) < MOST_ACTIONS:
            listed = list_pb2.ListRequest(limit=100, token=token)
            request = run_service_pb2.ListActionsRequest(request=listed, run_id=self._id.run)
            answer = await self._client.run_service.list_actions(request)
            found += answer.actions
            token = answer.token
            if not token:
                break
        details = await asyncio.gather(*(self._details(action.id) for action in found[:MOST_ACTIONS]))
        actions = [action_facts(one) for one in details]
        return sorted(actions, key=lambda one: (bool(one.parent), one.attempts[0].began_s or 0 if one.attempts else 0))

    def _watch_request(self) -> Any:
        from flyteidl2.workflow import run_service_pb2  # noqa: PLC0415 - as above

        return run_service_pb2.WatchActionDetailsRequest(action_id=self._id)

    async def _details(self, action_id: Any) -> Any:
        from flyteidl2.workflow import run_service_pb2  # noqa: PLC0415 - as above

        request = run_service_pb2.GetActionDetailsRequest(action_id=action_id)
        return (await self._client.run_service.get_action_details(request)).details

    def _heard(self, details: Any) -> None:
        self.away_since_s = None
        self.action = action_facts(details)
        for attempt in self.action.attempts:
            if attempt.number not in self._tails and (attempt.phase == RUNNING or attempt.over):
                self._tails[attempt.number] = asyncio.create_task(self._read_log(attempt.number))

    def _missed(self, error: Exception) -> None:
        """Note that the cluster did not answer. Raises `LostContactError` when there is no use in asking again."""
        if self.away_since_s is None:
            self.away_since_s = monotonic_s()
        final = control_plane.is_refusal(error)
        if final or monotonic_s() - self.away_since_s > AWAY_S:
            raise LostContactError(str(error) or type(error).__name__) from error
        logger.debug("the cluster does not answer: %r", error)

    def _pause_s(self) -> float:
        away_s = 0.0 if self.away_since_s is None else monotonic_s() - self.away_since_s
        return min(LONGEST_PAUSE_S, AGAIN_S + away_s / 4)

    async def _ended(self) -> ActionFacts:
        assert self.action is not None
        until_s = monotonic_s() + DETAILS_LATE_S
        while self.action.phase == FAILED and self.action.error is None and monotonic_s() < until_s:
            await asyncio.sleep(AGAIN_S)
            try:
                self._heard(await self._details(self._id))
            except Exception as error:  # noqa: BLE001 - as above
                self._missed(error)
        if self._tails:
            await asyncio.wait(self._tails.values(), timeout=LOG_LATE_S)
        return self.action

    async def _read_log(self, number: int) -> None:
        """Read the log of an attempt until it has ended, whatever becomes of the streams."""
        log, reader, read = self.logs[number], tagged.Reader(), _Read()
        pause_s = SOON_S
        while True:
            over = self._is_over(number)
            try:
                async for answer in self._client.dataproxy_service.tail_logs(self._log_request(number)):
                    pause_s = SOON_S
                    for line in (line for part in answer.logs for line in part.lines if read.is_new(line)):
                        text, records = reader.read(line.message)
                        log.add(text, records)
                        if text:
                            self._say(text)
                over = over or self._is_over(number)
            except Exception:
                logger.debug("no log of attempt %s", number, exc_info=True)
            if over:  # it had ended before this stream began, or before its end: there is no more
                return
            read.begins_again()
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _log_request(self, number: int) -> Any:
        from flyteidl2.dataproxy import dataproxy_service_pb2  # noqa: PLC0415 - as above

        return dataproxy_service_pb2.TailLogsRequest(action_id=self._id, attempt=number)

    def _is_over(self, number: int) -> bool:
        action = self.action
        if action is None or len(action.attempts) < number:
            return False
        return action.over or action.attempts[number - 1].over or len(action.attempts) > number


class _Read:
    """Which lines of a log were read: a stream that is opened again begins at the log's first line."""

    def __init__(self) -> None:
        self._last: tuple[int, int] = (0, 0)
        self._count = 0
        """How many lines of that moment were read."""
        self._skip = 0

    def begins_again(self) -> None:
        """Note that the next line may be the first one."""
        self._skip = self._count

    def is_new(self, line: Any) -> bool:
        """Whether a line was not read before; it counts as read from now on."""
        moment = (line.timestamp.seconds, line.timestamp.nanos)
        if moment < self._last:
            self.begins_again()  # a client may open a stream again by itself
            return False
        if moment == self._last:
            if self._skip:
                self._skip -= 1
                return False
            self._count += 1
            return True
        self._last, self._count, self._skip = moment, 1, 0
        return True
