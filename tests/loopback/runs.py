"""``RunService``: submit, watch, look, list and abort. Lists honour project, domain, labels, phases and parents."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.common import identifier_pb2, list_pb2
from flyteidl2.workflow import run_service_pb2 as service_pb2
from flyteidl2.workflow.run_service_connect import RunService

from .records import Action, Run, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .bucket import Bucket
    from .faults import Faults
    from .kubelet import Kubelet

PROJECTS = ("flytesnacks", "elsewhere")
LIST = list_pb2.Filter


class Runs(RunService):
    """What the SDK's client asks about runs and their actions."""

    def __init__(self, *, store: Store, kubelet: Kubelet, bucket: Bucket, faults: Faults) -> None:
        self._store, self._kubelet, self._bucket, self._faults = store, kubelet, bucket, faults

    async def create_run(self, request: service_pb2.CreateRunRequest, ctx: Any) -> service_pb2.CreateRunResponse:
        """Begin a run. A name that is taken is refused, so that a lost reply can be told from a lost request."""
        if request.WhichOneof("task") != "task_spec":
            raise ConnectError(Code.NOT_FOUND, "no task is registered here")
        wanted = request.run_id
        if request.WhichOneof("id") == "project_id":
            project = request.project_id
            name = f"r{secrets.token_hex(9)}"
            wanted = identifier_pb2.RunIdentifier(
                org=project.organization, project=project.name, domain=project.domain, name=name
            )
        if wanted.project not in PROJECTS:
            raise ConnectError(Code.NOT_FOUND, f"project {wanted.project!r} not found")
        if self._store.run(wanted) is not None:
            raise ConnectError(Code.ALREADY_EXISTS, f"run {wanted.name} already exists")
        base = request.run_spec.run_base_dir or self._bucket.uri("metadata", wanted.project, wanted.domain)
        run = Run(id=wanted, spec=request.run_spec, base=f"{base.rstrip('/')}/{wanted.name}")
        action = Action(
            run=run, name="a0", input_uri=f"{request.offloaded_input_data.uri}/inputs.pb", spec=request.task_spec
        )
        run.actions["a0"] = action
        self._store.add(run)
        self._kubelet.begin(action)
        return service_pb2.CreateRunResponse(run=run.wire())

    async def get_run_details(
        self, request: service_pb2.GetRunDetailsRequest, ctx: Any
    ) -> service_pb2.GetRunDetailsResponse:
        """Return a run's specification and all about its root."""
        return service_pb2.GetRunDetailsResponse(details=self._details(self._run(request.run_id)))

    async def watch_run_details(
        self, request: service_pb2.WatchRunDetailsRequest, ctx: Any
    ) -> AsyncIterator[service_pb2.WatchRunDetailsResponse]:
        """Return the same whenever it changes, until the root has ended."""
        run = self._run(request.run_id)
        while True:
            changed, complete = run.changed, run.root.complete
            yield service_pb2.WatchRunDetailsResponse(details=self._details(run))
            if complete:
                return
            await changed.wait()

    async def get_action_details(
        self, request: service_pb2.GetActionDetailsRequest, ctx: Any
    ) -> service_pb2.GetActionDetailsResponse:
        """Return all about an action."""
        action = self._action(request.action_id)
        return service_pb2.GetActionDetailsResponse(details=action.details(self._faults))

    async def watch_action_details(
        self, request: service_pb2.WatchActionDetailsRequest, ctx: Any
    ) -> AsyncIterator[service_pb2.WatchActionDetailsResponse]:
        """Return the same whenever it changes, until it has ended. What changes quickly is seen once."""
        action = self._action(request.action_id)
        told = None
        while True:
            changed, complete = action.run.changed, action.complete
            details = action.details(self._faults)
            if details != told:
                yield service_pb2.WatchActionDetailsResponse(details=details)
                told = details
            if complete:
                return
            await changed.wait()

    async def list_runs(self, request: service_pb2.ListRunsRequest, ctx: Any) -> service_pb2.ListRunsResponse:
        """Return the runs of a project that all filters fit, newest first if nothing else is asked for."""
        project = request.project_id
        runs = [
            run
            for run in self._store.runs.values()
            if (run.id.project, run.id.domain) == (project.name, project.domain)
            and all(_fits(run.root, one) for one in request.request.filters)
        ]
        chosen, token = _page([run.root for run in runs], request.request, newest_first=True)
        return service_pb2.ListRunsResponse(runs=[action.run.wire() for action in chosen], token=token)

    async def list_actions(self, request: service_pb2.ListActionsRequest, ctx: Any) -> service_pb2.ListActionsResponse:
        """Return the actions of a run that all filters fit, oldest first if nothing else is asked for."""
        run = self._run(request.run_id)
        actions = [one for one in run.actions.values() if all(_fits(one, fit) for fit in request.request.filters)]
        chosen, token = _page(actions, request.request, newest_first=False)
        return service_pb2.ListActionsResponse(actions=[action.wire() for action in chosen], token=token)

    async def abort_run(self, request: service_pb2.AbortRunRequest, ctx: Any) -> service_pb2.AbortRunResponse:
        """End a run and everything in it."""
        self._kubelet.abort(self._run(request.run_id).root, request.reason)
        return service_pb2.AbortRunResponse()

    async def abort_action(self, request: service_pb2.AbortActionRequest, ctx: Any) -> service_pb2.AbortActionResponse:
        """End an action and everything below it."""
        self._kubelet.abort(self._action(request.action_id), request.reason)
        return service_pb2.AbortActionResponse()

    def _details(self, run: Run) -> Any:
        return service_pb2.GetRunDetailsResponse(
            details={"run_spec": run.spec, "action": run.root.details(self._faults)}
        ).details

    def _run(self, wanted: identifier_pb2.RunIdentifier) -> Run:
        if (run := self._store.run(wanted)) is None:
            raise ConnectError(Code.NOT_FOUND, f"run {wanted.name} not found")
        return run

    def _action(self, wanted: identifier_pb2.ActionIdentifier) -> Action:
        if (action := self._store.action(wanted)) is None:
            raise ConnectError(Code.NOT_FOUND, f"action {wanted.name} of run {wanted.run.name} not found")
        return action


