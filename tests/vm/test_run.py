"""What is chosen for the virtual machine and what is told of it, without booting one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["-k", "oom", "-x"],
            {
                "session": ["-k", "oom", "-x", "--ignore=/mnt/tests/limiters", "/mnt/tests"],
                "scope": ["-k", "oom", "-x", "/mnt/tests/limiters"],
                "root": ["-k", "oom", "-x", "/mnt/tests"],
            },
        ),
        (
            ["tests/limiters/test_cgroup_v2.py", "tests/test_leaks.py::test_x"],
            {
                "session": ["--ignore=/mnt/tests/limiters", "/mnt/tests/test_leaks.py::test_x"],
                "scope": ["/mnt/tests/limiters/test_cgroup_v2.py"],
                "root": ["/mnt/tests/limiters/test_cgroup_v2.py", "/mnt/tests/test_leaks.py::test_x"],
            },
        ),
        (
            ["tests/test_leaks.py"],
            {
                "session": ["--ignore=/mnt/tests/limiters", "/mnt/tests/test_leaks.py"],
                "root": ["/mnt/tests/test_leaks.py"],
            },
        ),
    ],
    ids=["words", "files", "no limiters"],
)
def test_each_way_gets_what_it_can_run(arguments: list[str], expected: dict[str, list[str]]) -> None:
    """Tests that make groups are for the scope, the others for the session, root runs all; root's are not a user's."""
    chosen = run.ways(arguments)
    marks = {way: words[1] for way, words in chosen.items()}
    assert expected == {way: words[2:] for way, words in chosen.items()}
    assert {way: "not browser" if way == "root" else "not root and not browser" for way in expected} == marks


def test_the_tests_of_the_default_are_there() -> None:
    """Each file that is run by default exists, and the test in it that is named."""
    for file in run.DEFAULT:
        path, _, name = file.partition("::")
        assert f"def {name}" in (run.TOP / path).read_text()


LINE = "=========== 3 passed, 1 skipped in 12.00s ==========="
PASSED = (LINE, "0")


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (PASSED, (0, "root:    3 passed, 1 skipped in 12.00s")),
        (("=== 3 deselected in 1.00s ===", "5"), (0, "root:    3 deselected in 1.00s")),
        ((LINE.replace("1 skipped", "1 failed"), "1"), (1, "root:    3 passed, 1 failed in 12.00s")),
        (("Killed", "137"), (1, "root:    no closing line, exit status 137")),
        (None, (1, "root:    no closing line, exit status none")),
    ],
    ids=["passed", "nothing for root", "failed", "no end", "nothing came back"],
)
def test_what_came_back_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    root: tuple[str, str] | None,
    expected: tuple[int, str],
) -> None:
    """Only where each way passed the status is 0; the closing lines are what is printed last."""
    came_back(tmp_path, monkeypatch, session=PASSED, root=root)
    status = run.conclude(["session", "root"])
    printed = capsys.readouterr().out.splitlines()
    assert ("session: 3 passed, 1 skipped in 12.00s", *expected) == (printed[0], status, printed[1])


def test_nothing_chosen_in_any_way_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that no test has must not look like success."""
    none = ("=== 300 deselected in 1.00s ===", "5")
    came_back(tmp_path, monkeypatch, session=none, root=none)
    assert 1 == run.conclude(["session", "root"])


def came_back(place: Path, monkeypatch: pytest.MonkeyPatch, **found: tuple[str, str] | None) -> None:
    """Write log and exit status of each way, as the machine does."""
    monkeypatch.setattr(run, "RUN", place)
    for way, written in found.items():
        out = place / "out" / way
        out.mkdir(parents=True)
        for name, text in zip(("log", "status"), written or (), strict=False):
            (out / name).write_text(text)


def test_packages_that_are_missing_are_named_with_the_command(tmp_path: Path) -> None:
    """Without qemu one line says what to install, and nothing is made."""
    program = "import run, shutil, sys; shutil.which = lambda _: None; sys.argv = ['', 'x.whl']; sys.exit(run.main())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(run.__file__).parent, capture_output=True, text=True, check=False
    )
    expected = "The virtual machine needs Debian's packages: apt install debootstrap qemu-system-x86 e2fsprogs\n"
    assert (1, "", expected) == (done.returncode, done.stdout, done.stderr)
