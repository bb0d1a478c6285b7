"""Control groups version 2: where sessions stand, what the counters mean, and, where there is one, the real thing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import turns
from kernel_contract import KernelContract
from limited import MIB, Children

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters import cgroup_v2
from flyte_notebook.limiters.base import Counters, LimiterUnavailableError
from flyte_notebook.limiters.cgroup_v2 import Base, CgroupV2, find_base, read_events, systemd_scope_command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.cgroup_v2
class TestCgroupV2(KernelContract):
    """Everything the contract says, and what only version 2 has."""

    mechanism = "cgroup_v2"
    limit_file = "memory.max"

    def session_directory(self, limiter: CgroupV2) -> str:
        """Return the directory of the session."""
        return limiter._session

    def cpu_directory(self, limiter: CgroupV2) -> str:
        """Return the directory of the session."""
        return limiter._session

    def swap_files(self, limit_bytes: int) -> dict[str, int]:  # noqa: ARG002 - version 1 needs it
        """Return what stands in the files that keep swap out."""
        return {"memory.swap.max": 0}

    def test_the_whole_group_dies_together(self, limiter: CgroupV2, children: Children) -> None:
        """A child that goes too far takes the whole group with it, and each process killed was counted."""
        group = limiter.group("a", Limits(memory_bytes=80 * MIB))
        child = children.start(group, "if os.fork() == 0: use(120)\nwait()")
        assert children.finish(child, group, kill_on_oom=False) < 0
        assert group.counters().oom_kills >= 1
        group.remove()


def tree(top: Path, **files: str) -> str:
    """Make a group directory that looks like the kernel's; ``files`` by name with dots as underscores."""
    top.mkdir(parents=True, exist_ok=True)
    (top / "cgroup.procs").write_text("")
    for name, text in files.items():
        (top / name.replace("__", ".")).write_text(text)
    return str(top)


ON = {"cgroup__controllers": "cpu memory pids", "cgroup__subtree_control": ""}
BELOW = {**ON, "cgroup__type": "domain", "memory__max": "max\n", "cpu__max": "max 100000\n", "cpuset__cpus": "\n"}


def test_the_top_of_the_hierarchy_holds_sessions_directly(tmp_path: Path) -> None:
    """At the real top, which alone may hold processes and groups, nobody has to move."""
    top = tree(tmp_path / "top", **ON)
    assert Base(directory=top, occupied=False) == find_base(top, top, root=True)


def test_root_below_the_top_uses_the_top(tmp_path: Path) -> None:
    """Root in a login session does not move that session's processes: groups stand under the top."""
    top = tree(tmp_path / "top", **ON)
    own = tree(tmp_path / "top" / "user.slice", **BELOW)
    assert Base(directory=top, occupied=False) == find_base(own, top, root=True)


LIMITS = [{"memory__max": "1000000"}, {"cpu__max": "50000 100000"}, {"cpuset__cpus": "0-1"}]


@pytest.mark.parametrize("limit", LIMITS)
def test_root_under_a_limit_stays_under_it(tmp_path: Path, limit: dict[str, str]) -> None:
    """Where a group above us is limited, the top would let tasks escape that limit."""
    top = tree(tmp_path / "top", **ON)
    tree(tmp_path / "top" / "small.slice", **{**BELOW, **limit})
    own = tree(tmp_path / "top" / "small.slice" / "hub.service", **BELOW)
    assert Base(directory=own, occupied=True) == find_base(own, top, root=True)


def test_a_container_uses_its_own_group(tmp_path: Path) -> None:
    """In a private cgroup namespace the visible top is no real one: processes in it must move first."""
    own = tree(tmp_path / "container", **BELOW)
    assert Base(directory=own, occupied=True) == find_base(own, own, root=True)


def test_a_delegated_scope_is_used(tmp_path: Path) -> None:
    """An ordinary user whose own group may be written uses it, after moving to a leaf."""
    top = tree(tmp_path / "top", **ON)
    own = tree(tmp_path / "top" / "run-1.scope", **BELOW)
    assert Base(directory=own, occupied=True) == find_base(own, top, root=False)


def test_a_second_session_finds_the_first_ones_place(tmp_path: Path) -> None:
    """Whoever was moved to the leaf before makes its session beside it, not below it."""
    scope = tree(tmp_path / "run-1.scope", **{**BELOW, "cgroup__subtree_control": "cpu memory pids"})
    own = tree(tmp_path / "run-1.scope" / "fnb-main", **BELOW)
    assert Base(directory=scope, occupied=False) == find_base(own, str(tmp_path), root=False)


def test_no_memory_controller_is_said(tmp_path: Path) -> None:
    """A hierarchy without memory (its controller is with version 1) is refused with that reason."""
    top = tree(tmp_path / "top", **{**ON, "cgroup__controllers": "hugetlb"})
    with pytest.raises(LimiterUnavailableError, match="has no memory controller"):
        find_base(top, top, root=True)


