"""Sessions that share a directory for temporary files, or control groups, with sessions of other pid namespaces.

As containers do that are given the machine's /tmp, and jobs of a cluster on one file system. Loading in one of them
kills no task of the other, removes no group and no file of it: while it works, and after it was killed; and that in
both directions.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import alive, facts_of, read_until, started, until

from flyte_notebook.limiters.control_groups import own

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cgroup, pytest.mark.root, pytest.mark.linux]

APART = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
PREFIXES: dict[str, tuple[str, ...]] = {"here": (), "apart": APART}

WORKS = """
@env.task
def works(value: bytearray, place: str) -> int:
    Path(place).touch()
    while not Path(place + ".end").exists():
        time.sleep(0.02)
    return len(value)

with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    print("READY", session.engine.directory.path, flush=True)
    facts(found=facts_of(works, bytearray(1_500_000), os.environ["PLACE"]))
"""
LOADS = """
with fn.enable():
    enforcement.current().engine.wait_until_proven()
    facts(found=facts_of(add, 1, 2), report=str(fn.doctor()), own=enforcement.current().engine.directory.path)
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a directory for temporary files of several sessions."""
    with tempfile.TemporaryDirectory(prefix="shared-") as place:
        yield Path(place)


def groups(session: str) -> set[Path]:
    bases = {base[0] for base in map(own, ("memory", "cpu", "pids", "")) if base is not None}
    return {path for base in bases for path in Path(base, session).glob("**/")}


@pytest.mark.parametrize("files", ["one directory for files", "a directory each"])
@pytest.mark.parametrize(("first", "second"), [("here", "apart"), ("apart", "here"), ("apart", "apart")])
def test_loading_harms_nobody_who_works_elsewhere(
    shared: Path, tmp_path: Path, first: str, second: str, files: str
) -> None:
    """A task with a large input goes on while another session is loaded and unloaded, and ends well."""
    place = tmp_path / "place"
    environ = {"TMPDIR": str(shared), "PLACE": str(place)}
    other = {"TMPDIR": str(shared if files.startswith("one") else tmp_path)}
    with started(WORKS, tmp_path, environ=environ, prefix=PREFIXES[first]) as process:
        directory = Path(read_until(process, "READY").split()[-1])
        until(place.exists)
        before = {path for path in directory.iterdir() if path.suffix != ".claim"}
        held = groups(directory.name)
        assert held
        with started(LOADS, tmp_path, environ=other, prefix=PREFIXES[second]) as beside:
            assert '"outputs": ["3"]' in read_until(beside, "FACTS")
            beside.wait(30)
        assert before <= set(directory.iterdir())
        assert groups(directory.name) & held
        place.with_name("place.end").touch()
        assert '"outputs": ["1500000"]' in read_until(process, "FACTS")
        process.wait(30)
    assert not directory.exists()


@pytest.mark.parametrize(("first", "second"), [("here", "apart"), ("apart", "here")])
def test_what_a_dead_session_of_elsewhere_left_is_left_alone(
    shared: Path, tmp_path: Path, first: str, second: str
) -> None:
    """Its kernel and its supervisor are killed: only a session of the same place may clear up, and does.

    The other one says in the doctor that something is there.
    """
    place = tmp_path / "place"
    environ = {"TMPDIR": str(shared), "PLACE": str(place)}
    with started(WORKS, tmp_path, environ=environ, prefix=PREFIXES[first]) as process:
        directory = Path(read_until(process, "READY").split()[-1])
        until(place.exists)
        family = descendants(process.pid)
        assert any("worker.supervisor" in command for command in family.values())
        # The supervisor first: it would clear up. What it started ends with it.
        for pid in sorted(family, key=lambda pid: "worker.supervisor" not in family[pid]):
            kill(pid)
        process.kill()
        process.wait()
        until(lambda: not any(alive(pid) for pid in family))
    assert directory.exists()
    files = set(directory.iterdir())
    with started(LOADS, tmp_path, environ=environ, prefix=PREFIXES[second]) as beside:
        said = read_until(beside, "FACTS")
        beside.wait(30)
    assert '"outputs": ["3"]' in said
    assert "1 of other machines, containers" in said
    assert files == set(directory.iterdir())
    assert groups(directory.name)
    if first == "here":
        said = facts_of(LOADS, tmp_path, environ=environ)
        assert {"outputs": ["3"]} == said["found"]
        assert not directory.exists()
        assert not groups(directory.name)
    else:  # its namespace is gone for good: nobody can clear up but a person
        for group in sorted(groups(directory.name), key=lambda path: -len(path.parts)):
            group.rmdir()


def descendants(pid: int) -> dict[int, str]:
    """Return the commands of all processes below one, by pid."""
    found: dict[int, str] = {}
    todo = [pid]
    while todo:
        for child in map(int, children(todo.pop())):
            found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            todo.append(child)
    return found


def children(pid: int) -> list[str]:
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += task.read_text().split()
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