def _page(actions: list[Action], request: list_pb2.ListRequest, *, newest_first: bool) -> tuple[list[Action], str]:
    """Sort, and cut out what one answer may hold; the second is where the next one begins."""
    sort = request.sort_by
    if sort.key:
        newest_first = sort.direction == list_pb2.Sort.DESCENDING
    ordered = sorted(actions, key=lambda one: _value(one, sort.key or "created_at") or "", reverse=newest_first)
    begin = int(request.token or 0)
    end = begin + (request.limit or 100)
    return ordered[begin:end], str(end) if end < len(ordered) else ""


def _value(action: Action, field: str) -> str | None:
    """Return what a field of a filter means for an action, ``None`` when it has none."""
    if field.startswith("labels."):
        return action.run.spec.labels.values.get(field.removeprefix("labels."))
    known = {
        "phase": str(action.phase),
        "parent_name": action.parent,
        "name": action.name if action.parent else action.run.id.name,
        "task_name": action.task_name,
        "task_version": action.spec.task_template.id.version if action.spec is not None else "",
        "created_at": f"{action.start_s:020.6f}",
        "updated_at": f"{action.end_s or action.start_s:020.6f}",
    }
    if field not in known:
        raise ConnectError(Code.INVALID_ARGUMENT, f"nothing can be filtered by {field!r}")
    return known[field]


MATCHES: dict[int, Callable[[str | None, list[str]], bool]] = {
    LIST.EQUAL: lambda value, wanted: value is not None and value in wanted[:1],
    LIST.NOT_EQUAL: lambda value, wanted: value not in wanted[:1],
    LIST.VALUE_IN: lambda value, wanted: value in wanted,
    LIST.VALUE_NOT_IN: lambda value, wanted: value not in wanted,
    LIST.CONTAINS: lambda value, wanted: any(part in (value or "") for part in wanted),
    LIST.EXISTS: lambda value, _: value is not None,
    LIST.NOT_EXISTS: lambda value, _: value is None,
}


def _fits(action: Action, wanted: list_pb2.Filter) -> bool:
    match = MATCHES.get(wanted.function)
    if match is None:
        raise ConnectError(Code.INVALID_ARGUMENT, f"no such filter here: {wanted.function}")
    return match(_value(action, wanted.field), list(wanted.values))
