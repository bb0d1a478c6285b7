"""The proof that nothing leaks has to fail when something does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
import tomllib
import types
from pathlib import Path

import capabilities
import leaks
import pytest
from bounds import under_load

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def inner_run(
    place: Path,
    *bodies: str,
    ci: bool = False,
    listed: str = "",
    name: str = "test_inner",
    options: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run tests with our conftest in a process of their own, where half a second of grace is enough."""
    for ours in ("conftest.py", "leaks.py", "capabilities.py", "hand_made.py", "turns.py"):
        shutil.copy(HERE / ours, place / ours)
    with (place / "conftest.py").open("a") as conftest:
        conftest.write("\nleaks.GRACE_S = 0.5\n")
    (place / "may_skip.toml").write_text(textwrap.dedent(listed))
    for number, body in enumerate(bodies):
        (place / f"{name}{number or ''}.py").write_text(textwrap.dedent(body))
    (place / "pytest.ini").write_text("[pytest]\nmarkers =\n    leaves\n    root\n    never\n    alone\n    slow\n")
    environ = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *options, "."],
        cwd=place,
        env={**environ, "CI": "true"} if ci else environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=under_load(60),
    )


@pytest.mark.linux
def test_every_kind_of_leak_is_found_and_named(tmp_path: Path) -> None:
    """A child, an orphan, a zombie, a descriptor, a thread and a file that stay each fail the test that left them."""
    run = inner_run(
        tmp_path,
        """
        import os, pathlib, subprocess, sys, tempfile, threading

        KEPT = []

        def test_child():
            KEPT.append(subprocess.Popen(["sleep", "4.25"]))

        def test_zombie():
            child = os.fork()
            if not child:
                os._exit(0)

        def test_orphan():
            subprocess.run([sys.executable, "-c",
                "import subprocess; subprocess.Popen(['sleep', '4.5'], start_new_session=True)"], check=True)

        def test_descriptor():
            KEPT.append(open(os.devnull))

        def test_pipe():
            KEPT.append(os.pipe())

        def test_thread():
            threading.Thread(target=threading.Event().wait, args=(5,), name="stays", daemon=True).start()

        def test_file():
            pathlib.Path(tempfile.gettempdir(), "fnb-spool").write_text("x")

        def test_innocent():
            with open(os.devnull):
                subprocess.run(["true"], check=True)
        """,
    )
    assert "8 passed, 7 errors" in run.stdout, run.stdout + run.stderr
    for words in (
        "test_child left behind",
        "(sleep 4.25)",
        "(zombie, nobody waited for it)",
        "test_orphan left behind",
        "(sleep 4.5)",
        "descriptor: 1 x /dev/null",
        "descriptor: 2 x pipe",
        "thread: stays",
        "/fnb-spool",
    ):
        assert words in run.stdout, run.stdout
    for words in ("test_innocent left behind", "module test_inner.py left behind", "the whole run left behind"):
        assert words not in run.stdout, "a leak is told once, of the one who left it"


@pytest.mark.parametrize(("stays", "expected"), [(False, []), (True, ["process: 1000 (look 8)"])])
def test_what_comes_and_goes_is_no_leak(monkeypatch: pytest.MonkeyPatch, *, stays: bool, expected: list[str]) -> None:
    """Something else at each look is not one thing that stays; what is there at each look is one, alone."""
    looks: list[float] = []

    def look() -> leaks.Snapshot:
        number = len(looks)
        passing = {(number, "1"): f"{number} (brief)"} if number < 20 else {}
        staying = {(1_000, "1"): f"1000 (look {number})"} if stays else {}
        return leaks.Snapshot(processes=passing | staying)

    clock = types.SimpleNamespace(monotonic=lambda: sum(looks), sleep=looks.append)
    monkeypatch.setattr(leaks, "time", clock)
    monkeypatch.setattr(leaks.Snapshot, "take", look)
    assert expected == leaks.settle(leaks.Snapshot(), grace_s=7.5 * leaks.POLL_S)


