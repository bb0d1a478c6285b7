"""Where control groups are mounted, and how their files and directories are handled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from limited import until

from flyte_notebook.limiters.control_groups import (
    Meter,
    Mount,
    clear,
    kill_all,
    own_directory,
    parse_membership,
    parse_mounts,
    processes,
    prove_entry,
    quota_us,
    remove_tree,
    upwards,
)
from flyte_notebook.limiters.kernel_files import parse_counts, read, read_number, write

if TYPE_CHECKING:
    from collections.abc import Iterator

HYBRID = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct
35 25 0:32 /docker/abc /sys/fs/cgroup/memory ro master:13 shared:2 - cgroup cgroup rw,memory
40 25 0:40 / /mnt/with\\040space rw - cgroup2 none rw
"""

MEMBERSHIP = "12:memory:/docker/abc/task\n4:cpu,cpuacct:/\n1:name=systemd:/docker:x\n0::/user.slice/my:group\n"


def mount(root: str, point: str = "/sys/fs/cgroup") -> Mount:
    """Return a version 2 mount."""
    return Mount(version=2, controllers=frozenset(), root=root, point=point)


def test_hierarchies_are_found_in_mountinfo() -> None:
    """Both versions, controllers mounted together, roots below the top and escaped spaces are understood."""
    found = parse_mounts(HYBRID)
    assert [2, 1, 1, 2] == [item.version for item in found]
    assert frozenset({"rw", "cpu", "cpuacct"}) == found[1].controllers
    assert ("/docker/abc", "/sys/fs/cgroup/memory") == (found[2].root, found[2].point)
    assert "/mnt/with space" == found[3].point


def test_membership_is_found_per_controller() -> None:
    """Each controller has its group, version 2 has the empty name, and a colon in a group's name is part of it."""
    found = parse_membership(MEMBERSHIP)
    expected = {"memory": "/docker/abc/task", "cpu": "/", "cpuacct": "/", "": "/user.slice/my:group"}
    assert expected == {name: found[name] for name in expected}


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("/", "/", "/sys/fs/cgroup"),
        ("/", "/user.slice/a.scope", "/sys/fs/cgroup/user.slice/a.scope"),
        ("/docker/abc", "/docker/abc", "/sys/fs/cgroup"),
        ("/docker/abc", "/docker/abc/task", "/sys/fs/cgroup/task"),
        ("/docker/abc", "/docker/abcdef", None),
        ("/docker/abc", "/", None),
        ("/../..", "/", None),
        ("/", "/../other", None),
    ],
)
def test_our_directory_is_where_the_mount_shows_our_group(root: str, path: str, expected: str | None) -> None:
    """A group outside of what a mount shows has no directory; names are never guessed."""
    assert expected == own_directory(mount(root), path)


def test_upwards_ends_at_the_mount_point() -> None:
    """The way up goes through every group and not above the mount."""
    assert ["/c/a/b", "/c/a", "/c"] == list(upwards("/c/a/b", "/c"))
    assert ["/c"] == list(upwards("/c", "/c"))


def test_small_files_are_read_without_raising(tmp_path: Path) -> None:
    """A missing file and the word "max" are None, a number is a number."""
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "number").write_text("123\n")
    (tmp_path / "negative").write_text("-1\n")
    found = [read_number(str(tmp_path / name)) for name in ("max", "number", "negative", "missing")]
    assert [None, 123, -1, None] == found
    assert read(str(tmp_path)) is None


def test_counts_leave_out_what_is_no_count() -> None:
    """Only lines of a name and a number count."""
    assert {"oom": 2, "oom_kill": 3} == parse_counts("oom 2\noom_kill 3\nsome avg10=0.00\nbad x\n")


def test_a_refused_write_names_the_file(tmp_path: Path) -> None:
    """Who reads the error sees which file could not be written."""
    with pytest.raises(OSError, match="missing") as caught:
        write(str(tmp_path / "missing" / "file"), "1")
    assert str(tmp_path / "missing" / "file") == caught.value.filename


@pytest.mark.parametrize(("cores", "expected"), [(1, 100_000), (0.5, 50_000), (2.5, 250_000), (0.001, 1_000)])
def test_a_quota_is_never_below_what_the_kernel_takes(cores: float, expected: int) -> None:
    """Cores become CPU time per 100 ms, at least 1 ms."""
    assert expected == quota_us(cores)


def test_the_meter_subtracts_what_can_be_dropped(tmp_path: Path) -> None:
    """Usage less active and inactive file pages, never below zero, with the most cache remembered."""
    usage, stat = tmp_path / "usage", tmp_path / "stat"
    usage.write_text("1000\n")
    stat.write_text("anon 1\ninactive_file 300\nactive_file 200\nworkingset 5\n")
    meter = Meter(str(usage), str(stat), (b"\ninactive_file ", b"\nactive_file "))
    assert 500 == meter.read()
    usage.write_text("400\n")
    assert 0 == meter.read()
    assert 500 == meter.page_cache_bytes
    usage.write_text("1000\n")
    meter.read()
    meter.close()
    meter.close()
    assert 500 == meter.read()


@pytest.fixture
def group() -> Iterator[Path]:
    """Give a group in the version 2 hierarchy, which needs no controller for being killed and removed."""
    points = [item.point for item in parse_mounts(read("/proc/self/mountinfo") or "") if item.version == 2]
    if not points or not os.access(points[0], os.W_OK):
        pytest.skip("no version 2 hierarchy that this user may write")
    directory = Path(points[0], f"fnb-test-{os.getpid()}-{os.urandom(4).hex()}")
    directory.mkdir()
    yield directory
    clear(str(directory))


def _sleeper_in(directory: Path) -> subprocess.Popen[bytes]:
    sleeper = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"])
    (directory / "cgroup.procs").write_text(str(sleeper.pid))
    return sleeper


@pytest.mark.linux
@pytest.mark.parametrize("below", [".", "below", "below/below"])
def test_kill_and_removal_reach_groups_below(group: Path, below: str) -> None:
    """A process in a group below is seen, killed at once, and every directory goes."""
    (group / below).mkdir(parents=True, exist_ok=True)
    sleeper = _sleeper_in(group / below)
    assert [sleeper.pid] == processes(str(group))
    with pytest.raises(OSError, match="busy"):
        remove_tree(str(group), patience_s=0.01)
    kill_all(str(group))
    assert -signal.SIGKILL == sleeper.wait(10)
    until(lambda: not processes(str(group)))
    remove_tree(str(group))
    assert not group.exists()
    remove_tree(str(group))


@pytest.mark.linux
def test_without_the_kernels_own_kill_each_process_is_killed(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``cgroup.kill`` is missing (before kernel 5.14), signals do it."""

    def refuse(path: str, _text: str) -> None:
        assert path.endswith("/cgroup.kill")
        raise FileNotFoundError(path)

    monkeypatch.setattr("flyte_notebook.limiters.control_groups.write", refuse)
    sleeper = _sleeper_in(group)
    kill_all(str(group))
    assert -signal.SIGKILL == sleeper.wait(10)


def test_processes_of_another_namespace_are_not_ours(tmp_path: Path) -> None:
    """They read as 0, and signalling 0 would be ourselves."""
    (tmp_path / "cgroup.procs").write_text("0\n12\n0\n")
    assert [12] == processes(str(tmp_path))


@pytest.mark.linux
def test_entry_is_proven_by_entering(group: Path) -> None:
    """A real process enters the group; where it cannot, that is an error."""
    prove_entry([str(group)])
    assert [] == processes(str(group))
    with pytest.raises(PermissionError):
        prove_entry([str(group / "missing")])
