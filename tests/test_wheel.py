"""The wheel: only the package is in it, and it works where nothing of this tree is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that `make test` built, or build one."""
    if built := os.environ.get("FLYTE_NOTEBOOK_TEST_WHEEL"):
        return Path(built)
    place = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={place}", str(ROOT)], cwd=place)
    (path,) = place.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment: the wheel, and the libraries of the one that runs the tests."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    run(
        [sys.executable, "-m", "pip", f"--python={python}", "install", "--no-deps", "--no-index", "-q", wheel],
        cwd=place,
    )
    (site,) = place.glob("lib/python*/site-packages")
    # What a .pth names comes after the environment's own packages: flyte_notebook is the wheel's.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(command: list[str | Path], cwd: Path) -> str:
    """Run a command to its end and return what it printed; its errors are the test's."""
    environ = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_only_the_package_is_in_the_wheel(wheel: Path) -> None:
    """The wheel holds every module of the package, ``py.typed``, the licence, and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if name.startswith("flyte_notebook/")}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flyte_notebook").rglob("*.py")}
    assert {*expected, "flyte_notebook/py.typed"} == inside
    assert {"flyte_notebook", *{name.partition("/")[0] for name in names if ".dist-info/" in name}} == {
        name.partition("/")[0] for name in names
    }
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_metadata_is_that_of_the_project(wheel: Path) -> None:
    """The wheel is pure Python for 3.11 and later, names its licence, and needs what the code imports."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    fields = Parser().parsestr(archive.read(name).decode())
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "flyte-notebook" == fields["Name"]
    assert ">=3.11" == fields["Requires-Python"]
    assert "Apache-2.0" == fields["License-Expression"]
    needed = {field.partition(";")[0].split("<")[0].split(">")[0].split("!")[0] for field in needs(fields)}
    assert {"cloudpickle", "flyte", "ipython", "ipywidgets", "matplotlib", "nest-asyncio2", "psutil"} == needed


def needs(fields: object) -> list[str]:
    """Return the requirements that hold without an extra."""
    return [field for field in getattr(fields, "get_all")("Requires-Dist") if "extra ==" not in field]  # noqa: B009


def test_it_works_where_nothing_of_this_tree_is(python: Path, tmp_path: Path) -> None:
    """A fresh environment imports the package from the wheel, typed and with its extension hook."""
    code = (
        "import pathlib, flyte_notebook as fn; here = pathlib.Path(fn.__file__).parent; "
        "assert (here / 'py.typed').is_file(); assert callable(fn.load_ipython_extension); print(here)"
    )
    place = Path(run([python, "-c", code], cwd=tmp_path).strip())
    assert place.is_relative_to(python.parent.parent)


def test_the_doctor_answers_in_a_terminal(python: Path, tmp_path: Path) -> None:
    """``python -m flyte_notebook`` says what this machine enforces, and ends well."""
    said = run([python, "-m", "flyte_notebook"], cwd=tmp_path)
    assert "memory" in said
    assert "cpu" in said.lower()
