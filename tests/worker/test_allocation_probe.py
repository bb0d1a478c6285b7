"""How much a process asks for at once, seen from outside: a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.worker.stacks.allocation_probe import AllocationProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.linux  # it reads /proc

MI = 1 << 20
PROGRAM = """
import mmap, sys
held = []
for line in sys.stdin:
    size = int(line)
    if size < 0:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        held.append(mmap.mmap(-1, -size << 20, flags=flags))
    elif size:
        held.append(mmap.mmap(-1, size << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    else:
        held.pop().close()
    print("done", flush=True)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """Give a process that allocates as many MiB as it is told, and gives the last one back for 0."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        tell(process, 1)
        yield process
        assert process.stdin is not None
        process.stdin.close()


def tell(process: subprocess.Popen[str], size_mi: int) -> None:
    """Have it allocate so much, and wait until it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{size_mi}\n")
    process.stdin.flush()
    assert "done\n" == process.stdout.readline()


def test_an_arena_that_is_reserved_is_no_request(child: subprocess.Popen[str]) -> None:
    """An allocator reserves a gibibyte to use it bit by bit; what is asked for with it or later still counts."""
    asked = AllocationProbe(child.pid)
    asked.begin(10 * MI)
    asked.look(0.0, 10 * MI)
    tell(child, -1024)
    asked.look(1.0, 12 * MI)
    assert asked.last is None
    tell(child, 400)
    tell(child, -512)
    asked.look(2.0, 13 * MI)
    assert asked.last is not None
    assert (400, 12) == tuple(value // MI for value in asked.last)


def test_an_arena_is_no_request_of_a_process_that_is_killed_before_its_mappings_are_read(
    child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address space grew, and the process is gone when one looks by what: that is not known, so it is not told."""
    asked = AllocationProbe(child.pid)
    asked.look(0.0, 10 * MI)
    tell(child, 100)
    asked.look(1.0, 147 * MI)
    tell(child, -1024)
    read = asked._read

    def read_and_kill() -> int | None:
        found = read()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return found

    monkeypatch.setattr(asked, "_read", read_and_kill)
    asked.look(2.0, 150 * MI)
    assert asked.last is not None
    assert 100 == asked.last[0] // MI, "what is known of it stays"


def test_an_allocation_is_known_before_any_of_it_is_used(child: subprocess.Popen[str]) -> None:
    """Its size, and what was in use before; a small one after it changes nothing, a large one takes its place."""
    asked = AllocationProbe(child.pid)
    asked.begin(10 * MI)
    asked.look(0.0, 10 * MI)
    assert asked.last is None
    tell(child, 700)
    asked.look(1.0, 60 * MI)
    assert asked.last is not None
    assert (700, 10 * MI) == (asked.last[0] // MI, asked.last[1])
    tell(child, 8)
    asked.look(2.0, 65 * MI)
    assert 700 == asked.last[0] // MI
    tell(child, 200)
    asked.look(3.0, 70 * MI)
    assert (200, 65 * MI) == (asked.last[0] // MI, asked.last[1])


def test_what_was_given_back_is_forgotten(child: subprocess.Popen[str]) -> None:
    """An allocation that is gone explains no kill."""
    asked = AllocationProbe(child.pid)
    asked.look(0.0, 0)
    tell(child, 300)
    asked.look(1.0, 0)
    assert asked.last is not None
    tell(child, 0)
    asked.look(2.0, 0)
    assert asked.last is None


def test_a_process_that_is_gone_leaves_what_was_known(child: subprocess.Popen[str]) -> None:
    """The kernel takes its memory away at once, and says zero of a process that nobody has waited for yet."""
    asked = AllocationProbe(child.pid)
    asked.look(0.0, 0)
    tell(child, 300)
    asked.look(1.0, 0)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    asked.look(2.0, 0)
    assert asked.last is not None
    child.wait()
    asked.look(3.0, 0)
    assert asked.last is not None
    assert AllocationProbe(None).last is None


def test_it_looks_when_memory_moved_and_not_too_often(child: subprocess.Popen[str]) -> None:
    """A rest costs nothing, and a look so soon after another one neither."""
    asked = AllocationProbe(child.pid)
    asked.look(0.0, 0)
    tell(child, 300)
    asked.look(1.0, 0, moved=False)
    asked.look(0.001, 0)
    assert asked.last is None
