"""Who a session is, and the proof that it is over: without all of it nobody else's is ever taken for one's own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from living import Kernel

from flyte_notebook.core import private
from flyte_notebook.limiters import life
from flyte_notebook.limiters.life import LOCK, Life, Where, of_here, over, proven_over, session_name

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE = os.path.abspath(tempfile.gettempdir())  # noqa: PTH100 - as the sessions name it


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Give a notebook's kernel that lives until it is told to die; its files go."""
    kernel = Kernel()
    yield kernel
    kernel.die()
    shutil.rmtree(kernel.directory, ignore_errors=True)


def proven(kernel: Kernel) -> bool:
    with proven_over(kernel.session, PLACE) as directory:
        return directory is not None


def test_a_session_is_named_after_its_kernel_and_where_that_is() -> None:
    """Pid, start time, where that means anything, and eight random digits: two sessions of one kernel differ."""
    names = [session_name(os.getpid()) for _ in range(2)]
    assert names[0] != names[1]
    where = life.here()
    assert where is not None
    assert [f"fnb-{os.getpid()}"] * 2 == ["-".join(name.split("-")[:2]) for name in names]
    assert [where.digest] * 2 == [name.split("-")[3] for name in names]
    assert re.fullmatch(r"fnb-\d+-\d+-[0-9a-f]{8}-[0-9a-f]{8}", names[0])


def test_nobody_has_no_session() -> None:
    """There is no name for a process that is not there."""
    gone = subprocess.Popen([sys.executable, "-S", "-E", "-c", ""])
    gone.wait()
    with pytest.raises(ProcessLookupError, match=str(gone.pid)):
        session_name(gone.pid)


def test_a_session_is_over_with_its_kernel(kernel: Kernel) -> None:
    """A living kernel's session goes on; with another start time under the same pid it is over."""
    number, start, where, digits = kernel.session.split("-")[1:]
    assert not over(kernel.session)
    assert over(f"fnb-{number}-{int(start) + 1}-{where}-{digits}")
    kernel.die()
    assert over(kernel.session)


@pytest.mark.linux
def test_a_kernel_that_nobody_collects_is_gone_too(kernel: Kernel) -> None:
    """A zombie has given back its lock and everything else: in a container it may stay for ever."""
    kernel.process.kill()
    os.waitid(os.P_PID, kernel.process.pid, os.WEXITED | os.WNOWAIT)
    assert over(kernel.session)
    assert proven(kernel)


@pytest.mark.parametrize(
    "name", ["fnb-main", "fnb-99999999", "fnb-99999999-1-00000000", "other-99999999-1-00000000-00000000", "fnb-a"]
)
def test_other_names_are_never_over(name: str) -> None:
    """What is not named as a session of today is nobody's leftover."""
    assert not over(name)


