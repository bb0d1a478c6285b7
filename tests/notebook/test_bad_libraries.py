"""A library that is too old or does not load: one line that names it and what mends it, and the notebook goes on."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernels import started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = [pytest.mark.jupyter, pytest.mark.slow]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Give a kernel of its own to a test: what a library is stays as it is in a process."""
    with started() as kernel:
        yield kernel


def pretend(kernel: Kernel, directory: Path, library: str, version: str) -> None:
    """Let a library seem to be installed in another version."""
    place = directory / f"{library.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: {version}\n")
    kernel.run(f"import sys\nsys.path.insert(0, {str(directory)!r})").ok()


def requirement(library: str) -> str:
    (found,) = (line for line in importlib.metadata.requires("flyte-notebook") or () if line.startswith(library))
    return found


@pytest.mark.parametrize("library", ["flyte", "cloudpickle"])
def test_an_sdk_that_is_too_old_is_named(kernel: Kernel, tmp_path: Path, library: str) -> None:
    """Loading says in one line which library is too old and what to install; other cells run as before."""
    pretend(kernel, tmp_path, library, "0.1")
    reply = kernel.run("%load_ext flyte_notebook")
    assert "UsageError" == reply.ename
    said = f"{reply.stderr}{reply.traceback}".strip()
    assert f"flyte_notebook is not loaded: {library} 0.1 is older than " in said
    assert f"%pip install '{requirement(library)}', then restart the kernel" in said
    assert 1 == len(said.splitlines())
    assert "3" == kernel.run("1 + 2").ok().result


def test_an_sdk_that_does_not_load_is_named(kernel: Kernel, tmp_path: Path) -> None:
    """A library that fails when it is imported is named with its own error and the command that mends it."""
    (tmp_path / "flyte").mkdir()
    (tmp_path / "flyte" / "__init__.py").write_text("raise ImportError('half of it is missing')")
    kernel.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})").ok()
    reply = kernel.run("%load_ext flyte_notebook")
    assert "UsageError" == reply.ename
    said = f"{reply.stderr}{reply.traceback}".strip()
    assert "flyte_notebook is not loaded: flyte cannot be imported: ImportError: half of it is missing; %pip" in said
    assert 1 == len(said.splitlines())
    assert "3" == kernel.run("1 + 2").ok().result


@pytest.mark.parametrize(
    ("library", "module", "feature"),
    [
        ("ipywidgets", "ipywidgets", "the form of a card, and the live line with its Stop button"),
        ("matplotlib", "matplotlib", "charts of memory"),
        ("nest-asyncio2", "nest_asyncio2", "`asyncio.run(...)` and `loop.run_until_complete(...)` in a cell"),
    ],
)
def test_without_what_one_feature_needs_the_rest_works(
    kernel: Kernel, tmp_path: Path, library: str, module: str, feature: str
) -> None:
    """Too old and broken: the line of loading names the feature and what mends it; a cell still fails with its card."""
    pretend(kernel, tmp_path, library, "0.1")
    kernel.run(f"sys.modules[{module!r}] = None").ok()
    reply = kernel.run("%load_ext flyte_notebook").ok()
    assert f"lost: {feature} ({library})" in reply.stdout
    assert 1 == len(reply.stdout.splitlines())
    kernel.run("import flyte_notebook as fn").ok()
    said = kernel.value("str(fn.doctor())")
    assert f"{library} 0.1 is older than " in said
    assert f"%pip install '{requirement(library)}'" in said
    reply = kernel.run("%%flyte_task --memory 200Mi\nimport time\ntime.sleep(1.5)\nx = bytearray(1 << 30)")
    assert "OOMError" == reply.ename
    assert "OOMError" == reply.failure["error"]
    assert "Traceback" not in reply.stderr
    assert "5" == kernel.run("%%flyte_task\n2 + 3").ok().result


def _copied(library: str, into: Path) -> Path:
    """Copy an installed library, so that a release that does not exist yet can be made of it."""
    found = Path(importlib.metadata.distribution(library).locate_file(library.replace("-", "_"))).resolve()
    return Path(shutil.copytree(found, into / found.name))  # with what was compiled: that of changed files is not taken


def _changed(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{file.name} has no {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def cloudpickle_of_another_release(place: Path) -> str:
    """Fill classes by a function of another name."""
    package = _copied("cloudpickle", place)
    _changed(package / "cloudpickle.py", "_class_setstate", "_fill_class")
    return "classes of the notebook keep their identity, and their attributes, when values come back (cloudpickle)"


def flyte_of_another_release(place: Path) -> str:
    """Keep the recorder and the runners of a controller under other names."""
    package = _copied("flyte", place)
    controller = package / "_internal" / "controllers" / "_local_controller.py"
    _changed(controller, "self._recorder", "self._records")
    _changed(controller, "_runner_map", "_runners")
    return "nested actions in the SDK's own records of runs (flyte)"


def ipykernel_of_another_release(place: Path) -> str:
    """Publish the status of the kernel by a method of another name."""
    package = _copied("ipykernel", place)
    for file in package.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("_publish_status(", "_tell_status("), encoding="utf-8")
    return "the Stop button, and every other widget, while a cell waits (ipykernel)"


@pytest.mark.parametrize(
    "release",
    [cloudpickle_of_another_release, flyte_of_another_release, ipykernel_of_another_release],
    ids=lambda release: release.__name__.partition("_")[0],
)
def test_a_release_that_does_not_exist_yet_costs_a_feature(
    release: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a changed copy of a library cells run, nested calls and errors work, and the lost feature is named."""
    assert callable(release)
    lost = release(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    with started() as kernel:
        loaded = kernel.run("%load_ext flyte_notebook\nimport flyte, flyte_notebook as fn").ok()
        said = kernel.value("str(fn.doctor())")
        after = kernel.run("pass").ok()
        feature, library = lost.removesuffix(")").rsplit(" (", 1)
        assert feature in said
        assert f"{library}: " in said
        assert lost in loaded.stdout + "".join(loaded.notes) + "".join(after.notes) + "".join(kernel.earlier_notes)
        assert str(tmp_path) in kernel.value(f"__import__({library!r}).__file__")
        assert "5" == kernel.run("%%flyte_task\ny = 3\n2 + y").ok().result
        assert "OOMError" == kernel.run("%%flyte_task --memory 100Mi\nx = bytearray(1 << 30)").ename
        kernel.run(
            "env = flyte.TaskEnvironment(name='e')\n@env.task\nasync def inner(x: int) -> int: return x + 1\n"
            "@env.task\nasync def outer(x: int) -> int: return await inner(x)"
        ).ok()
        assert 3 == kernel.value("flyte.run(outer, 2).outputs()[0]")
