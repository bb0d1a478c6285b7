"""Sends a cell's task to the cluster that is configured, after a look at what would fail there."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import flyte
import flyte.errors
import flyte.remote

from flyte_notebook.core.diagnosis import one_line
from flyte_notebook.errors import InitializationError, RuntimeSystemError, RuntimeUserError
from flyte_notebook.sdk import control_plane, initialization, tasks
from flyte_notebook.sdk.cluster import modules
from flyte_notebook.sdk.cluster.observed import STOPPED_HERE
from flyte_notebook.sdk.cluster.shipping import ClusterTask
from flyte_notebook.sdk.cluster.uploads import Uploads, upload
from flyte_notebook.sdk.failures_without_attempt import RefusedRunError, with_failure
from flyte_notebook.sdk.inputs import task_of_inputs
from flyte_notebook.sdk.types import uploading

if TYPE_CHECKING:
    from flyte_notebook.sdk.celltask import CellParts, CellTask

logger = logging.getLogger("flyte_notebook.sdk")

ANSWER_S: Final = 5.0
"""How long a cluster may take for its first answer."""

TRIES: Final = 3
AGAIN_S: Final = 0.5
"""How often a run is sent when the cluster is away for a moment, and after how long again; twice as long each time."""

_PYTHON = re.compile(r"py(?:thon)?[-:]?3\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to run: ``None`` for what the environment and ``flyte.init`` say."""

    image: str | None = None
    project: str | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A run that the cluster has taken. ``client`` is the one that sent it, ``action_id`` that of its root."""

    client: Any
    action_id: Any
    url: str


def task_for_cluster(task: CellTask, parts: CellParts, place: Place) -> ClusterTask:
    """Return a cell's task as one for a cluster. Raises `RefusedRunError`."""
    environment = task.parent_env() if task.parent_env is not None else None
    if environment is not None and getattr(environment, "include", None):
        raise RefusedRunError("`include` of an environment is for files, and a cell is none; leave it out")
    image = place.image or getattr(environment, "image", None)
    if environment is None:
        environment = flyte.TaskEnvironment(
            name=tasks.name_on_cluster(task.name), image=image or "auto", resources=task.resources
        )
    elif place.image is not None:
        environment = environment.clone_with(name=environment.name, image=place.image)
    by_value = [name for name, value in parts.selection.code.items() if getattr(value, "__module__", "") == "__main__"]
    imported = [getattr(value, "__module__", None) or "" for value in parts.selection.code.values()]
    imported += [value.__name__ for value in parts.selection.code.values() if type(value) is type(sys)]
    archive, _ = modules.archive(filter(None, [*imported, *modules.imported_in(parts.source)]))
    _check_python(image, by_value)
    made = ClusterTask.of(
        task,
        image=environment.image,
        by_value=", ".join(f"`{name}`" for name in by_value),
        modules=archive,
        project=place.project,
        domain=place.domain,
        inline_only=not initialization.has_keys(),
        environment=environment,
        parent_env_name=environment.name,
    )
    made.parent_env = weakref.ref(environment)
    return made


def _check_python(image: Any, by_value: list[str]) -> None:
    found = _PYTHON.search(image) if isinstance(image, str) else None
    if found is not None and by_value and int(found[1]) != sys.version_info.minor:
        names = ", ".join(f"`{name}`" for name in by_value)
        here = f"3.{sys.version_info.minor}"
        raise RefusedRunError(
            f"the image has Python 3.{found[1]} and this notebook {here}: {names} cannot be sent; give an image with "
            f"Python {here}, or define it in the cell"
        )


def client() -> Any:
    """Return the client that is configured now. Raises `RefusedRunError` without one."""
    found = initialization.client()
    if found is None:
        raise RefusedRunError(
            "--remote needs a cluster, and none is configured; write for example "
            'flyte.init(endpoint="dns:///flyte.example.com", project="flytesnacks", domain="development") before'
        )
    return found


