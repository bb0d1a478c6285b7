"""The plane is a control plane to the SDK: what users do with a cluster works, and fails, as it does there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import pytest

from loopback import tasks
from loopback.image import SITE

if TYPE_CHECKING:
    from flyte.remote import Run

    from loopback.handle import Plane

pytestmark = [
    pytest.mark.linux,
    pytest.mark.leaves("descriptor", reason="the SDK's client keeps connections as long as the plane is there"),
]


def submit(task: Any, *args: Any, **settings: Any) -> Run:
    """Send a run."""
    return flyte.with_runcontext(mode="remote", interactive_mode=True, **settings).run(task, *args)


def run(task: Any, *args: Any, **settings: Any) -> Run:
    """Send a run and wait for its end."""
    sent = submit(task, *args, **settings)
    sent.wait(quiet=True)
    return sent


def test_a_task_runs_in_a_pod_and_its_output_comes_back(client: Plane) -> None:
    """The calls of one run are the ones that the SDK makes with a cluster."""
    with client.seen() as calls:
        assert 2 == run(tasks.add, 1).outputs()[0]
    without_choice = [call for call in calls if not call.endswith("SelectCluster")]
    assert [
        "DataProxyService/CreateUploadLocation",
        "PUT /upload",
        "DataProxyService/UploadInputs",
        "RunService/CreateRun",
        "RunService/WatchActionDetails",
    ] == [call for call in without_choice if call not in {"RunService/GetRunDetails", "DataProxyService/GetActionData"}]


def test_a_pod_sees_no_file_of_the_client(client: Plane, tmp_path: Path) -> None:
    """Neither the working directory, nor the temporary one, nor a package that is not in the image is there."""
    if client.why_open is not None:
        pytest.skip(client.why_open)
    (tmp_path / "secret").touch()
    for place in (tmp_path, Path.cwd(), Path(__file__).parent):
        assert [] == run(tasks.sees, str(place)).outputs()[0]
    assert "flyte_notebook" not in run(tasks.sees, f"/venv/{SITE}").outputs()[0]
