"""What the package offers: exactly this, each documented."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest

import flyte_notebook as fn

ROOT = Path(__file__).resolve().parent.parent

of_the_wheel = pytest.mark.skipif(
    "FLYTE_NOTEBOOK_TEST_WHEEL" not in os.environ, reason="the source tree is tested, not the wheel"
)

PUBLIC = (
    "Action",
    "Attempt",
    "Comparison",
    "Doctor",
    "Enforced",
    "Explanation",
    "Failure",
    "Fit",
    "MemoryTrace",
    "Run",
    "Runs",
    "Sweep",
    "compare",
    "disable",
    "doctor",
    "enable",
    "errors",
    "explain",
    "fit",
    "last_failure",
    "last_fit",
    "last_run",
    "last_sweep",
    "load",
    "load_ipython_extension",
    "retry_on_oom",
    "runs",
    "save",
    "sweep",
    "unload_ipython_extension",
)
"""Public names, sorted. A name that is added or taken away is added or taken away here, and in CHANGELOG.md."""

FIELDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("history", "Run"): (
        *("name", "actions", "failure", "outputs", "to_dict", "to_json", "to_pandas", "figure", "saved_s"),
    ),
    ("history", "Runs"): ("names",),
    ("views.experiments.comparison", "Comparison"): ("rows", "figure"),
    ("history", "Action"): ("name", "task_name", "parent", "limits", "attempts", "outcome"),
    ("history", "Attempt"): ("number", "limits", "outcome", "trace", "duration_s"),
    ("core.outcome", "Failure"): (
        *("error", "kind", "code", "worker", "message", "reason", "line", "traceback", "output_tail"),
        *("suggestions", "to_dict", "to_json"),
    ),
    ("experiments.fitting", "Fit"): (
        *("memory", "memory_bytes", "resources", "line", "tasks", "runs", "verdict", "headline", "to_dict"),
    ),
    ("experiments.sweeping", "Sweep"): (
        "points",
        "frontier",
        "trend",
        "headline",
        "notes",
        "interrupted",
        "planned",
        "to_dict",
    ),
    ("experiments.sweeping", "Point"): ("limit_bytes", "value", "outcome", "duration_s", "peak_bytes", "words"),
    ("catalogue", "Explanation"): (
        *("name", "meaning", "kind", "codes", "raised_on_cluster", "raised_here", "real_here"),
        *("recover", "prevent", "related", "signature", "bases", "facts"),
    ),
    ("core.outcome", "SourceLine"): ("file", "number", "text"),
    ("core.trace", "MemoryTrace"): (
        *("times_s", "memory_bytes", "limit_bytes", "baseline_bytes", "peak_bytes", "peak_source"),
        *("to_pandas", "to_json"),
    ),
}
"""What others rely on in each class, by module and name."""


def test_the_public_names_are_exactly_these() -> None:
    """``__all__`` holds the public names, sorted, and nothing else."""
    assert list(PUBLIC) == list(fn.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    """Every public name resolves, also before anything ran."""
    assert hasattr(fn, name)


def test_nothing_else_looks_public() -> None:
    """A name without underscore is public or a module."""
    seen = {name for name in vars(fn) if not name.startswith("_")}
    modules = {name for name in seen if isinstance(vars(fn)[name], types.ModuleType)}
    assert set() == seen - modules - set(PUBLIC) - {"annotations", "TYPE_CHECKING", "Any", "Literal"}


def test_dir_shows_the_public_names() -> None:
    """Tab completion shows what is loaded only on first use as well."""
    assert set() == set(PUBLIC) - set(dir(fn))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_class_and_function_is_documented(name: str) -> None:
    """A public class, function or module has a docstring."""
    value = getattr(fn, name)
    if inspect.isclass(value) or callable(value) or inspect.ismodule(value):
        assert (inspect.getdoc(value) or "").strip()


@pytest.mark.parametrize(("place", "field"), [(place, field) for place, fields in FIELDS.items() for field in fields])
def test_fields_that_others_rely_on(place: tuple[str, str], field: str) -> None:
    """Each field that is promised of a class exists."""
    module, name = place
    cls = getattr(importlib.import_module(f"flyte_notebook.{module}"), name)
    assert field in {*dir(cls), *getattr(cls, "__annotations__", {})}


def test_the_package_knows_its_types() -> None:
    """Type checkers may read the package: ``py.typed`` is beside it."""
    assert (Path(str(importlib.import_module("flyte_notebook").__file__)).parent / "py.typed").is_file()


@of_the_wheel
def test_the_version_is_that_of_the_distribution() -> None:
    """The version stands once, in the package, and the distribution has it from there."""
    assert fn.__version__ == metadata.version("flyte-notebook")
    assert "\nversion =" not in (ROOT / "pyproject.toml").read_text("utf-8")


@of_the_wheel
def test_what_is_tested_is_what_was_installed() -> None:
    """The tests see the installed wheel, here and in the processes they start, not the source tree."""
    code = "import flyte_notebook; print(flyte_notebook.__file__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for place in (fn.__file__, run.stdout.strip()):
        assert not Path(str(place)).is_relative_to(ROOT / "flyte_notebook")
