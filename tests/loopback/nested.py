"""What a pod asks to start other actions: ``ActionsService``, or ``StateService`` with ``QueueService``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.actions import actions_service_pb2 as actions_pb2
from flyteidl2.actions.actions_service_connect import ActionsService
from flyteidl2.core import execution_pb2
from flyteidl2.workflow import queue_service_pb2 as queue_pb2
from flyteidl2.workflow import state_service_pb2 as state_pb2
from flyteidl2.workflow.queue_service_connect import QueueService
from flyteidl2.workflow.state_service_connect import StateService

from .records import SYSTEM, Action, Store, stamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flyteidl2.common import identifier_pb2

    from .kubelet import Kubelet

ERROR = execution_pb2.ExecutionError


class Nested:
    """What both pairs of services do."""

    def __init__(self, *, store: Store, kubelet: Kubelet) -> None:
        self._store, self._kubelet = store, kubelet

    def begin(self, wanted: Any) -> None:
        """Start an action of a run; it is the same for both, whichever message asks for it."""
        name = wanted.action_id.name
        run = self._store.run(wanted.action_id.run)
        if run is None:
            raise ConnectError(Code.NOT_FOUND, f"run {wanted.action_id.run.name} not found")
        if run.root.done:
            raise ConnectError(Code.ABORTED, f"run {run.id.name} has ended")
        if name in run.actions:
            raise ConnectError(Code.ALREADY_EXISTS, f"action {name} already exists")
        action = Action(
            run=run, name=name, input_uri=wanted.input_uri, parent=wanted.parent_action_name, group=wanted.group
        )
        run.actions[name] = action
        match wanted.WhichOneof("spec"):
            case "task":
                action.spec = wanted.task.spec
                self._kubelet.begin(action)
            case "trace":
                action.trace, action.phase = wanted.trace, wanted.trace.phase
                action.start_s = wanted.trace.start_time.ToMicroseconds() / 1e6
                action.end_s = wanted.trace.end_time.ToMicroseconds() / 1e6
                run.touch()
            case other:
                raise ConnectError(Code.UNIMPLEMENTED, f"no actions of kind {other} here")

    def abort(self, wanted: identifier_pb2.ActionIdentifier, reason: str) -> None:
        """End an action."""
        if (action := self._store.action(wanted)) is None:
            raise ConnectError(Code.NOT_FOUND, f"action {wanted.name} not found")
        self._kubelet.abort(action, reason or "aborted by its parent")

    async def updates(self, parent: identifier_pb2.ActionIdentifier) -> AsyncIterator[state_pb2.ActionUpdate | None]:
        """Yield each change of what an action started, and ``None`` when all that was there before is told."""
        run = self._store.run(parent.run)
        if run is None:
            raise ConnectError(Code.NOT_FOUND, f"run {parent.run.name} not found")
        told: dict[str, int] = {}
        first = True
        while True:
            changed = run.changed
            for action in [one for one in run.actions.values() if one.parent == parent.name]:
                if told.get(action.name) != action.phase:
                    told[action.name] = action.phase
                    yield _update(action)
            if first:
                first = False
                yield None
            await changed.wait()


def _update(action: Action) -> state_pb2.ActionUpdate:
    update = state_pb2.ActionUpdate(action_id=action.id, phase=action.phase, output_uri=action.output_uri)
    if action.error is not None and action.done:
        kind = ERROR.SYSTEM if action.error.kind == SYSTEM else ERROR.USER
        error = ERROR(code=action.error.code, message=action.error.message, kind=kind, timestamp=stamp(action.end_s))
        update.error.CopyFrom(error)
    return update


class Actions(ActionsService):
    """The newer service, which does what the other two do."""

    def __init__(self, nested: Nested) -> None:
        self._nested = nested

    async def enqueue(self, request: actions_pb2.EnqueueRequest, ctx: Any) -> actions_pb2.EnqueueResponse:
        """Start an action."""
        self._nested.begin(request.action)
        return actions_pb2.EnqueueResponse()

    async def watch_for_updates(
        self, request: actions_pb2.WatchForUpdatesRequest, ctx: Any
    ) -> AsyncIterator[actions_pb2.WatchForUpdatesResponse]:
        """Follow what an action started."""
        async for update in self._nested.updates(request.parent_action_id):
            if update is None:
                message = state_pb2.ControlMessage(sentinel=True)
                yield actions_pb2.WatchForUpdatesResponse(control_message=message)
            else:
                yield actions_pb2.WatchForUpdatesResponse(action_update=update)

    async def abort(self, request: actions_pb2.AbortRequest, ctx: Any) -> actions_pb2.AbortResponse:
        """End an action."""
        self._nested.abort(request.action_id, request.reason)
        return actions_pb2.AbortResponse()


class State(StateService):
    """The older service that tells."""

    def __init__(self, nested: Nested) -> None:
        self._nested = nested

    async def watch(self, request: state_pb2.WatchRequest, ctx: Any) -> AsyncIterator[state_pb2.WatchResponse]:
        """Follow what an action started."""
        async for update in self._nested.updates(request.parent_action_id):
            if update is None:
                yield state_pb2.WatchResponse(control_message=state_pb2.ControlMessage(sentinel=True))
            else:
                yield state_pb2.WatchResponse(action_update=update)


class Queue(QueueService):
    """The older service that starts and ends."""

    def __init__(self, nested: Nested) -> None:
        self._nested = nested

    async def enqueue_action(
        self, request: queue_pb2.EnqueueActionRequest, ctx: Any
    ) -> queue_pb2.EnqueueActionResponse:
        """Start an action."""
        self._nested.begin(request)
        return queue_pb2.EnqueueActionResponse()

    async def abort_queued_action(
        self, request: queue_pb2.AbortQueuedActionRequest, ctx: Any
    ) -> queue_pb2.AbortQueuedActionResponse:
        """End an action."""
        self._nested.abort(request.action_id, request.reason)
        return queue_pb2.AbortQueuedActionResponse()
