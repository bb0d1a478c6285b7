"""A cell that takes from its worker what an answer needs, or leaves something in shared memory; the next cell runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bounds import under_load

if TYPE_CHECKING:
    from kernels import Kernel

pytestmark = pytest.mark.jupyter

END_S = 15.0
"""How soon such a cell is over; `returning.REFUSED_BOUND_S` is five seconds."""


@pytest.mark.parametrize("last", ["kept = 1", "1 / 0", "large = bytes(3 << 20)"])
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_cell_that_leaves_its_worker_no_memory_has_an_end(kernel: Kernel, limit: str, last: str) -> None:
    """Whether it can still answer or not, it is over within seconds, and an error says why; the next cell runs."""
    began_s = time.monotonic()
    body = f"import resource\nresource.setrlimit(resource.{limit}, (1 << 20, 1 << 20))\n{last}"
    reply = kernel.run(f"%%flyte_task --memory 250Mi\n{body}")
    assert time.monotonic() - began_s < under_load(END_S)
    if reply.ename == "RuntimeSystemError":
        assert "the worker could not " in reply.failure["headline"]
        assert f"{limit} of 1 MiB that it has set" in reply.failure["headline"]
    else:
        assert reply.ename == ("RuntimeUserError" if reply.ename else None)
    kernel.run("%%flyte_task --memory 250Mi\nnext_one = 1").ok()
    assert 1 == kernel.value("next_one")


def test_a_cell_may_lower_its_own_soft_limits(kernel: Kernel) -> None:
    """They hold for its body: what it could not allocate is a MemoryError, which it may catch, and its values come."""
    kernel.run(
        "%%flyte_task --memory 250Mi\nimport resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))\n"
        "try:\n    caught = bytes(8 << 20)\nexcept MemoryError:\n    caught = 'refused'\n"
    ).ok()
    assert "refused" == kernel.value("caught")


def test_a_cell_that_is_killed_with_named_shared_memory_can_be_run_again(kernel: Kernel) -> None:
    """The object goes with the task, so that the same cell fails in the same way again, and the card says so."""
    name = f"fnb-test-cell-{os.getpid()}-{time.monotonic_ns()}"
    cell = (
        "%%flyte_task --memory 150Mi\nfrom multiprocessing import shared_memory\n"
        f"held = shared_memory.SharedMemory({name!r}, create=True, size=50 << 20)\n"
        "held.buf[:50 << 20] = bytes(50 << 20)\nlarge = bytearray(600 << 20)"
    )
    for _ in range(2):
        reply = kernel.run(cell)
        assert "OOMError" == reply.ename
        assert not Path("/dev/shm", name).exists()  # noqa: S108 - where it is
        assert f"removed from shared memory, as with a pod: `{name}` (50 MiB)" == reply.failure["note"]
