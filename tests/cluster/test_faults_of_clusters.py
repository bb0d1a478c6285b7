"""What goes wrong between the notebook and a cluster ends in the outcome, or in one line that says what to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from bounds import under_load
from cluster_kernel import connected, init, remote
from kernels import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernels import Kernel, Reply
    from loopback.handle import Plane

pytestmark = [
    pytest.mark.jupyter,
    pytest.mark.linux,
    pytest.mark.leaves("descriptor", reason="the SDK's client keeps connections as long as the plane is there"),
]

ON = "print('on', flush=True)\nimport time\n"
WORDS = "(lambda run: run and run.words)(enforcement.current().progress(fn.last_run.name))"


@pytest.fixture(scope="module")
def kernel(plane: Plane) -> Iterator[Kernel]:
    """Give a kernel that is connected to the plane."""
    with connected(plane) as kernel:
        kernel.run("from flyte_notebook.sdk import enforcement").ok()
        yield kernel


def in_background(kernel: Kernel, body: str, go: Path, *, until: str = "on") -> Reply:
    """Begin a cell on the plane, and return when it has printed that."""
    reply = remote(kernel, body, "apart --background").ok()
    kernel.run("handle = _").ok()
    if until:
        kernel.hold_until(lambda: until in reply.stdout, go)
    return reply


def words(kernel: Kernel, what: str) -> str:
    """Wait until the live words of the last run have that; return them."""
    return str(
        kernel.run(
            "import time\nuntil_s = time.monotonic() + 30\nsaid = ''\n"
            f"while time.monotonic() < until_s and {what!r} not in said:\n"
            f"    said = {WORDS} or ''\n    time.sleep(0.02)\nsaid"
        )
        .ok()
        .result
    )


def test_a_cluster_that_is_away_for_a_while_loses_no_run(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """The line says so meanwhile; the value and all of the output are there in the end, each line once."""
    body = f"{ON}for n in range(8):\n    print(n, flush=True)\n    time.sleep(0.7)\nn"
    cell = in_background(kernel, body, tmp_path / "go")
    kernel.run(
        "import threading, time\nsaid = set()\n"
        "def look():\n    while not handle.done():\n"
        f"        said.add({WORDS})\n        time.sleep(0.02)\n"
        "threading.Thread(target=look, daemon=True).start()"
    ).ok()
    plane.lose(4.0)
    assert "7" == kernel.run("await handle").ok().result
    assert kernel.value("any('no answer for' in words for words in said if words)")
    assert ["on", *map(str, range(8))] == cell.stdout.split()


def test_a_stream_that_is_cut_is_read_on(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """No line twice, none lost."""
    cell = in_background(
        kernel, f"{ON}for n in range(6):\n    print(n, flush=True)\n    time.sleep(0.2)\nn", tmp_path / "go"
    )
    plane.cut()
    assert "5" == kernel.run("await handle").ok().result
    assert ["on", *map(str, range(6))] == cell.stdout.split()


@pytest.mark.parametrize(("faults", "printed"), [({"details_late_s": 1.0}, "on\n"), ({"logs_gone": True}, "")])
def test_an_error_is_the_same_although_less_is_known(
    kernel: Kernel, plane: Plane, faults: dict[str, Any], printed: str
) -> None:
    """Its details come late, or there is no log: the class and the code are known all the same."""
    with plane.faults(**faults):
        reply = remote(kernel, f"{ON}int('no')")
    assert ("RuntimeUserError", "ValueError") == (reply.failure["error"], reply.failure["code"])
    assert printed == reply.stdout


@pytest.mark.parametrize(
    ("refusal", "passes", "said"),
    [
        ({"what": "PUT /upload", "status": 503, "times": 1}, True, ""),
        ({"what": "PUT /upload", "status": 403, "times": 99}, False, "403"),
        ({"what": "CreateRun", "status": 503, "times": 1}, True, ""),
        ({"what": "ListRuns", "status": 503, "times": 1}, True, ""),
        ({"what": "CreateRun", "status": 429, "times": 1}, True, ""),
        ({"what": "CreateRun", "status": 503, "times": 99}, False, "refused the run"),
        ({"what": "CreateRun", "status": 401, "code": "unauthenticated", "times": 99}, False, "refused the run"),
        ({"what": "ListRuns", "status": 401, "times": 99}, False, "the login has expired or is missing"),
        ({"what": "CreateRun", "status": 403, "times": 99}, False, "refused the run"),
    ],
    ids=lambda value: f"{value['what']}-{value['status']}-{value['times']}" if isinstance(value, dict) else "",
)
def test_a_refusal_is_one_line_that_names_the_cluster(
    kernel: Kernel,
    plane: Plane,
    refusal: dict[str, Any],
    said: str,
    *,
    passes: bool,
) -> None:
    """What passes when it is tried again passes; else there is no card and no traceback."""
    kernel.run("big = os.urandom(1_500_000)").ok()
    with plane.faults(refusals=[refusal]):
        reply = remote(kernel, "len(big)")
    if passes:
        assert "1500000" == reply.ok().result
        return
    assert "UsageError: %%flyte_task: the cluster at http://127.0.0.1:" in reply.stderr
    assert said in reply.stderr
    assert [] == [bundle for bundle in reply.shown if CARD in bundle]


def test_a_pod_that_fits_nowhere_waits_and_can_be_stopped(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """The line says what it waits for."""
    with plane.faults(memory_bytes=1 << 30):
        remote(kernel, "1", "huge --memory 100Gi --background").ok()
        kernel.run("handle = _").ok()
        said = words(kernel, "waiting")
        assert "waiting for room on the cluster" in said
        kernel.run("handle.stop()\nassert handle.wait(30)").ok()
    assert "stopped" == kernel.value("handle.failure.reason")


def test_an_abort_from_outside_says_its_reason(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """By another client, or on the console."""
    in_background(kernel, f"{ON}time.sleep(60)", tmp_path / "go")
    kernel.run(
        "import flyte.remote\nflyte.remote.Run.get(fn.last_run.name).abort('too dear')\nassert handle.wait(30)"
    ).ok()
    assert ("ActionAbortedError", "stopped") == kernel.value("(type(handle.error).__name__, handle.failure.reason)")
    assert "too dear" in kernel.value("handle.failure.headline + handle.failure.message")


def test_a_project_that_is_not_there_is_one_line(kernel: Kernel, plane: Plane) -> None:
    """``--project`` of another name than the cluster knows."""
    reply = remote(kernel, "1", "--project nowhere")
    assert "UsageError: %%flyte_task: " in reply.stderr
    assert "nowhere" in reply.stderr


def test_two_cells_run_there_at_once(kernel: Kernel, tmp_path: Path) -> None:
    """Each has its own output and its own result."""
    first = remote(kernel, "import time\nprint('one', flush=True)\ntime.sleep(1)\n1", "one --background").ok()
    kernel.run("a = _").ok()
    second = remote(kernel, "print('two', flush=True)\n2", "two --background").ok()
    kernel.run("b = _").ok()
    assert "(1, 2)" == kernel.run("await a, await b").ok().result
    assert ("one\n", "two\n") == (first.stdout, second.stdout)


def test_an_interrupt_while_a_value_is_uploaded_submits_nothing(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """The line says how far it is; nothing runs there afterwards."""
    kernel.run("big = os.urandom(6_000_000)").ok()
    began_s = time.monotonic()
    with plane.faults(bytes_per_s=500_000), plane.seen() as calls:
        remote(kernel, "len(big)", "sends --background").ok()
        kernel.run("handle = _").ok()
        said = words(kernel, " MiB of 6")  # the code of the cell goes before, alone
        assert "uploading" in said
        assert " MiB of 6" in said
        kernel.run("flyte.init(endpoint='http://127.0.0.1:9', insecure=True)").ok()
        kernel.run("handle.stop()\nassert handle.wait(30)").ok()
    assert not any(call.endswith("CreateRun") for call in calls)
    assert any(call.endswith("AbortRun") for call in calls), "of a run that may be there, by the client that sent it"
    assert time.monotonic() - began_s < under_load(12)
    init(kernel, plane)


def test_another_init_meanwhile_changes_nothing_for_a_run(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """It is followed by the client that submitted it, to its results."""
    cell = in_background(kernel, f"{ON}time.sleep(1)\nprint('off')\n6", tmp_path / "go")
    kernel.run("flyte.init(endpoint='http://127.0.0.1:9', insecure=True)").ok()
    assert "6" == kernel.run("await handle").ok().result
    assert "on\noff\n" == cell.stdout
    init(kernel, plane)


def test_a_run_that_was_deleted_is_told_in_one_sentence(kernel: Kernel, plane: Plane, tmp_path: Path) -> None:
    """Nobody knows it any more, so there is no use in asking on. Its pod is not ended."""
    in_background(kernel, f"{ON}time.sleep(8)", tmp_path / "go")
    plane.forget(kernel.value("fn.last_run.name"))
    plane.cut()
    kernel.run("assert handle.wait(30)").ok()
    assert "the cluster was lost: " in kernel.value("str(handle.error)")
    assert "not found" in kernel.value("str(handle.error)")
