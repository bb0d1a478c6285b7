"""The plane is a control plane to the SDK: what users do with a cluster works, and fails, as it does there."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import flyte.io
import flyte.remote
import pytest
from connectrpc.errors import ConnectError
from flyte.models import ActionPhase
from flyteidl2.dataproxy import dataproxy_service_pb2
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceClientSync
from flyteidl2.workflow.run_definition_pb2 import ErrorInfo

from loopback import tasks
from loopback.image import SITE
from loopback.sending import details, run, submit, until

if TYPE_CHECKING:
    from loopback.handle import Plane

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.leaves("descriptor", reason="the SDK's client keeps connections as long as the plane is there"),
]


def error_of(sent: flyte.remote.Run) -> tuple[str, str, str]:
    """Return kind, code and message of a run's error."""
    info = details(sent).error_info
    assert info is not None
    return ErrorInfo.Kind.Name(info.kind), info.code, info.message


def running(sent: flyte.remote.Run) -> flyte.remote.Run:
    """Wait until a run runs."""
    until(lambda: details(sent).phase == ActionPhase.RUNNING, "a pod to run")
    return sent


def children(sent: flyte.remote.Run) -> list[flyte.remote.Action]:
    """Return what the root of a run started."""
    return list(flyte.remote.Action.listall(for_run_name=sent.name, parent_name="a0"))


def lines_of(sent: flyte.remote.Run, attempt: int = 1) -> list[str]:
    """Return what the SDK's log stream gives, as it comes."""
    return [line.message for line in flyte.remote._logs.Logs.tail(sent.action.action_id, attempt, retry=1)]


def test_a_task_runs_in_a_pod_and_its_output_comes_back(client: Plane) -> None:
    """The calls are those that the SDK makes with a cluster, and the attempt says where and when it ran."""
    with client.seen() as calls:
        sent = run(tasks.add, 1)
        assert 2 == sent.outputs()[0]
    without_choice = [call for call in calls if not call.endswith("SelectCluster")]
    assert [
        "DataProxyService/CreateUploadLocation",
        "PUT /upload",
        "DataProxyService/UploadInputs",
        "RunService/CreateRun",
        "RunService/WatchActionDetails",
    ] == [call for call in without_choice if call not in {"RunService/GetRunDetails", "DataProxyService/GetActionData"}]
    (attempt,) = details(sent).pb2.attempts
    assert attempt.log_context.primary_pod_name.endswith("-a0-0")
    phases = [ActionPhase.from_protobuf(one.phase) for one in attempt.phase_transitions]
    assert ["queued", "waiting_for_resources", "initializing", "running", "succeeded"] == [one.value for one in phases]
    assert ["Scheduled", "Pulling", "Pulled", "Started"] == [event.reason for event in attempt.cluster_events]


def test_a_pod_sees_no_file_of_the_client(client: Plane, tmp_path: Path) -> None:
    """Neither the working directory, nor the temporary one, nor a package that is not in the image is there."""
    if client.why_open is not None:
        pytest.skip(client.why_open)
    (tmp_path / "secret").touch()
    places = [tmp_path, Path.cwd(), Path(__file__).parent]
    *own, packages = run(tasks.sees, [*map(str, places), f"/venv/{SITE}"]).outputs()[0]
    assert [[], [], []] == own
    assert "flyte" in packages
    assert "flyte_notebook" not in packages


def test_a_nested_task_that_runs_out_of_memory_gets_more(client: Plane) -> None:
    """The parent catches the child's `OOMError`, and the override is in what it submits."""
    with client.seen() as calls:
        sent = run(tasks.feeds, 300, "500Mi")
    assert {"ActionsService/WatchForUpdates", "ActionsService/Enqueue"} < set(calls)
    assert 300 * 2**20 == sent.outputs()[0]
    first, second = (details(sent, one.name) for one in children(sent))
    assert ("OOMKilled", ActionPhase.FAILED) == (first.error_info.code, first.phase)
    assert ActionPhase.SUCCEEDED == second.phase
    memory = [entry.value for entry in second.pb2.task.task_template.container.resources.requests]
    assert "500Mi" in memory


def test_a_task_above_its_memory_is_killed(client: Plane) -> None:
    """The end is that of a container: exit code 137, and the reason that Kubernetes gives."""
    sent = run(tasks.eats, 400)
    kind, code, message = error_of(sent)
    assert ("KIND_USER", "OOMKilled") == (kind, code)
    assert "exit code (137). Reason [OOMKilled]" in message
    with pytest.raises(flyte.errors.OOMError):
        sent.raise_for_status()


@pytest.mark.parametrize(("task", "arguments", "code"), [(tasks.exits, (3,), 3), (tasks.crashes, (), 139)])
def test_a_process_that_ends_by_itself_is_told_by_its_exit_code(
    client: Plane, task: Any, arguments: tuple[int, ...], code: int
) -> None:
    """There is no error of the SDK then, only that of the container."""
    kind, name, message = error_of(run(task, *arguments))
    assert ("KIND_USER", "Error") == (kind, name)
    assert f"exit code ({code}). Reason [Error]" in message


def test_an_image_that_is_not_there_is_not_pulled(client: Plane) -> None:
    """The error has both reasons in its code, and no process was started."""
    with client.faults(missing_images=[tasks.IMAGE]):
        sent = run(tasks.add, 1)
    assert ("KIND_USER", "ContainersNotReady|ImagePullBackOff") == error_of(sent)[:2]
    with pytest.raises(flyte.errors.ImagePullBackOffError):
        sent.raise_for_status()


