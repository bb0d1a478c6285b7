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
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import alive, groups, read_until, started, until

if TYPE_CHECKING:
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
    for number in range(2):
        facts(found=facts_of(works, bytearray(1_500_000), os.environ["PLACE"] + str(number)))
"""
LOADS = """
with fn.enable():
    enforcement.current().engine.wait_until_proven()
    facts(found=facts_of(add, 1, 2), report=str(fn.doctor()))
"""
SWEEPS = """
import tempfile
from flyte_notebook.limiters.leftovers import left_alone, sweep

sweep()
print(left_alone(tempfile.gettempdir()))
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a directory for temporary files of several sessions."""
    with tempfile.TemporaryDirectory(prefix="shared-") as place:
        yield Path(place)


@dataclass
class Working:
    """A session whose task runs; ``place`` is the beginning of the names of files between it and the test."""

    process: subprocess.Popen[str]
    place: Path
    directory: Path
    files: set[Path] = field(default_factory=set)
    groups: set[Path] = field(default_factory=set)

    def runs(self, number: int) -> None:
        """Wait until its task of that number runs, and note what there is then."""
        until(Path(f"{self.place}{number}").exists)
        self.files = {path for path in self.directory.iterdir() if path.suffix != ".claim"}
        # Workers that stand ready come and go, with their groups.
        self.groups = {group for group in groups(self.directory.name) if works(group)}
        assert self.files
        assert self.groups

    def has_all(self) -> bool:
        """Whether all that was noted is there."""
        return self.files <= set(self.directory.iterdir()) and self.groups <= groups(self.directory.name)

    def die(self) -> None:
        """Kill it, with all that it started: the supervisor first, which would clear up."""
        family = descendants(self.process.pid)
        assert any("worker.process.supervisor" in command for command in family.values())
        for pid in sorted(family, key=lambda pid: "worker.process.supervisor" not in family[pid]):
            kill(pid)
        self.process.kill()
        self.process.wait()
        until(lambda: not any(alive(pid) for pid in family))


def swept(temporary: Path, prefix: Sequence[str]) -> int:
    """Sweep as every session does when it is loaded; return how many are left alone."""
    command = [*prefix, sys.executable, "-c", SWEEPS]
    environ = {**os.environ, "TMPDIR": str(temporary)}
    return int(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)


def loaded(directory: Path, temporary: Path, prefix: Sequence[str]) -> int:
    """Load another session, run a task and unload it; return how many are left alone, as the doctor says."""
    with started(LOADS, directory, environ={"TMPDIR": str(temporary)}, prefix=prefix) as process:
        said = read_until(process, "FACTS")
        process.wait(30)
    assert '"outputs": ["3"]' in said
    left = re.search(r"cannot be proven to be over, are left alone: (\d+)", said)
    return 0 if left is None else int(left[1])


def test_sessions_of_elsewhere_are_left_alone(shared: Path, tmp_path: Path) -> None:
    """Two that work, in two pid namespaces, are not harmed by others of either, with the same files or others.

    Then both are killed with their supervisors: only a session of the same place clears up after each.
    """
    with contextlib.ExitStack() as working:
        found: dict[str, Working] = {}
        for name, prefix in PREFIXES.items():
            place = tmp_path / name
            environ = {"TMPDIR": str(shared), "PLACE": str(place)}
            process = working.enter_context(started(WORKS, tmp_path, environ=environ, prefix=prefix))
            found[name] = Working(process, place, Path(read_until(process, "READY").split()[-1]))
        here, apart = found["here"], found["apart"]
        for one in (here, apart):
            one.runs(0)
        for prefix in PREFIXES.values():
            for temporary in (shared, tmp_path):
                swept(temporary, prefix)
        loaded(tmp_path, shared, APART)
        assert here.has_all()
        assert apart.has_all()
        for one in (here, apart):
            Path(f"{one.place}0.end").touch()
            assert '"outputs": ["1500000"]' in read_until(one.process, "FACTS")
            one.runs(1)
            one.die()
        assert swept(shared, APART) >= 2  # groups of others may be there too
        assert here.has_all()
        assert apart.has_all()
        assert loaded(tmp_path, shared, ()) >= 1
        assert (False, set()) == (here.directory.exists(), groups(here.directory.name))
        assert apart.has_all()
        # Its namespace is gone for good: nobody can clear up but a person.
        for group in sorted(groups(apart.directory.name), key=lambda path: -len(path.parts)):
            group.rmdir()


def works(group: Path) -> bool:
    """Whether a worker with a job is in a group."""
    with contextlib.suppress(OSError):
        members = (group / "cgroup.procs").read_text().split()
        return any(not Path(f"/proc/{pid}/comm").read_text().startswith("fnb-") for pid in members)
    return False


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
