"""What the reference has no class for, but a cluster or the SDK raises all the same: each arrives in a real kernel."""

from __future__ import annotations

import contextlib
import http.server
import threading
from typing import TYPE_CHECKING

import flyte
import flyte.errors
import pytest
from kernels import started
from reference_cases import LOAD, from_cluster, task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

TASKS = """@env.task
def blocking() -> int:
    return 1

@env.task
async def innermost(rows: int) -> int:
    table = {"rows": rows}
    return table["columns"]

@env.task
async def between(rows: int) -> int:
    return await innermost(rows)

@flyte.trace
async def traced() -> int:
    return await innermost(1)
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Give a kernel with the extension loaded and some tasks defined."""
    with started() as kernel:
        kernel.run(LOAD).ok()
        kernel.run(TASKS).ok()
        yield kernel


RESTRICTED = """from flyte.types._type_engine import RestrictedTypeTransformer
RestrictedTypeTransformer('none', object).get_literal_type()"""
GPU_CODES = getattr(flyte.errors, "GPU_FAULT_CODES", ())


@pytest.mark.skipif(not GPU_CODES, reason="older SDKs have no such classes")
@pytest.mark.parametrize("code", GPU_CODES[:1])  # the others are in tests/test_diagnosis.py
@pytest.mark.parametrize(("kind", "arrives"), [("USER", "GPUFaultUserError"), ("SYSTEM", "GPUFaultSystemError")])
def test_a_fault_of_a_gpu_is_the_sdks_own_class(kernel: Kernel, code: str, kind: str, arrives: str) -> None:
    """Simulated, as no GPU of ours fails: a cluster's words through the SDK's conversion, raised in a task."""
    reply = kernel.run(from_cluster(kind, code, "fell off the bus"))
    facts = kernel.value(f"facts({arrives!r})")
    assert (arrives, True, kind.lower(), code) == (facts["class"], facts["promised"], facts["kind"], facts["code"])
    assert (facts["worker"], "fell off the bus") == (reply.failure["worker"], reply.failure["message"])
    assert facts["worker"].endswith("-a0-0")


@pytest.mark.parametrize(
    ("kind", "code", "arrives", "code_here"),
    [
        ("USER", "Interrupted", "TaskInterruptedError", "Interrupted"),
        ("SYSTEM", "MaxSystemFailuresExceeded", "RuntimeSystemError", "MaxSystemFailuresExceeded"),
        ("USER", "RetriesExhausted|ValueError", "RetriesExhaustedError", "ValueError"),
        ("USER", "RetriesExhausted|OOMKilled", "OOMError", "OOMKilled"),
    ],
)
def test_what_a_cluster_says_arrives_as_the_sdk_takes_it(
    kernel: Kernel, kind: str, code: str, arrives: str, code_here: str
) -> None:
    """Simulated: a sidecar that was interrupted, spent system retries, the older backend's last retry."""
    kernel.run(from_cluster(kind, code, "in a cluster's words"))
    facts = kernel.value(f"facts({arrives!r})")
    assert (arrives, kind.lower(), code_here) == (facts["class"], facts["kind"], facts["code"])
    assert facts["worker"].endswith("-a0-0")


@pytest.mark.parametrize(
    ("body", "arrives", "code", "message"),
    [
        (
            "return blocking()",
            "SyncTaskCallInAsyncContextError",
            "SyncTaskCallInAsyncContextError",
            "Use `await blocking.aio(...)` instead",
        ),
        (
            "return await traced()",
            "TraceDoesNotAllowNestedTasksError",
            "TraceDoesNotAllowNestedTasksError",
            "inside a `flyte.trace`",
        ),
        (
            RESTRICTED,
            "RestrictedTypeError",
            "RestrictedTypeUsage",
            "is restricted currently",
        ),
    ],
)
@pytest.mark.parametrize("semantics", ["cluster", "reference"])
def test_wrong_uses_arrive_as_from_a_cluster_or_as_the_sdk_raises_them(  # noqa: PLR0913, PLR0917 - parts of a case
    kernel: Kernel, body: str, arrives: str, code: str, message: str, semantics: str
) -> None:
    """A user error with the code, or the class itself; with a card, the attempt's name and the line."""
    kernel.run(f"%flyte semantics {semantics}").ok()
    try:
        reply = kernel.run(task(body))
        facts = kernel.value(f"facts({arrives!r})")
    finally:
        kernel.run("%flyte semantics cluster").ok()
    assert ("error", "RuntimeUserError" if semantics == "cluster" else arrives) == (reply.status, reply.ename)
    assert (code, semantics == "reference") == (facts["code"], facts["promised"])
    assert message in facts["message"]
    assert (facts["worker"], "user") == (reply.failure["worker"], reply.failure["kind"])
    assert facts["worker"].endswith("-a0-0")
    assert body.splitlines()[-1] in facts["shown"]
    assert facts["same"]


def test_outside_of_a_task_there_is_a_context_that_knows_nothing(kernel: Kernel) -> None:
    """``flyte.ctx()`` in a plain cell is what the SDK gives there, and in a task it is the task's."""
    assert repr(flyte.ctx()) == kernel.value("repr(flyte.ctx())")
    kernel.run(task("assert flyte.ctx().action.run_name")).ok()


def test_cells_are_in_the_traceback_of_a_nested_failure(kernel: Kernel) -> None:
    """Two processes away: class, code, worker and every line of a notebook that the error came through."""
    reply = kernel.run("flyte.run(between, 3)")
    facts = kernel.value("facts('RuntimeUserError')")
    assert ("RuntimeUserError", "KeyError", "'columns'") == (facts["class"], facts["code"], facts["message"])
    assert ["KeyError", "WorkerTraceback"] == facts["causes"]
    for line in ('return table["columns"]', "return await innermost(rows)", "flyte.run(between, 3)"):
        assert line in facts["shown"]
    assert kernel.value("fn.last_run.actions[1].attempts[0].worker") == facts["worker"]
    assert kernel.value("f'{fn.last_run.name}-{fn.last_run.actions[1].name}-0'") == facts["worker"]
    assert ['return table["columns"]', "Cell In["] == [
        reply.failure["line"]["text"],
        reply.failure["line"]["file"][: len("Cell In[")],
    ]


@contextlib.contextmanager
def overloaded() -> Iterator[str]:
    """Give the address of a server that answers every call with "too many"."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None:  # type: ignore[override]  # says nothing
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


CONTROL_PLANE = "flyte.init(endpoint='dns:///{}', insecure=True, project='p', domain='d')\nimport flyte.remote\n"


def test_an_error_of_the_control_plane_names_its_endpoint(kernel: Kernel) -> None:
    """What the SDK's client raises is raised as it is; the card says which endpoint it was, by its gRPC code."""
    try:
        with overloaded() as address:
            reply = kernel.run(CONTROL_PLANE.format(address) + "flyte.remote.Run.get(name='none')")
        assert ("ConnectError", "system", "PERMISSION_DENIED") == (
            reply.ename,
            reply.failure["kind"],
            reply.failure["code"],
        )
        assert address in reply.failure["headline"].partition("the endpoint is")[2]
        assert "flyte.remote.Run.get" in reply.failure["line"]["text"]
        reply = kernel.run("raise flyte.errors.UnionRpcError('UNAVAILABLE', 'no connection')")
        assert address in reply.failure["headline"].partition("the endpoint is")[2]
    finally:
        kernel.run("flyte.init()").ok()
    reply = kernel.run("raise flyte.errors.UnionRpcError('UNAVAILABLE', 'no connection')")
    assert reply.failure["headline"].endswith("(raised in the notebook itself; no endpoint is configured)")