@pytest.mark.cgroup
def test_a_group_that_stays_is_found(tmp_path: Path) -> None:
    """A limit group with one of our processes in it, left by a test, fails that test."""
    run = inner_run(
        tmp_path,
        """
        import os, pathlib, subprocess, time
        from hand_made import IN_SCOPE

        def test_group():
            top = pathlib.Path("/sys/fs/cgroup")
            top = top / "memory" if (top / "memory").is_dir() else top
            scope = [] if os.access(top, os.W_OK) else IN_SCOPE
            child = subprocess.Popen([*scope, "sleep", "10"])
            while scope and b"sleep" != pathlib.Path(f"/proc/{child.pid}/comm").read_bytes().strip():
                time.sleep(0.02)
            if scope:
                top = pathlib.Path(f"{top}{pathlib.Path(f'/proc/{child.pid}/cgroup').read_text().strip()[3:]}")
            group = top / f"fnb-leak-{os.getpid()}"
            group.mkdir()
            (group / "cgroup.procs").write_text(str(child.pid))
            end = f"sleep 4; kill {child.pid}; while [ -d {group} ]; do rmdir {group}; sleep 0.02; done 2>/dev/null"
            subprocess.Popen(["sh", "-c", end], start_new_session=True)
        """,
    )
    named = re.search(r"(/\S+/fnb-leak-\d+) \(1 processes\)", run.stdout)
    assert named is not None, run.stdout
    assert run.returncode == 1
    until_s = time.monotonic() + under_load(30)
    while Path(named[1]).exists():  # else it is a leak of the next test
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_groups_of_others_may_go_while_one_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that somebody removes while it is read is no error, and no leak."""
    group = tmp_path / "fnb-brief"
    group.mkdir()
    (group / "cgroup.procs").write_text("1\n")

    def read_and_remove(path: Path | str) -> bytes:
        content = Path(path).read_bytes()
        shutil.rmtree(group)
        return content

    monkeypatch.setattr(leaks, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(leaks, "_read", read_and_remove)
    assert {} == leaks._groups({str(os.getpid())})[0]


def test_the_group_where_the_tests_live_is_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf to which this process was moved stays, as it lives there; one with a child of it is a leak."""
    for name, member in (("fnb-main", os.getpid()), ("fnb-child", 1 << 22)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(f"{member}\n")
    monkeypatch.setattr(leaks, "CGROUP_ROOT", tmp_path)
    found, _ = leaks._groups({str(os.getpid()), str(1 << 22)})
    assert [str(tmp_path / "fnb-child")] == list(found)


@pytest.mark.linux
def test_what_a_killed_session_left_before_is_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty group that nobody owns is somebody else's while others test, and no leak once they have ended."""
    session = tmp_path / f"fnb-{1 << 22}-1-left"
    strangers = ["python -m pytest"]
    monkeypatch.setattr(leaks, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(leaks, "_own_places", lambda: [tmp_path])
    monkeypatch.setattr(leaks, "_strangers", lambda _ours: strangers)

    def make(name: str) -> None:
        (session / name).mkdir(parents=True)
        (session / name / "cgroup.procs").touch()

    make("fnb-spare-1")
    before = leaks.Snapshot.take()
    assert frozenset({str(session)}) == before.others
    strangers.clear()
    make("fnb-spare-2")
    assert [] == leaks.leaked(before, leaks.Snapshot.take())
    (found,) = leaks.leaked(leaks.Snapshot(), leaks.Snapshot(groups={str(session): "made after"}))
    assert "group: made after" == found


@pytest.mark.linux
def test_what_a_module_shares_may_live_as_long_as_the_module(tmp_path: Path) -> None:
    """What a module's fixture starts may outlive its tests, and is asked for at the end of the module."""
    body = """
        import subprocess
        import pytest

        @pytest.fixture(scope="module")
        def engine():
            child = subprocess.Popen(["sleep", "10"])
            yield child
            {end}

        def test_one(engine):
            assert engine.poll() is None

        def test_two(engine):
            assert engine.poll() is None
        """
    clean = inner_run(tmp_path, body.format(end="child.kill(); child.wait()"))
    assert "2 passed in" in clean.stdout, clean.stdout + clean.stderr
    leaky = inner_run(tmp_path, body.format(end="pass"))
    assert "module test_inner.py left behind" in leaky.stdout
    assert "test_one left behind" not in leaky.stdout


def test_a_test_may_be_excused_with_a_reason(tmp_path: Path) -> None:
    """The marker excuses the kind it names, not other kinds, and nothing without a reason."""
    run = inner_run(
        tmp_path,
        """
        import threading
        import pytest

        def stay(name):
            threading.Thread(target=threading.Event().wait, args=(5,), name=name, daemon=True).start()

        @pytest.mark.leaves("thread", reason="a library keeps it")
        def test_excused():
            stay("excused-thread")

        @pytest.mark.leaves("file", reason="another kind")
        def test_other_kind():
            stay("other-thread")

        @pytest.mark.leaves("thread")
        def test_no_reason():
            pass
        """,
    )
    assert "test_excused left behind" not in run.stdout
    assert "test_other_kind left behind" in run.stdout
    assert "leaves() needs a reason" in run.stdout


def test_a_leak_of_a_pure_test_is_found_at_the_end_of_its_module(tmp_path: Path) -> None:
    """Where tests start nothing, the module is what is held to leaving nothing."""
    body = """
        import pathlib, tempfile

        def test_file():
            pathlib.Path(tempfile.gettempdir(), "fnb-left").write_text("x")

        def test_other():
            pass
        """
    run = inner_run(tmp_path, body, name="test_units")
    assert "module test_units.py left behind" in run.stdout, run.stdout + run.stderr
    assert "/fnb-left" in run.stdout
    assert "test_file left behind" not in run.stdout


SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
MEET = """
        import os, pathlib, subprocess, sys, tempfile, time

        PLACE = pathlib.Path({place!r})

        def meet(name):
            "Go on when the other test is there as well."
            (PLACE / name).touch()
            until_s = time.monotonic() + 20
            while len(list(PLACE.glob("meets-*"))) < 2:
                assert time.monotonic() < until_s
                time.sleep(0.01)
        """


@pytest.mark.linux
def test_processes_that_test_side_by_side_see_only_their_own(tmp_path: Path) -> None:
    """What one of them leaves is told of the test that left it, and of none that ran in the other at that time."""
    leaves = (
        MEET
        + """
        def test_leaves():
            subprocess.run([sys.executable, "-c",
                "import subprocess; subprocess.Popen(['sleep', '4.75'], start_new_session=True)"], check=True)
            pathlib.Path(tempfile.gettempdir(), "fnb-left").write_text("x")
            shared = pathlib.Path("/dev/shm", f"fnb-test-{os.getpid()}-1")
            (PLACE / "shared").symlink_to(shared)
            shared.write_text("x")
            meet("meets-a")
            time.sleep(0.5)
        """
    )
    innocent = (
        MEET
        + """
        def test_innocent():
            meet("meets-b")
        """
    )
    run = inner_run(
        tmp_path, *(body.replace("{place!r}", repr(str(tmp_path))) for body in (leaves, innocent)), options=SIDE_BY_SIDE
    )
    shared = tmp_path.joinpath("shared").readlink()
    shared.unlink()
    assert "2 passed, 1 error in" in run.stdout, run.stdout + run.stderr
    assert 1 == run.stdout.count("left behind")
    for words in ("test_leaves left behind", "(sleep 4.75)", "/fnb-left", f"file: {shared}"):
        assert words in run.stdout, run.stdout


def test_a_test_of_timing_runs_alone(tmp_path: Path) -> None:
    """While it runs no test runs in the other process; those that do not ask for it run side by side."""
    body = (
        MEET
        + """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        @pytest.mark.parametrize("how", [pytest.param("alone", marks=pytest.mark.alone), "beside"])
        def test_any(how, number):
            if how == "beside" and number == 0:
                meet(f"meets-{os.getpid()}")
            began_s = time.monotonic()
            time.sleep(0.1)
            with (PLACE / "ran").open("a") as file:
                file.write(f"{how} {began_s} {time.monotonic()}\\n")
        """
    ).replace("{place!r}", repr(str(tmp_path)))
    run = inner_run(tmp_path, body, body, options=SIDE_BY_SIDE)
    assert "12 passed in" in run.stdout, run.stdout + run.stderr
    lines = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    ran = [(how, float(began_s), float(ended_s)) for how, began_s, ended_s in lines]
    meanwhile = [
        {how, other}
        for number, (how, began_s, ended_s) in enumerate(ran)
        for other, other_began_s, other_ended_s in ran[:number]
        if other_began_s < ended_s and began_s < other_ended_s
    ]
    assert {"beside"} in meanwhile
    assert {"beside"} == set().union(*meanwhile)


KINDS = """
        import capabilities, pytest

        capabilities.KINDS.update(here=lambda: True, elsewhere=lambda: False)
        capabilities.CAPABILITIES["root"] = lambda: capabilities.Missing(reason="not root")
        """


def test_ci_accepts_only_the_skips_that_are_listed(tmp_path: Path) -> None:
    """With CI=true a skipped test fails, unless the list has it for a kind of machine that this one is of."""
    body = (
        KINDS
        + """
        @pytest.mark.parametrize("number", [1, 2])
        def test_listed(number):
            pytest.skip("no such kernel")

        @pytest.mark.never
        def test_of_a_mark():
            pytest.skip("not on this system")

        @pytest.mark.root
        def test_missing():
            raise AssertionError

        def test_listed_elsewhere():
            pytest.skip("not today")
        """
    )
    listed = """
        here.tests = ["test_inner.py::test_listed"]
        here.marks = ["never"]
        elsewhere.tests = ["test_inner.py::test_listed_elsewhere"]
        """
    here = inner_run(tmp_path, body, listed=listed)
    assert "5 skipped in" in here.stdout, here.stdout + here.stderr
    ci = inner_run(tmp_path, body, listed=listed, ci=True)
    assert "3 skipped, 2 errors in" in ci.stdout or "1 failed, 3 skipped, 1 error in" in ci.stdout, ci.stdout
    words = "On CI only what tests/may_skip.toml lists may skip, and this did: Skipped: "
    assert words + "not root" in ci.stdout
    assert words + "not today" in ci.stdout


def test_what_may_skip_is_there(tmp_path: Path) -> None:
    """A name on the list that no test has is an error, so that a test that was renamed may not skip unseen."""
    body = KINDS + "def test_inner(): pass"
    listed = 'elsewhere.tests = ["test_inner.py::test_inner", "test_inner.py::test_of_old", "test_other.py::test_any"]'
    run = inner_run(tmp_path, body, listed=listed)
    assert "tests/may_skip.toml names what is no test: test_inner.py::test_of_old\n" in run.stderr
    assert 0 != run.returncode


def test_every_kind_of_machine_is_known() -> None:
    """The list has no kind that nothing can find out, and each kind that can be found out is on it."""
    assert set(capabilities.KINDS) == set(tomllib.loads((HERE / "may_skip.toml").read_text()))
