"""``%%flyte_task --remote`` in a real kernel: a cell runs in a pod of the plane as it runs here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from bounds import under_load
from cluster_kernel import IMAGE, connected, init, remote
from kernels import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernels import Kernel
    from loopback.handle import Plane

pytestmark = [
    pytest.mark.jupyter,
    pytest.mark.linux,
    pytest.mark.leaves("descriptor", reason="the SDK's client keeps connections as long as the plane is there"),
]


@pytest.fixture(scope="module")
def kernel(plane: Plane) -> Iterator[Kernel]:
    """Give the kernel of these tests, connected to the plane."""
    with connected(plane) as kernel:
        yield kernel


def test_a_cell_gives_what_it_gives_here(kernel: Kernel, plane: Plane) -> None:
    """Its output streams into the cell, names it assigns are in the notebook; functions of the notebook go with it."""
    kernel.run("x = 3\ndef tenfold(n):\n    return n * 10").ok()
    with plane.seen() as calls:
        reply = remote(kernel, "print('in the pod')\ny = tenfold(x)\ny + 1", "first --memory 250Mi").ok()
    assert ("31", "in the pod\n") == (reply.result, reply.stdout)
    assert 30 == kernel.value("y")
    assert kernel.value("fn.last_run.remote")
    assert kernel.value("fn.last_run.url").startswith(plane.endpoint)
    assert kernel.value("fn.last_run.name") in kernel.value("fn.last_run.url")
    assert {"result": 31, "y": 30} == kernel.value("fn.last_run.outputs")
    assert [250 << 20] == kernel.value("[action.limits.memory_bytes for action in fn.last_run.actions]")
    assert "the cluster" == kernel.value("fn.last_run.actions[0].attempts[0].outcome.report.enforcement.memory_words")
    told = [call for call in calls if "CreateRun" in call or "WatchActionDetails" in call or "TailLogs" in call]
    assert ["CreateRun", "WatchActionDetails", "TailLogs"] == [call.rpartition("/")[2] for call in told][:3]


def test_a_dataclass_of_the_notebook_arrives_whole_and_damages_nothing(kernel: Kernel) -> None:
    """The SDK's own pickle of one breaks the class in the pod, and in the notebook when it comes back."""
    kernel.run(
        "@dataclasses.dataclass\nclass Point:\n    x: int\n"
        "    y: list = dataclasses.field(default_factory=list)\np = Point(1)"
    )
    remote(kernel, "q = Point(p.x + 1, [5])").ok()
    assert kernel.value("(q == Point(2, [5]), type(q) is Point, Point(3).y, dataclasses.asdict(q)['x'])") == (
        True,
        True,
        [],
        2,
    )


def test_the_current_file_of_a_local_module_is_sent(kernel: Kernel, tmp_path: Path) -> None:
    """With the modules of the user that it imports; an image has none of them."""
    (tmp_path / "till.py").write_text("import taxes\n\ndef price(n):\n    return n + taxes.OF\n")
    (tmp_path / "taxes.py").write_text("OF = 1\n")
    kernel.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport till").ok()
    (tmp_path / "taxes.py").write_text("OF = 19\n")
    assert "119" == remote(kernel, "from till import price\nprice(100)").ok().result
    assert "119" == remote(kernel, "till.price(100)").ok().result


def test_large_values_go_through_the_bucket(kernel: Kernel, plane: Plane) -> None:
    """An input is uploaded with what `flyte.init` gave; to read a large output the keys of the bucket are needed."""
    kept = remote(kernel, "made, small = bytes(3_000_000), 7\nsmall").ok()
    assert ("7", 7) == (kept.result, kernel.value("small")), "what fits comes back"
    assert "`made` (2.9 MiB) was not copied back because it is over 1 MiB with the others" in kept.notes[0]
    # Without any keys the SDK asks the metadata service of AWS for them, for 10 s where there is none.
    others = {"ENDPOINT": plane.bucket_endpoint, "ACCESS_KEY_ID": "other", "SECRET_ACCESS_KEY": "other"}
    kernel.run(f"os.environ |= { ({f'FLYTE_AWS_{name}': value for name, value in others.items()})!r}").ok()
    kernel.run("big = os.urandom(3_000_000)").ok()
    assert "3000000" == remote(kernel, "len(big)").ok().result
    reply = remote(kernel, "made = big + b'x'")
    assert "the cell has passed on the cluster, and its outputs (2.9 MiB) are in s3://" in reply.stderr
    assert "give flyte.init a `storage`" in reply.stderr
    kernel.run("for name in [name for name in os.environ if name.startswith('FLYTE_AWS_')]:\n    del os.environ[name]")
    kernel.run(f"import flyte.storage\nkeys = flyte.storage.S3(**{plane.bucket_settings!r})").ok()
    init(kernel, plane, ", storage=keys")
    remote(kernel, "made = big + b'x'").ok()
    assert kernel.value("made == big + b'x'")
    init(kernel, plane)


