"""``%flyte system_retries``: lost workers are replaced in a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

CRASH = "%%flyte_task crasher\nimport ctypes\nctypes.string_at(0)"


def test_a_crash_is_retried_on_request(kernel: Kernel) -> None:
    """After %flyte system_retries 1 a segfault has two attempts and its own code, and the doctor says so; and back."""
    reply = kernel.run(CRASH)
    assert ("RuntimeSystemError", "Interrupted") == (reply.ename, reply.failure["code"])
    assert kernel.run("%flyte system_retries 1").result.startswith("1: a worker that is lost is replaced up to 1 time ")
    try:
        reply = kernel.run(CRASH)
        assert ("RuntimeSystemError", "MaxSystemFailuresExceeded") == (reply.ename, reply.failure["code"])
        assert reply.failure["message"].startswith('plugin "container" failed with system error 2 times: [Interrupted]')
        assert (2, 2) == (reply.failure["attempt"], reply.failure["max_attempts"])
        assert "attempt 2 of 2" in reply.card["text/plain"]
        assert "replaced up to 1 times in a row" in kernel.run("%flyte doctor").ok().result
        assert [1, 2] == kernel.value("[attempt.number for attempt in fn.last_run.actions[0].attempts]")
    finally:
        assert kernel.run("%flyte system_retries 0").result.startswith("0: a worker that is lost is not replaced")
    assert "Interrupted" == kernel.run(CRASH).failure["code"]


def test_what_is_no_number_gets_one_line(kernel: Kernel) -> None:
    """A wrong number is refused with a right one; without a number the setting is shown; Tab offers some."""
    assert "'many' is not a number of retries; write %flyte system_retries 2" in (
        kernel.run("%flyte system_retries many").stderr
    )
    assert kernel.run("%flyte system_retries").result.startswith("0: ")
    assert "2" in kernel.complete("%flyte system_retries ")
    assert "%flyte system_retries" in " ".join(kernel.paged("%%flyte_task?").split())
