"""The locks hold all that the lanes install, pinned and hashed, and say which Pythons they fit."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.core.tested import VERSIONS

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / ".ci" / "lock.py"
NEWEST, OLDEST = "requirements.lock", "requirements-oldest.lock"
EXTRAS = {NEWEST: ("build", "lab", "test", "lint"), OLDEST: ("build", "lab", "test")}
"""What of the project each lock holds; pools that benchmarks stand beside are in neither."""


def load() -> ModuleType:
    """Load the script, which is in no package."""
    spec = importlib.util.spec_from_file_location("lock", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = load()
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in (NEWEST, OLDEST)}
SMALL = """\
# For CPython 3.11 on Linux and macOS. Made by: make update-lock
alpha==1.0 \\
    --hash=sha256:00
    # via flyte-notebook (pyproject.toml)
beta==2.0 ; python_full_version < '3.12' \\
    --hash=sha256:01
    # via alpha
beta==2.1 ; python_full_version >= '3.12' \\
    --hash=sha256:02
    # via alpha
delta==3.0 \\
    --hash=sha256:03
    # via beta, gamma-ray
gamma-ray==4.0 \\
    --hash=sha256:04
    # via flyte-notebook (pyproject.toml)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the Makefile does."""
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def malformed(text: str) -> list[str]:
    """Return the lines of a lock that are none of: a pinned requirement, a hash, what it came by; but for the first."""
    requirement = r"[a-z0-9-]+==[0-9a-z.+]+( ; [\w\s.<>=!'()]+)? \\"
    form = re.compile(rf"{requirement}|    --hash=sha256:[0-9a-f]{{64}}( \\)?|    # via [\w ,().-]+")
    return [line for line in text.splitlines()[1:] if not form.fullmatch(line)]


def unhashed(text: str) -> list[str]:
    """Return the entries that no hash follows."""
    return [block for block in lock.blocks(text) if "\n    --hash=sha256:" not in block]


@pytest.mark.parametrize("name", TEXTS)
def test_a_lock_is_pinned_and_hashed_and_names_no_place(name: str) -> None:
    """Each line is a pin, a hash or where it comes from: no address, no path, nothing that is not hashed."""
    head, _, entries = TEXTS[name].partition("\n")
    assert re.fullmatch(r"# For CPython [\d., ]+ on Linux and macOS\. Made by: make update-lock", head)
    assert [] == malformed(TEXTS[name])
    assert [] == unhashed(TEXTS[name])
    assert entries == "".join(lock.blocks(TEXTS[name]))
    assert 100 < len(lock.blocks(TEXTS[name]))


@pytest.mark.parametrize(
    "line",
    [
        "--index-url somewhere",
        "alpha @ file:///alpha.whl \\",
        "alpha==1.0",
        "alpha>=1.0 \\",
        "alpha==1.0 ; x == 'y' @ https://example.test \\",
        "    # from https://example.test",
        "    --hash=md5:00",
    ],
)
def test_what_does_not_belong_into_a_lock_is_found(line: str) -> None:
    """An address, a path, a version that is not pinned and a weak hash are each found."""
    assert [line] == malformed(f"head\n{line}\n")


def test_an_entry_without_a_hash_is_found() -> None:
    """An entry whose hashes are gone is found."""
    (found,) = unhashed(SMALL.replace("    --hash=sha256:03\n", ""))
    assert found.startswith("delta==3.0")


@pytest.mark.parametrize(("name", "extra"), [(name, extra) for name, extras in EXTRAS.items() for extra in extras])
def test_what_an_extra_asks_for_is_in_the_lock(name: str, extra: str) -> None:
    """Every requirement of the package and of its extras is in the lock, in a version that it allows."""
    pins = dict(
        re.findall(
            r"^([a-z0-9-]+)==([^ ]+)", lock.select(TEXTS[name], wanted := lock.read_project()[extra]), re.MULTILINE
        )
    )
    assert [] == [line for line in wanted if lock.normal(line) not in pins]
    for line in wanted:
        pinned = lock.numbers(pins[lock.normal(line)])
        least, most = re.search(r">=([\d.]+)", line), re.search(r"<([\d.]+)", line)
        assert least is None or lock.numbers(least[1]) <= pinned, line
        assert most is None or lock.numbers(most[1]) > pinned, line