def test_a_kill_for_memory_has_its_card_and_passes_with_more(kernel: Kernel, plane: Plane) -> None:
    """Chart from the pod's samples, the pod as worker; the rerun is a run on the cluster with the new limit."""
    kernel.run("x = 5").ok()
    reply = remote(kernel, "large = [0] * 10_000_000 * x\nlen(large)", "oomer --memory 250Mi")
    assert ("OOMError", "user", "OOMKilled") == tuple(reply.failure[key] for key in ("error", "kind", "code"))
    assert reply.failure["worker"] == kernel.value("fn.last_run.actions[0].attempts[0].worker")
    assert reply.failure["worker"].startswith(kernel.value("fn.last_run.name"))
    assert "ran out of memory (limit 250 MiB)" in reply.failure["headline"]
    assert "before the end" in reply.failure["headline"], "it says how late the last sample is"
    assert 200 << 20 < max(reply.failure["memory"]["memory_bytes"]) <= 250 << 20
    assert "Lost" not in reply.card["text/plain"]
    with plane.seen() as calls:
        again = kernel.run("%flyte rerun --memory 600Mi").ok()
    assert "50000000" == again.result
    assert any(call.endswith("CreateRun") for call in calls)
    assert (True, 600 << 20) == kernel.value("(fn.last_run.remote, fn.last_run.actions[0].limits.memory_bytes)")


def test_a_limit_grows_on_the_cluster_too(kernel: Kernel) -> None:
    """``--on-oom`` submits the task again with more."""
    reply = remote(kernel, "len([0] * 20_000_000)", "grows --memory 100Mi --on-oom x2:1Gi").ok()
    assert "20000000" == reply.result
    assert "passed with 400Mi, after OOM at 100Mi and 200Mi" in reply.shown_text
    assert [True] * 3 == kernel.value("[run.remote for run in fn.runs][-3:]")


def test_each_attempt_is_heard_although_its_pod_is_deleted(kernel: Kernel) -> None:
    """The output of all, and an attempt with its own failure for each."""
    reply = remote(kernel, "import os\nprint('pid', os.getpid() > 0)\nraise ValueError('no')", "again --retries 2")
    assert "pid True\n" * 3 == reply.stdout
    assert "attempt 3 of 3" in reply.card["text/plain"]
    assert [1, 2, 3] == kernel.value("[attempt.number for attempt in fn.last_run.actions[0].attempts]")
    assert 3 == kernel.value("len({attempt.worker for attempt in fn.last_run.actions[0].attempts})")
    assert "raise ValueError('no')" == reply.failure["line"]["text"]


def test_nested_tasks_are_in_the_tree(kernel: Kernel) -> None:
    """A failure that was caught shows the tree; one that was not is that of the task which raised it."""
    caught = kernel.run(
        "%%flyte_task tree --remote --env env\n"
        "try:\n    r = await half(-3)\nexcept Exception as e:\n    r = await half(8)\nr"
    ).ok()
    assert "4" == caught.result
    assert "✗ shop.half" in caught.shown_text
    assert [None, "a0", "a0"] == kernel.value("[action.parent for action in fn.last_run.actions]")
    lost = kernel.run("%%flyte_task tree --remote --env env\nawait half(-3)")
    assert ("shop.half", "ValueError", "raised ValueError: below nothing") == tuple(
        lost.failure[key] for key in ("task_name", "code", "headline")
    )
    assert "await half(-3)" in lost.card["text/plain"], "with the line of the caller"


def test_a_background_run_lands_when_it_has_passed(kernel: Kernel) -> None:
    """The handle is the same as of a local run."""
    remote(kernel, "z = 7\nz", "apart --background").ok()
    kernel.run("handle = _").ok()
    assert "(7, 7)" == kernel.run("await handle, z").ok().result


