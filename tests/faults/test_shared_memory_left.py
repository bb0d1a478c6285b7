"""Shared memory of a task does not outlive the kernel that started it, however that one ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from bounds import under_load
from programs import started, until

from flyte_notebook.limiters.shared_memory import PLACE

pytestmark = [pytest.mark.cgroup]

BYTES = 20 << 20
PROGRAM = """
@env.task
def makes(name: str) -> None:
    from multiprocessing import shared_memory
    shared = shared_memory.SharedMemory(name, create=True, size=20 << 20)
    shared.buf[: 20 << 20] = bytes(20 << 20)
    time.sleep(600)

fn.enable()
flyte.run(makes, NAME)
"""


def test_shared_memory_goes_with_a_kernel_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL while a task holds some: nothing of that name stays."""
    name = f"fnb-test-{os.getpid()}-{time.monotonic_ns()}"
    path = Path(PLACE, name)
    with started(PROGRAM.replace("NAME", repr(name)), tmp_path) as process:
        until(lambda: path.exists() and path.stat().st_blocks * 512 >= BYTES)
        process.kill()
        process.wait()
        until_s = time.monotonic() + under_load(10)
        while path.exists() and time.monotonic() < until_s:
            time.sleep(0.01)
    stayed = path.exists()
    path.unlink(missing_ok=True)
    assert not stayed