async def submit(name: str, task: ClusterTask, inputs: dict[str, Any], uploads: Uploads) -> Submitted:
    """Send a task and its inputs; return when the cluster has taken them. Raises `RefusedRunError`, or the SDK's."""
    used = client()
    target = initialization.target()
    await _check_answers(used, task.project or target.project, task.domain or target.domain)
    context = flyte.with_runcontext(
        mode="remote",
        name=name,
        project=task.project,
        domain=task.domain,
        interactive_mode=True,
        log_level=logging.CRITICAL,
    )
    sending, converting = uploading.set(upload), task_of_inputs.set(task)
    try:
        with uploads.listening():
            run = await _sent(context, name, task, inputs)
    except (RuntimeSystemError, InitializationError) as error:
        raise _refused(f"{error.code}: {one_line(str(error), 300)}") from error
    except flyte.errors.BaseRuntimeError as error:
        raise with_failure(error, task.name) from None
    except Exception as error:
        code = control_plane.rpc_code(error)
        if code is None:
            raise
        raise _refused(f"{code}: {one_line(str(error), 300)}") from error
    finally:
        uploading.reset(sending)
        task_of_inputs.reset(converting)
    return Submitted(client=used, action_id=run.pb2.action.id, url=str(run.url))


async def _sent(context: Any, name: str, task: ClusterTask, inputs: dict[str, Any]) -> Any:
    """Send it, again where the cluster is away for a moment: a run that has its name then is that of a lost reply."""
    for again in range(TRIES):
        try:
            return await context.run.aio(task, *inputs.values())
        except RuntimeSystemError as error:
            if error.code != "SystemUnavailableError" or again == TRIES - 1:
                raise
        except RuntimeUserError as error:
            if error.code != "RunAlreadyExistsError" or not again:
                raise
            return await flyte.remote.Run.get.aio(name)
        await asyncio.sleep(AGAIN_S * 2**again)
    raise AssertionError("the last try returns or raises")


async def take_back(used: Any, to: initialization.Target, name: str, task: ClusterTask) -> None:
    """Abort the run of that name if the cluster has taken it, though the answer never came. Never raises.

    ``used`` and ``to`` are client and target of before it was sent: meanwhile others may be configured.
    """
    from flyteidl2.common import identifier_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - as in observed
    from flyteidl2.workflow import run_service_pb2  # type: ignore[import-untyped]  # noqa: PLC0415 - as in observed

    where = {"org": to.org, "project": task.project or to.project, "domain": task.domain or to.domain}
    run_id = identifier_pb2.RunIdentifier(name=name, **where)
    try:
        await used.run_service.abort_run(run_service_pb2.AbortRunRequest(run_id=run_id, reason=STOPPED_HERE))
    except Exception:  # most of the time there is none
        logger.debug("no run %s was aborted", name, exc_info=True)


def _refused(why: str) -> RefusedRunError:
    return RefusedRunError(f"the cluster at {initialization.endpoint()} refused the run: {why}")


async def _check_answers(used: Any, project: str, domain: str) -> None:
    """Ask for the runs of the project, at most one. Raises `RefusedRunError` when there is no answer, or no project."""
    from flyteidl2.common import identifier_pb2, list_pb2  # noqa: PLC0415 - as in observed
    from flyteidl2.workflow import run_service_pb2  # noqa: PLC0415 - as in observed

    where = identifier_pb2.ProjectIdentifier(organization=initialization.target().org, name=project, domain=domain)
    request = run_service_pb2.ListRunsRequest(request=list_pb2.ListRequest(limit=1), project_id=where)
    try:
        await asyncio.wait_for(used.run_service.list_runs(request), ANSWER_S)
    except Exception as error:
        code = control_plane.rpc_code(error)
        if code == "UNAUTHENTICATED":
            said = "the login has expired or is missing; call flyte.init again to log in"
        elif code in {"PERMISSION_DENIED", "UNIMPLEMENTED"}:
            return  # it answers, and may allow to run what it does not allow to list
        elif isinstance(error, TimeoutError) or code in {None, "UNAVAILABLE", "DEADLINE_EXCEEDED"}:
            said = f"it does not answer ({one_line(str(error), 100) or f'nothing in {ANSWER_S:g} s'})"
        else:
            said = f"project {project!r}, domain {domain!r}: {one_line(str(error), 200)}"
        raise RefusedRunError(f"the cluster at {initialization.endpoint()}: {said}") from error
