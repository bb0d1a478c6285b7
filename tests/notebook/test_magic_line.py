"""The line that a killed cell stood at, in a real kernel: in the cell, in another cell's function, in a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup]

HELPER = """def grow():
    kept = [0]
    while True:
        kept.append(bytearray(1 << 20))  # planted
"""
MODULE = """
def start(size):
    room = []
    room += bytearray(size)  # planted
    return room
"""
KILLED = {
    "one call": "x = 1\nlarge = bytearray(600 << 20)  # planted\nlen(large)",
    "one call that copies": "row = [0] * 10\nlarge = row * 100_000_000  # planted\nlen(large)",
    "a loop": "kept = []\nfor number in range(10**6):\n    kept.append(bytearray(1 << 20))  # planted",
    "top-level await": "import asyncio\nawait asyncio.sleep(0)\nlarge = bytearray(600 << 20)  # planted\nlen(large)",
    "another cell": "first = 1\ngrow()",
    "in the cell": HELPER + "grow()",
    "a module": "import fnb_planted\nfnb_planted.start(600 << 20)",
}


@pytest.mark.parametrize("body", KILLED.values(), ids=KILLED)
def test_the_line_that_took_the_memory(kernel: Kernel, tmp_path: Path, body: str) -> None:
    """A cell killed for memory names its own line, or that of the code it called, on the card and in the failure."""
    (tmp_path / "fnb_planted.py").write_text(MODULE)
    kernel.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})").ok()
    kernel.run(HELPER).ok()
    reply = kernel.run("%%flyte_task --memory 160Mi\n" + body)
    kernel.run("sys.path.pop(0)").ok()
    assert "OOMError" == reply.ename
    reason, text = kernel.value("(fn.last_failure.reason, fn.last_failure.line.text)")
    assert ("memory", True) == (reason, text.endswith("# planted"))
    assert text.strip()[:20] in reply.card["text/plain"]


def test_the_line_where_it_stood_when_its_time_was_up(kernel: Kernel) -> None:
    """A cell that timed out names the line it stood at."""
    reply = kernel.run("%%flyte_task --timeout 1s\ntotal = 0\nwhile True:\n    total += sum(range(10_000))  # planted")
    assert "MaxRuntimeExceededError" == reply.ename
    assert kernel.value("fn.last_failure.line.text.endswith('# planted')")


def test_the_line_where_it_stood_when_it_was_stopped(kernel: Kernel) -> None:
    """A cell that was interrupted names the line it stood at."""
    body = "import time\nprint('waiting', flush=True)\nbegun = 1\ntime.sleep(60)  # planted"
    reply = kernel.run("%%flyte_task\n" + body, interrupt_after="waiting")
    assert "ActionAbortedError" == reply.ename
    assert ("stopped", True) == kernel.value(
        "(fn.last_failure.reason, fn.last_failure.line.text.endswith('# planted'))"
    )