def test_a_stop_goes_through_the_client_that_submitted(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """Also after another ``flyte.init``: the SDK's own abort would go elsewhere, and the run would go on."""
    began_s = time.monotonic()
    slow = remote(kernel, "import time\nprint('on', flush=True)\ntime.sleep(60)", "slow --background").ok()
    kernel.run("handle = _").ok()
    kernel.hold_until(lambda: "on" in slow.stdout, tmp_path / "go")
    kernel.run("flyte.init(endpoint='http://127.0.0.1:9', insecure=True)").ok()
    with plane.seen() as calls:
        kernel.run("handle.stop()\nassert handle.wait(30)").ok()
    assert "stopped" == kernel.value("handle.failure.reason")
    assert any(call.endswith("AbortRun") for call in calls)
    assert time.monotonic() - began_s < under_load(40)
    init(kernel, plane)


def test_a_stop_of_the_kernel_stops_it_there(kernel: Kernel, plane: Plane) -> None:
    """■ while the cell waits: one grey line, and nothing goes on."""
    with plane.seen() as calls:
        slow = f"%%flyte_task slow --remote --image {IMAGE}\nimport time\nprint('on', flush=True)\ntime.sleep(60)"
        reply = kernel.run(slow, interrupt_after="on\n")
    assert "ActionAbortedError" == reply.ename
    assert "Stopped by you after" in reply.shown_text
    assert any(call.endswith("AbortRun") for call in calls)


@pytest.mark.parametrize(
    ("image", "body", "said"),
    [
        ("python:3.9-slim", "half_of(3)", "the image has Python 3.9 and this notebook 3."),
        (IMAGE, "lock", "lock"),
    ],
)
def test_what_would_fail_there_is_said_before(kernel: Kernel, plane: Plane, image: str, body: str, said: str) -> None:
    """In one line, and nothing is submitted."""
    kernel.run("import threading\nlock = threading.Lock()\ndef half_of(n):\n    return n / 2").ok()
    with plane.seen() as calls:
        reply = kernel.run(f"%%flyte_task --remote --image {image}\n{body}")
    assert "UsageError: %%flyte_task: " in reply.stderr
    assert said in reply.stderr
    assert not any(call.endswith("CreateRun") for call in calls)


def test_a_cluster_that_is_not_there_is_named_soon(kernel: Kernel, plane: Plane) -> None:
    """Without ``flyte.init``, and with an endpoint at which nobody listens."""
    kernel.run("flyte.init()").ok()
    assert (
        "--remote needs a cluster, and none is configured; write for example flyte.init(" in remote(kernel, "1").stderr
    )
    kernel.run("flyte.init(endpoint='http://127.0.0.1:9', insecure=True)").ok()
    began_s = time.monotonic()
    reply = remote(kernel, "1")
    assert "the cluster at http://127.0.0.1:9: it does not answer" in reply.stderr
    assert time.monotonic() - began_s < under_load(10)
    assert [] == [bundle for bundle in reply.shown if CARD in bundle]
    init(kernel, plane)


GUIDE = """@env.task
async def oomer(x: int) -> int:
    return len([0] * 10_000_000 * x)

@env.task
async def always_succeeds() -> int:
    return 42

@env.task
async def guide() -> int:
    try:
        return await oomer(3)
    except flyte.errors.OOMError:
        await always_succeeds()
        return await oomer.override(resources=flyte.Resources(memory="320Mi"))(5)
"""


def test_a_run_of_the_sdk_has_its_card_below_the_cell(kernel: Kernel) -> None:
    """What the SDK returns is its own; the card is ours, also though its `wait` raises nothing."""
    kernel.run("run = flyte.run(half, 9)\nrun.wait()").ok()
    assert (4,) == kernel.value("tuple(run.outputs())")
    assert kernel.value("type(run).__module__").startswith("flyte.remote")
    failed = kernel.run("run = flyte.run(half, -3)\nrun.wait()").ok()
    assert ("shop.half", "RuntimeUserError", "ValueError") == tuple(
        failed.failure[key] for key in ("task_name", "error", "code")
    )
    assert kernel.value("(fn.last_run.name == run.name, fn.last_run.remote, fn.last_failure.code)") == (
        True,
        True,
        "ValueError",
    )


def test_a_run_that_nobody_waits_for_is_shown_where_it_began(kernel: Kernel, tmp_path: Path) -> None:
    """When it has ended; the cell that runs by then shows nothing of it."""
    began = kernel.run("run = flyte.run(half, -3)").ok()
    kernel.hold_until(lambda: any(CARD in bundle for bundle in began.shown), tmp_path / "go")
    assert "ValueError" == began.failure["code"]


def test_the_guides_program_goes_through(kernel: Kernel) -> None:
    """A kill that is caught, and a second one with the memory of the override, which is not."""
    kernel.run(GUIDE).ok()
    reply = kernel.run("run = flyte.run(guide)\nrun.wait()").ok()
    assert ("OOMError", "OOMKilled") == (reply.failure["error"], reply.failure["code"])
    limits = kernel.value("{action.task_name: action.limits.memory_bytes for action in fn.last_run.actions}")
    assert 320 << 20 == limits["shop.oomer"]
    assert 4 == kernel.value("len(fn.last_run.actions)")


def test_runs_there_and_here_are_compared_and_saved_alike(kernel: Kernel, tmp_path: Path) -> None:
    """One chart with both curves, one table; a loaded run still knows that it was a cluster's."""
    body = "held = bytearray(60 << 20)\nimport time\ntime.sleep(0.2)\nlen(held)"
    kernel.run(f"%%flyte_task both --memory 250Mi\n{body}").ok()
    remote(kernel, body, "both --memory 250Mi").ok()
    compared = kernel.run("fn.compare(fn.runs[-2], fn.last_run)").ok()
    assert "both" in str(compared.result)
    peaks = kernel.value("[run.actions[0].attempts[0].trace.peak_bytes >> 20 for run in (fn.runs[-2], fn.last_run)]")
    assert all(60 < peak < 250 for peak in peaks)
    path = str(tmp_path / "kept.sqlite")
    kernel.run(f"fn.save(fn.last_run, {path!r})\nkept = fn.load({path!r})['both']").ok()
    kept = "kept.remote, kept.url == fn.last_run.url, kept.actions[0].attempts[0].trace.peak_bytes > 0"
    assert kernel.value(f"({kept})") == (
        True,
        True,
        True,
    )