@pytest.mark.parametrize("part", Where._fields)
def test_what_is_of_another_place_is_never_over(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A dead session of another host, boot or pid namespace looks like one of somebody who lives there."""
    kernel.die()
    assert of_here(kernel.session)
    where = life.here()
    assert where is not None
    monkeypatch.setattr(life, "here", lambda: where._replace(**{part: "another"}))
    assert not of_here(kernel.session)
    assert not over(kernel.session)
    assert not proven(kernel)


def test_without_a_view_of_its_own_pids_nobody_is_over(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that sees the machine's /proc can tell of no pid what it is: its name is nobody else's either."""
    kernel.die()
    monkeypatch.setattr(life, "here", lambda: None)
    assert not over(kernel.session)
    assert life.NAME.fullmatch(session_name(os.getpid()))
    assert session_name(os.getpid()).split("-")[3] != session_name(os.getpid()).split("-")[3]


@pytest.mark.linux
@pytest.mark.root
def test_a_namespace_that_sees_the_pids_of_another_one_is_nowhere() -> None:
    """Under ``unshare --pid`` without a /proc of its own, the process knows that it knows nothing."""
    program = "from flyte_notebook.limiters import life; print(life.here())"
    found = [
        subprocess.run([*prefix, sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for prefix in (["unshare", "--pid", "--fork"], ["unshare", "--pid", "--fork", "--mount-proc"])
    ]
    assert "None\n" == found[0]
    assert found[1].startswith("Where(")
    assert f"{life.here()}\n" != found[1]


def test_the_lock_is_the_proof(kernel: Kernel) -> None:
    """A session whose kernel is dead while somebody of it still lives, its supervisor, cannot be proven to be over."""
    supervisor = Life.join(kernel.session, private.find(str(kernel.directory)))
    kernel.die()
    assert over(kernel.session)
    assert not proven(kernel)
    supervisor.leave()
    assert proven(kernel)


def test_the_proof_is_held_while_it_is_needed(kernel: Kernel) -> None:
    """Two sweeps at the same time: one has the proof, and the other leaves everything alone."""
    kernel.die()
    with proven_over(kernel.session, PLACE) as first, proven_over(kernel.session, PLACE) as second:
        assert first is not None
        assert second is None


def test_where_no_lock_can_be_had_nothing_is_proven(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks, a session leaves what it leaves."""

    def refuse(_descriptor: int, _how: int) -> None:
        raise OSError(38, "Function not implemented")

    kernel.die()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not proven(kernel)
    Life.begin(session_name(os.getpid())).end()


@pytest.mark.parametrize("fault", ["no lock", "a link for a lock", "open to others", "a link for the directory"])
def test_a_directory_that_is_not_as_it_was_made_proves_nothing(kernel: Kernel, tmp_path: Path, fault: str) -> None:
    """Whoever could write there may have put it there: it is left alone."""
    kernel.die()
    lock = kernel.directory / LOCK
    if fault == "no lock":
        lock.unlink()
    elif fault == "a link for a lock":
        lock.unlink()
        (tmp_path / LOCK).touch()
        lock.symlink_to(tmp_path / LOCK)
    elif fault == "open to others":
        kernel.directory.chmod(0o755)
    else:
        kernel.directory.rename(tmp_path / "moved")
        kernel.directory.symlink_to(tmp_path / "moved")
    assert not proven(kernel)
    if fault == "a link for the directory":
        kernel.directory.unlink()


def test_a_session_that_cannot_write_is_not_begun() -> None:
    """On a full disk: the error says what, where and why, and nothing is left."""
    name = session_name(os.getpid())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(
            private.UnwritableError, match=rf"File too large: \d+ B cannot be written to .*/{name}/lock"
        ):
            Life.begin(name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not Path(PLACE, name).exists()


def test_it_says_in_clear_who_it_is() -> None:
    """The lock's file names the session, the host, the boot and the namespace, for a person who finds it."""
    living = Life.begin(session_name(os.getpid()))
    try:
        said = json.loads(Path(living.directory.path, LOCK).read_text())
    finally:
        living.end()
    where = life.here()
    assert where is not None
    assert {"name": living.name, **where._asdict()} == said


@pytest.mark.linux
def test_a_fork_of_the_kernel_is_no_life_of_the_session() -> None:
    """A process that a notebook forked, and that outlives it, does not keep its session from being over."""
    # Until it runs, a fork has what the kernel had open.
    kernel = Kernel(then="ran, runs = os.pipe()\nos.fork() or os.write(runs, b'.') and time.sleep(60)\nos.read(ran, 1)")
    try:
        kernel.die()
        children = [pid for pid in os.listdir("/proc") if pid.isdigit() and _group_of(pid) == kernel.process.pid]  # noqa: PTH208 - names
        assert 1 == len(children)
        assert proven(kernel)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(kernel.process.pid, 9)
        shutil.rmtree(kernel.directory)


def _group_of(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[2])
    except OSError:
        return 0


@pytest.mark.linux
def test_a_fork_removes_nothing() -> None:
    """A process that was forked may end the session it inherited: it is not its own, and nothing happens."""
    living = Life.begin(session_name(os.getpid()))
    pid = os.fork()
    if pid == 0:
        try:
            living.end()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert Path(living.directory.path, LOCK).exists()
    living.end()
    assert not Path(living.directory.path).exists()


def test_what_a_session_claims_goes_with_it(tmp_path: Path) -> None:
    """A directory elsewhere goes with the session that claims it; one whose claim was given up stays."""
    tmp_path.chmod(0o700)
    living = Life.begin(session_name(os.getpid()))
    claimed, kept = (private.make(str(tmp_path / name)) for name in ("claimed", "kept"))
    Path(claimed.path, "value").write_bytes(b"x")
    life.claim(living.directory, claimed)
    private.remove(life.claim(living.directory, kept))
    living.end()
    assert ["kept"] == [path.name for path in tmp_path.iterdir()]


def test_a_claim_is_for_one_directory_only(tmp_path: Path) -> None:
    """Another directory that stands there now is not removed."""
    living = Life.begin(session_name(os.getpid()))
    claimed = private.make(str(tmp_path / "claimed"))
    life.claim(living.directory, claimed)
    Path(claimed.path).rename(tmp_path / "moved")
    Path(claimed.path).mkdir(mode=0o700)
    living.end()
    assert Path(claimed.path).exists()