def test_a_retry_comes_after_its_predecessors_pod_was_deleted(client: Plane) -> None:
    """Two attempts, the error of the last one, and only its lines are still there."""
    sent = run(tasks.fails, "here")
    assert ("KIND_USER", "ValueError") == error_of(sent)[:2]
    first, second = details(sent).pb2.attempts
    assert "ValueError" == first.error_info.code
    assert first.log_context.primary_pod_name != second.log_context.primary_pod_name
    assert "attempt of here" in lines_of(sent, 2)
    with pytest.raises(flyte.errors.LogsNotYetAvailableError):
        lines_of(sent, 1)


def test_a_run_that_is_aborted_ends_with_the_reason(client: Plane) -> None:
    """Its pod is gone, and the reason is kept."""
    sent = running(submit(tasks.sleeps, 600.0))
    sent.abort(reason="enough")
    sent.wait(quiet=True)
    found = details(sent)
    assert (ActionPhase.ABORTED, "enough") == (found.phase, found.abort_info.reason)


def test_a_task_is_ended_at_its_max_runtime(client: Plane) -> None:
    """The phase says so, and so does the code."""
    sent = run(tasks.sleeps.override(timeout=timedelta(seconds=0.3)), 600.0)
    assert ActionPhase.TIMED_OUT == details(sent).phase
    assert "MAX_RUNTIME_EXCEEDED" == error_of(sent)[1]
    with pytest.raises(flyte.errors.MaxRuntimeExceededError):
        sent.raise_for_status()


def test_a_task_that_fits_on_no_node_waits_for_its_deadline(client: Plane) -> None:
    """It is never started; an event says what lacks."""
    with client.faults(memory_bytes=2**20):
        sent = submit(tasks.add.override(timeout=flyte.Timeout(max_queued_time=timedelta(seconds=0.3))), 1)
        until(lambda: details(sent).phase == ActionPhase.WAITING_FOR_RESOURCES, "the queue")
        (event,) = until(lambda: details(sent).pb2.attempts[0].cluster_events, "an event")
        assert "Insufficient memory" in event.message
        sent.wait(quiet=True)
    assert (ActionPhase.TIMED_OUT, "QUEUED_TIMEOUT_EXCEEDED") == (details(sent).phase, error_of(sent)[1])


async def test_lines_come_while_the_pod_runs_and_have_no_end(client: Plane) -> None:
    """The first line is there before the task ends."""
    sent = await flyte.with_runcontext(mode="remote", interactive_mode=True).run.aio(tasks.sleeps, 0.5)
    while True:
        found = await flyte.remote.ActionDetails.get.aio(run_name=sent.name, name="a0")
        if found.phase == ActionPhase.RUNNING:
            break
    seen = {}
    async for line in flyte.remote._logs.Logs.tail.aio(sent.action.action_id, 1):
        seen[line.message] = (await flyte.remote.ActionDetails.get.aio(run_name=sent.name, name="a0")).phase
    assert ActionPhase.RUNNING == seen["begins"]
    assert "ends" in seen


def test_lists_honour_labels_projects_phases_and_parents(client: Plane) -> None:
    """A filter that fits nothing gives nothing. The tree is the same with the two older services."""
    with client.older_services(), client.seen() as calls:
        sent = run(tasks.adds, 1, labels={"team": "a"})
    assert {"StateService/Watch", "QueueService/EnqueueAction"} < set(calls)
    assert 2 == sent.outputs()[0]
    listed = flyte.remote.Run.listall

    def names(**wanted: Any) -> list[str]:
        return [one.name for one in listed(**wanted)]

    assert [sent.name] == names(with_labels={"team": "a"})
    assert [] == names(with_labels={"team": "b"})
    assert [sent.name] == names(with_label_keys=["team"])
    assert [] == names(project="elsewhere")
    assert sent.name in names(in_phase=("succeeded",), task_name="plane.adds")
    assert sent.name not in names(in_phase=("failed", "aborted"))
    assert 1 == len(children(sent))


def test_a_name_that_is_taken_is_refused(client: Plane) -> None:
    """So a reply that was lost can be told from a request that was."""
    sent = submit(tasks.sleeps, 600.0, name="taken")
    assert "taken" == sent.name
    with pytest.raises(flyte.errors.RuntimeUserError, match="already exists"):
        submit(tasks.add, 1, name="taken")
    sent.abort()


def test_a_file_of_a_pod_is_read_by_another_one(client: Plane) -> None:
    """Values go through the bucket, large ones in parts; a client without its key cannot read them."""
    size_bytes = 12 * 2**20
    sent = run(tasks.writes, size_bytes)
    file = sent.outputs()[0]
    assert size_bytes == run(tasks.reads, file).outputs()[0]


def test_a_report_has_a_link_and_code_has_none(client: Plane) -> None:
    """As with the open-source backend."""
    sent = run(tasks.reports)
    assert "<b>a report</b>" in sent.get_report()
    wanted = dataproxy_service_pb2.CreateDownloadLinkRequest(
        artifact_type=dataproxy_service_pb2.ARTIFACT_TYPE_CODE_BUNDLE,
        action_attempt_id={"action_id": sent.action.action_id, "attempt": 1},
    )
    with pytest.raises(ConnectError, match="artifact_type"):
        DataProxyServiceClientSync(client.endpoint).create_download_link(wanted)


def test_a_traced_step_is_an_action(client: Plane) -> None:
    """It has no pod, and its phase is the one that its parent told."""
    sent = run(tasks.traced, 4)
    assert 8 == sent.outputs()[0]
    (step,) = children(sent)
    assert ActionPhase.SUCCEEDED == step.phase
