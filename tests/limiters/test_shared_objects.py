"""Which files in ``/dev/shm`` are known to be an attempt's, and which of them may go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.limiters import shared_memory
from flyte_notebook.limiters.shared_memory import PLACE, SharedObjects, clear, held, present

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not Path(PLACE).is_dir(), reason="this system has no /dev/shm")


@pytest.fixture
def path() -> Iterator[Path]:
    """Give the path of a file that is not there yet; it is removed."""
    path = Path(PLACE, f"fnb-test-{os.getpid()}-{time.monotonic_ns()}")
    yield path
    path.unlink(missing_ok=True)


def test_what_comes_is_seen_at_once_and_nothing_is_listed_again(path: Path) -> None:
    """The listing is the same object while nothing came or went, and another one as soon as something did."""
    before = present()
    assert before is present()
    path.touch()
    assert {path.name} == set(present().values()) - set(before.values())
    path.unlink()
    assert path.name not in present().values()


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_a_process_that_uses_it_is_known(path: Path, how: str) -> None:
    """Open without a mapping, or mapped without a descriptor; and nobody else."""
    path.write_bytes(bytes(4096))
    inode = path.stat().st_ino
    program = "import mmap, sys, time; file = open(sys.argv[1], 'r+b'); held = file; "
    if how == "mapped":
        program += "held = mmap.mmap(file.fileno(), 0); file.close(); "  # which keeps a descriptor
        program += "import os; [os.close(fd) for fd in range(3, 20) if os.path.exists(f'/proc/self/fd/{fd}')]; "
    program += "print('there', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert b"there\n" == running.stdout.readline()
            assert {inode} == held(running.pid, {inode: path.name})
            assert set() == held(os.getpid(), {inode: path.name})
            why = f"in use by process {running.pid} ("
            assert clear({inode: path.name})[0]["why"].startswith(why)
            assert path.exists()
        finally:
            running.kill()
    assert [{"name": path.name, "size_bytes": 4096, "why": ""}] == clear({inode: path.name})
    assert not path.exists()


def test_another_file_that_has_its_name_by_now_stays(path: Path) -> None:
    """It is known by its inode."""
    path.touch()
    inode = path.stat().st_ino
    other = Path(f"{path}.other")
    other.touch()
    other.rename(path)
    assert [] == clear({inode: path.name})
    assert path.exists()


def test_a_file_of_another_user_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rights there are to remove it."""
    path.touch()
    monkeypatch.setattr(shared_memory.os, "geteuid", lambda: os.getuid() + 1)
    assert "not this user's own file" == clear({path.stat().st_ino: path.name})[0]["why"]
    assert path.exists()


def test_only_what_came_while_the_attempt_ran_and_was_seen_in_it_is_its_own(path: Path) -> None:
    """Not what it only had open and was there before, nor what came and nobody of it had."""
    path.touch()
    objects = SharedObjects(lambda work: work())
    later, unused = Path(f"{path}.later"), Path(f"{path}.unused")
    try:
        unused.touch()
        with path.open(), later.open("w"):
            objects.look(0.0, lambda: [os.getpid()])
            assert [(later.stat().st_ino, later.name)] == objects.held
        assert {unused.stat().st_ino} == objects.unseen
        assert objects.settled(0.0)
        assert [later.name] == [one["name"] for one in objects.left]
        assert [True, False, True] == [one.exists() for one in (path, later, unused)]
    finally:
        later.unlink(missing_ok=True)
        unused.unlink(missing_ok=True)
