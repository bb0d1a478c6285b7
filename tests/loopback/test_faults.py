"""Each thing that can go wrong on purpose does so, and is over afterwards."""

from __future__ import annotations

import time

import flyte
import flyte.errors
import flyte.remote
import httpx
import pytest
from connectrpc.errors import ConnectError
from flyte.models import ActionPhase
from flyteidl2.dataproxy import dataproxy_service_pb2
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyServiceClientSync

from loopback import tasks
from loopback.fixtures import DOMAIN, PROJECT, connect
from loopback.handle import Plane
from loopback.sending import details, run, submit, until

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.leaves("descriptor", reason="the SDK's client keeps connections as long as the plane is there"),
]


def test_an_error_can_come_late_and_without_its_code(client: Plane) -> None:
    """The phase is there first; the message still has the reason. Afterwards all is as it should be."""
    with client.faults(details_late_s=0.5, omit_code=True):
        sent = run(tasks.exits, 3)
        found = details(sent)
        assert (ActionPhase.FAILED, None) == (found.phase, found.error_info)
        info = until(lambda: details(sent).error_info, "the error")
    assert "" == info.code
    assert "Reason [Error]" in info.message
    assert "Error" == until(lambda: details(sent).error_info, "the error").code


def test_a_plane_that_is_lost_comes_back_and_so_does_the_run(client: Plane) -> None:
    """Nobody listens meanwhile, the pod goes on, and whoever watches is told the end."""
    sent = submit(tasks.sleeps, 0.5)
    client.lose(0.5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(client.endpoint)
    sent.wait(quiet=True)
    assert ActionPhase.SUCCEEDED == details(sent).phase


async def test_a_stream_that_is_cut_is_taken_up_again(client: Plane) -> None:
    """The SDK asks anew, and sees the end."""
    sent = await flyte.with_runcontext(mode="remote", interactive_mode=True).run.aio(tasks.sleeps, 0.3)
    phases = []
    with client.seen() as calls:
        async for found in flyte.remote.ActionDetails.watch.aio(sent.action.action_id):
            if not phases:
                client.cut()
            phases.append(found.phase)
    assert ActionPhase.SUCCEEDED == phases[-1]
    assert 2 == calls.count("RunService/WatchActionDetails")


def test_logs_can_be_gone(client: Plane) -> None:
    """As if somebody had deleted the pod."""
    sent = submit(tasks.sleeps, 600.0)
    until(lambda: details(sent).phase == ActionPhase.RUNNING, "a pod to run")
    with client.faults(logs_gone=True), pytest.raises(flyte.errors.LogsNotYetAvailableError):
        list(flyte.remote._logs.Logs.tail(sent.action.action_id, 1, retry=1))
    sent.abort()


def test_an_upload_can_be_refused(client: Plane) -> None:
    """The SDK says so, and creates no run."""
    refusal = {"what": "PUT /upload", "status": 403, "text": "no space for you"}
    said = pytest.raises(flyte.errors.RuntimeSystemError, match="no space for you")
    with client.faults(refusals=[refusal]), client.seen() as calls, said:
        submit(tasks.sleeps.override(short_name="refused"), 0.0)
    assert "RunService/CreateRun" not in calls


def test_too_many_requests_are_sent_again(client: Plane) -> None:
    """With 429 the SDK waits as long as it is told, and repeats."""
    refusal = {"what": "PUT /upload", "status": 429, "retry_after_s": 0, "times": 2}
    with client.faults(refusals=[refusal]), client.seen() as calls:
        submit(tasks.sleeps.override(short_name="repeated"), 600.0).abort()
    assert 3 == calls.count("PUT /upload")


def test_a_call_can_be_refused(client: Plane) -> None:
    """Any call, as often as asked for; here a login has expired."""
    refusal = {"what": "CreateRun", "status": 401, "code": "unauthenticated", "text": "log in again", "times": 9}
    with client.faults(refusals=[refusal]), pytest.raises(flyte.errors.RuntimeSystemError, match="log in again"):
        submit(tasks.sleeps, 0.0)
    submit(tasks.sleeps, 600.0).abort()


def test_a_run_can_be_deleted(client: Plane) -> None:
    """Nobody finds it any more."""
    sent = run(tasks.exits, 0)
    client.forget(sent.name)
    with pytest.raises(ConnectError, match="not found"):
        details(sent)


def test_a_plane_that_is_killed_takes_its_pods_along(client: Plane) -> None:
    """The next one removes what was left of their limits."""
    with Plane() as doomed:
        connect(doomed)
        sent = submit(tasks.sleeps, 600.0)
        until(lambda: details(sent).phase == ActionPhase.RUNNING, "a pod to run")
        doomed.kill()
    connect(client)
    with Plane():
        pass


def test_a_network_can_be_slow(client: Plane) -> None:
    """A megabyte takes as long as it must."""
    wanted = dataproxy_service_pb2.CreateUploadLocationRequest(project=PROJECT, domain=DOMAIN, filename="slow")
    where = DataProxyServiceClientSync(client.endpoint).create_upload_location(wanted)
    with client.faults(bytes_per_s=2**20):
        began_s = time.monotonic()
        httpx.put(where.signed_url, content=bytes(2**19)).raise_for_status()
        assert time.monotonic() - began_s > 0.4
