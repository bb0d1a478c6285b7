"""Every error of the published reference is raised in one notebook, and what arrives is what the table says.

``docs/errors.md`` is made from what these tests observe: ``FLYTE_NOTEBOOK_WRITE_DOCS=1 pytest tests/errors`` writes it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from error_table import table
from kernels import started
from reference_cases import CASES, LOAD, NAME, Case

from flyte_notebook import catalogue, errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs" / "errors.md"
BUILT = ROOT / "build" / "errors.md"
WRITE = "FLYTE_NOTEBOOK_WRITE_DOCS"

REFERENCE = {
    *("ActionNotFoundError", "BaseRuntimeError", "CustomError", "DeploymentError", "ImageBuildError"),
    *("ImagePullBackOffError", "InitializationError", "InlineIOMaxBytesBreached", "InvalidImageNameError"),
    *("LogsNotYetAvailableError", "ModuleLoadError", "NotInTaskContextError", "OOMError"),
    *("OnlyAsyncIOSupportedError", "PrimaryContainerNotFoundError", "ReferenceTaskError", "RetriesExhaustedError"),
    *("RunAbortedError", "RuntimeDataValidationError", "RuntimeSystemError", "RuntimeUnknownError"),
    *("RuntimeUserError", "SlowDownError", "TaskInterruptedError", "TaskTimeoutError", "UnionRpcError"),
}
"""The 26 exceptions of the published reference."""

POLLING = """loop = asyncio.get_running_loop()
ours = loop.get_exception_handler()
heard = []
def beforehand(loop, context):
    heard.append(context["message"])
def silence():
    loop.set_exception_handler(names.silence_grpc_polling_error)
    loop.call_exception_handler({"message": "polling", "exception": BlockingIOError(11, "not ready")})
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Give the one kernel of all cases."""
    with started() as kernel:
        kernel.run(LOAD).ok()
        yield kernel


@pytest.fixture(scope="module")
def observed() -> Iterator[dict[str, dict[str, Any]]]:
    """Collect what was observed, and write the table of it to ``build/errors.md``."""
    seen: dict[str, dict[str, Any]] = {}
    yield seen
    BUILT.parent.mkdir(exist_ok=True)
    BUILT.write_text(table(CASES, seen), encoding="utf-8")


def test_every_exception_of_the_reference_has_a_case() -> None:
    """None of the 26 is left out, and no case is about anything else."""
    assert {case.promised for case in CASES} == REFERENCE
    assert 26 == len(REFERENCE)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_error_arrives_as_promised(kernel: Kernel, observed: dict[str, dict[str, Any]], case: Case) -> None:
    """Class, kind, code, worker, message and failure are right, and the notebook is as it was."""
    pid = kernel.value("os.getpid()")
    if case.semantics != "cluster":
        kernel.run(f"%flyte semantics {case.semantics}").ok()
    try:
        reply = kernel.run(case.act, interrupt_after=case.interrupt_after)
        facts = kernel.value(f"facts({case.promised!r})")
    finally:
        if case.semantics != "cluster":
            kernel.run("%flyte semantics cluster").ok()
    observed[case.name] = facts
    assert ("error", case.class_name) == (reply.status, reply.ename), reply.traceback
    assert (case.class_name, case.is_promised) == (facts["class"], facts["promised"])
    assert (case.kind, case.code) == (facts["kind"], facts["code"])
    assert re.fullmatch(case.message, facts["message"]), facts["message"]
    if case.in_task:
        assert re.fullmatch(NAME, facts["worker"])
        kind = case.kind or "user"
        assert (case.class_name, kind, case.code or case.class_name, facts["worker"]) == facts["failure"]
        assert facts["same"]
        assert 1 == sum("application/vnd.flyte-notebook.failure+json" in bundle for bundle in reply.shown)
    assert case.line in facts["shown"]
    assert (pid, {"rows": [1, 2, 3]}) == kernel.value("(os.getpid(), precious)")


def test_the_catalogue_says_the_same_about_what_comes_by_itself() -> None:
    """Whether an error can come by itself here; a base class never does, but catches those that do."""
    real = {case.promised for case in CASES if not case.simulated and not case.by_internals}
    known = REFERENCE - {"BaseRuntimeError"}
    assert {name for name in known if catalogue.explain(name).real_here} == real & known


def test_polling_errors_are_silenced_and_counted(kernel: Kernel) -> None:
    """``silence_grpc_polling_error`` says nothing to a BlockingIOError; the notebook's own handler counts it, too."""
    assert callable(errors.silence_grpc_polling_error)
    kernel.run(POLLING).ok()
    assert "" == kernel.run("try:\n    silence()\nfinally:\n    loop.set_exception_handler(ours)").ok().stderr
    before = kernel.run("%flyte doctor").ok().result
    fail = "loop.call_exception_handler({'message': 'polling', 'exception': BlockingIOError(11, 'not ready')})"
    assert "" == kernel.run(fail).ok().stderr
    after = kernel.run("%flyte doctor").ok().result
    assert "0 so far" in (before or "")
    assert "1 so far" in (after or "")


TEXTLESS = """class Textless(flyte.errors.RuntimeUserError):
    def __str__(self):
        raise RuntimeError("no text")
@env.task
async def textless() -> None:
    raise Textless("Textless", "never read")
"""


@pytest.mark.parametrize("act", ["raise Textless('Textless', 'never read')", "flyte.run(textless)"])
def test_an_error_without_a_text_costs_no_cards(kernel: Kernel, act: str) -> None:
    """An error whose ``__str__`` raises is shown with its card, and so is the next error."""
    kernel.run(TEXTLESS).ok()
    reply = kernel.run(act)
    assert ("error", "Textless") == (reply.status, reply.failure["code"])
    reply = kernel.run("raise flyte.errors.OOMError('OOMKilled', 'the next one')")
    assert ("OOMError", "OOMKilled") == (reply.ename, reply.failure["code"])


def test_half_a_letter_gets_an_answer(kernel: Kernel) -> None:
    """A message that is no UTF-8 arrives with the part that is none spelled out; a frontend can be told of it."""
    reply = kernel.run("%%flyte_task\nraise ValueError('half a letter: ' + chr(0xD800))")
    assert ("RuntimeUserError", r"half a letter: \ud800") == (reply.ename, reply.evalue)
    assert r"half a letter: \ud800" in reply.card["text/plain"]


def test_the_table_is_what_was_observed(observed: dict[str, dict[str, Any]]) -> None:
    """Every row of ``docs/errors.md`` is what was seen just now; nothing else stands there."""
    seen = table(CASES, observed)
    if os.environ.get(WRITE):
        assert {case.name for case in CASES} == set(observed), "all cases must run to write the table"
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(seen, encoding="utf-8")
    written = DOCS.read_text("utf-8")
    news = [line for line in seen.splitlines() if line not in written.splitlines()]
    assert [] == news, f"docs/errors.md is not what was observed; write it: {WRITE}=1 pytest tests/errors"
    if {case.name for case in CASES} == set(observed):
        assert seen == written, f"docs/errors.md is not what was observed; write it: {WRITE}=1 pytest tests/errors"