def test_the_oldest_versions_are_those_that_the_project_names() -> None:
    """Each library that the package asks for is locked at its lower bound, so that the bound is what is tested."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", TEXTS[OLDEST], re.MULTILINE))
    for line in lock.read_project()["lab"]:
        least = lock.numbers(line.partition(">=")[2].partition(",")[0])
        pinned = lock.numbers(pins[lock.normal(line)])
        assert least == pinned[: len(least)], line


def test_the_lock_fits_each_python_that_the_package_says_it_runs_on() -> None:
    """The lock names the Pythons of the classifiers; the oldest versions are for the oldest of them."""
    named = sorted(
        int(line.rpartition("3.")[2])
        for line in importlib.metadata.metadata("flyte-notebook").get_all("Classifier") or []
        if re.search(r":: 3\.\d+$", line)
    )
    assert named == lock.minors(TEXTS[NEWEST].partition("\n")[0])
    assert named[:1] == lock.minors(TEXTS[OLDEST].partition("\n")[0])


def test_the_environment_for_binder_names_one_python_that_the_lock_fits() -> None:
    """Binder reads `python=3.x` only: for a range it takes its own default, 3.10, on which nothing can be installed."""
    text = (ROOT / "environment.yml").read_text("utf-8")
    (minor,) = re.findall(r"^ +- python *=+ *3\.(\d+)$", text, re.MULTILINE)
    assert int(minor) in lock.minors(TEXTS[NEWEST].partition("\n")[0])


def test_the_tested_versions_are_those_of_the_lock() -> None:
    """What the package says that it was tested with is what the lock holds."""
    assert lock.tested(TEXTS[NEWEST]) == (ROOT / "flyte_notebook" / "core" / "tested.py").read_text("utf-8")
    assert list(lock.RELIED) == list(VERSIONS)


def test_of_two_locked_versions_the_newest_counts_as_tested() -> None:
    """Where the lock holds two versions for two Pythons, a newer one than both is what has not been tested."""
    text = "".join(f"{name}==1.9 \\\n    --hash=x\n{name}==1.10 \\\n    --hash=x\n" for name in lock.RELIED)
    assert len(lock.RELIED) == lock.tested(text).count('"1.10"')


def test_a_part_of_a_lock_is_what_is_asked_for_and_what_that_stands_on() -> None:
    """An extra gets its own requirements, theirs, and nothing else; each version for each Python."""
    assert ["alpha==1.0", "beta==2.0", "beta==2.1", "delta==3.0"] == [
        block.split()[0] for block in lock.blocks(lock.select(SMALL, ["alpha>=1"]))
    ]
    assert ["delta==3.0", "gamma-ray==4.0"] == [
        block.split()[0] for block in lock.blocks(lock.select(SMALL, ["Gamma_Ray[x]>=1; python_version < '4'"]))
    ]


def test_a_python_that_fits_hears_nothing() -> None:
    """For the Python that runs the tests there is nothing to say."""
    done = run("fits", NEWEST)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_a_python_that_does_not_fit_is_told_in_one_line(tmp_path: Path) -> None:
    """For a Python that the lock does not know there is one line: what fits, what was found, and what to do."""
    other = tmp_path / "other.lock"
    other.write_text("# For CPython 3.6, 3.7 on Linux and macOS.\n")
    done = run("fits", str(other))
    (line,) = done.stdout.splitlines()
    assert 1 == done.returncode
    assert line.startswith(f"{other} fits CPython 3.6 to 3.7 on Linux and macOS; {sys.executable} is CPython 3.")
    assert line.endswith("make PYTHON=/path/to/python takes another one, make test-newest needs no lock.")


def test_make_says_so_before_anything_is_installed(tmp_path: Path) -> None:
    """``make`` with a Python that does not fit prints that line, makes no environment and runs no pip."""
    other, place = tmp_path / "other.lock", tmp_path / "venv"
    other.write_text("# For CPython 3.6 on Linux and macOS.\n")
    command = ["make", "-C", str(ROOT), f"VENV={place}", f"LOCK={other}", f"PYTHON={sys.executable}", f"{place}/.test"]
    environ = {
        name: value for name, value in os.environ.items() if "MAKE" not in name
    }  # of the make that runs the tests
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("make: "))
    assert 0 != done.returncode
    assert line.startswith(f"{other} fits CPython 3.6 on Linux and macOS; {sys.executable} is CPython 3.")
    assert "pip" not in done.stdout
    assert not place.exists()