@pytest.mark.root
def test_a_login_session_is_not_ours(tmp_path: Path) -> None:
    """Where an ordinary user may not write, the refusal says that nothing was delegated."""
    own = tree(tmp_path / "session-3.scope", **BELOW)
    for place in (tmp_path, *tmp_path.parents):
        if place.is_relative_to(os.environ[turns.PLACE_VARIABLE]):
            place.chmod(0o711)  # of this run; the other user must be able to look
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            find_base(own, str(tmp_path), root=False)
        except LimiterUnavailableError as refused:
            os._exit(3 if "not delegated" in str(refused) else 4)
        finally:
            os._exit(5)
    assert 3 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n", Counters()),
        (
            "low 0\nhigh 0\nmax 30\noom 1\noom_kill 3\noom_group_kill 1\n",
            Counters(oom_kills=3, limit_reached=True),
        ),
        ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 1\n", Counters(oom_kills=1)),
        ("low 0\nhigh 0\nmax 900\noom 0\noom_kill 0\n", Counters()),
        ("", Counters()),
    ],
    ids=["nothing", "own limit", "machine short", "page cache only", "no file"],
)
def test_events_tell_whose_limit_it_was(text: str, expected: Counters) -> None:
    """``oom_kill`` counts processes; only ``oom`` says that it was this group's own limit."""
    assert expected == read_events(text)


class Scope:
    """A user's machine with systemd, as far as the command that makes a scope looks at it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = tmp_path / "cgroup"
        self.own = tree(self.top / "session-3.scope", **BELOW)
        tree(self.top, **ON)
        self.runtime = tmp_path / "runtime"
        (self.runtime / "systemd").mkdir(parents=True)
        (self.runtime / "systemd" / "private").touch()
        self.program = tmp_path / "bin" / "systemd-run"
        self.program.parent.mkdir()
        self.program.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(self.program.parent))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(self.runtime))
        monkeypatch.delenv("FLYTE_NOTEBOOK_LIMITER", raising=False)
        monkeypatch.setattr(cgroup_v2, "own", lambda _: (self.own, str(self.top)))
        monkeypatch.setattr(cgroup_v2.os, "geteuid", lambda: 1000)
        monkeypatch.setattr(cgroup_v2, "_writable", lambda _: False)


@pytest.fixture
def scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scope:
    """Give the machine of an ordinary user with a user manager."""
    return Scope(tmp_path, monkeypatch)


@pytest.mark.linux
def test_an_ordinary_user_gets_a_scope(scope: Scope) -> None:
    """With version 2, a user manager and systemd-run, the supervisor is to be started in a delegated scope."""
    expected = [str(scope.program), "--user", "--scope", "-p", "Delegate=yes", "--quiet", "--collect"]
    assert expected == systemd_scope_command()


@pytest.mark.linux
def test_no_scope_where_it_is_not_needed(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write its own group needs no scope."""
    monkeypatch.setattr(cgroup_v2, "_writable", lambda _: True)
    assert systemd_scope_command() is None


@pytest.mark.linux
@pytest.mark.parametrize("limit", LIMITS)
def test_no_scope_out_of_a_limit(scope: Scope, limit: dict[str, str]) -> None:
    """A service or a job with a limit is not left for a scope that would not be under it."""
    scope.own = tree(scope.top / "system.slice" / "hub-ada.service", **{**BELOW, **limit})
    assert systemd_scope_command() is None


@pytest.mark.linux
@pytest.mark.parametrize("limit", LIMITS)
def test_a_scope_under_the_same_limit_is_none_out_of_it(scope: Scope, limit: dict[str, str]) -> None:
    """A limit on all that the user runs holds for a scope too."""
    tree(scope.top / "user.slice" / "user-1000.slice", **{**BELOW, **limit})
    scope.own = tree(scope.top / "user.slice" / "user-1000.slice" / "session-3.scope", **BELOW)
    assert systemd_scope_command() is not None


@pytest.mark.linux
def test_no_scope_without_a_user_manager(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its socket or without ``XDG_RUNTIME_DIR`` there is nobody to ask."""
    (scope.runtime / "systemd" / "private").unlink()
    assert systemd_scope_command() is None
    (scope.runtime / "bus").touch()
    assert systemd_scope_command() is not None
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert systemd_scope_command() is None


@pytest.mark.linux
def test_no_scope_without_the_program(scope: Scope) -> None:
    """Without systemd-run on the PATH there is no command."""
    scope.program.unlink()
    assert systemd_scope_command() is None


@pytest.mark.linux
def test_no_scope_when_another_mechanism_is_forced(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forces the watchdog gets no scope."""
    monkeypatch.setenv("FLYTE_NOTEBOOK_LIMITER", "watchdog")
    assert systemd_scope_command() is None


@pytest.mark.linux
def test_no_scope_where_version_1_has_the_memory(scope: Scope) -> None:
    """A scope would not help where version 2 has no memory controller."""
    (scope.top / "cgroup.controllers").write_text("hugetlb")
    assert systemd_scope_command() is None
