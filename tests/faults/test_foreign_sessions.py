"""Sessions that share a directory for temporary files, or control groups, with sessions of other pid namespaces.

As containers do that are given the machine's /tmp, and jobs of a cluster on one file system. Loading in one of them
kills no task of the other, removes no group and no file of it: while it works, and after it was killed; and that in
both directions.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import alive, read_until, started, until

from flyte_notebook.limiters.control_groups import own

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

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
    facts(found=facts_of(add, 1, 2), report=str(fn.doctor()))
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a directory for temporary files of several sessions."""
    with tempfile.TemporaryDirectory(prefix="shared-") as place:
        yield Path(place)


def groups(session: str) -> set[Path]:
    bases = {base[0] for base in map(own, ("memory", "cpu", "pids", "")) if base is not None}
    return {path for base in bases for path in Path(base, session).glob("**/")}


def begun(process: subprocess.Popen[str], place: Path) -> Path:
    """Return the directory of a session when its task runs."""
    directory = Path(read_until(process, "READY").split()[-1])
    until(place.exists)
    return directory


def loaded(directory: Path, temporary: Path, prefix: Sequence[str]) -> str:
    """Load and unload another session, which shares control groups, and files if it is told so; return what it says."""
    with started(LOADS, directory, environ={"TMPDIR": str(temporary)}, prefix=prefix) as process:
        said = read_until(process, "FACTS")
        process.wait(30)
    assert '"outputs": ["3"]' in said
    return said


def test_loading_harms_nobody_who_works_elsewhere(shared: Path, tmp_path: Path) -> None:
    """Tasks with large inputs, one in each place, go on while sessions are loaded and unloaded, and end well.

    Each of these in another pid namespace or in the same, with the same directory for files or one of its own.
    """
    with contextlib.ExitStack() as working:
        sessions = []
        for name, prefix in PREFIXES.items():
            place = tmp_path / name
            environ = {"TMPDIR": str(shared), "PLACE": str(place)}
            process = working.enter_context(started(WORKS, tmp_path, environ=environ, prefix=prefix))
            sessions.append((process, begun(process, place), place))
        before = [
            ({path for path in directory.iterdir() if path.suffix != ".claim"}, groups(directory.name))
            for _, directory, _ in sessions
        ]
        assert all(files and held for files, held in before)
        for prefix in PREFIXES.values():
            for temporary in (shared, tmp_path):
                loaded(tmp_path, temporary, prefix)
        for (_, directory, _), (files, held) in zip(sessions, before, strict=True):
            assert files <= set(directory.iterdir())
            assert groups(directory.name) & held
        for process, directory, place in sessions:
            place.with_name(f"{place.name}.end").touch()
            assert '"outputs": ["1500000"]' in read_until(process, "FACTS")
            process.wait(30)
            assert not directory.exists()


def test_what_a_dead_session_of_elsewhere_left_is_left_alone(shared: Path, tmp_path: Path) -> None:
    """One session in each place is killed, with its supervisor: only a session of the same place clears up after it.

    The doctor says how many are left.
    """
    dead = {name: killed(shared, tmp_path, name) for name in PREFIXES}
    before = {name: set(directory.iterdir()) for name, directory in dead.items()}
    assert left(loaded(tmp_path, shared, APART)) >= len(dead)  # groups of others may be there too
    assert before == {name: set(directory.iterdir()) for name, directory in dead.items()}
    assert all(groups(directory.name) for directory in dead.values())
    assert left(loaded(tmp_path, shared, ())) >= 1
    assert (False, set()) == (dead["here"].exists(), groups(dead["here"].name))
    assert before["apart"] == set(dead["apart"].iterdir())
    # Its namespace is gone for good: nobody can clear up but a person.
    for group in sorted(groups(dead["apart"].name), key=lambda path: -len(path.parts)):
        group.rmdir()


def left(report: str) -> int:
    found = re.search(r"cannot be proven to be over, are left alone: (\d+)", report)
    assert found is not None, report
    return int(found[1])


def killed(shared: Path, tmp_path: Path, name: str) -> Path:
    """Kill a session while its task runs, with all that it started, and return its directory."""
    place = tmp_path / name
    environ = {"TMPDIR": str(shared), "PLACE": str(place)}
    with started(WORKS, tmp_path, environ=environ, prefix=PREFIXES[name]) as process:
        directory = begun(process, place)
        family = descendants(process.pid)
        assert any("worker.supervisor" in command for command in family.values())
        # The supervisor first: it would clear up. What it started ends with it.
        for pid in sorted(family, key=lambda pid: "worker.supervisor" not in family[pid]):
            kill(pid)
        process.kill()
        process.wait()
        until(lambda: not any(alive(pid) for pid in family))
    assert directory.exists()
    return directory


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
