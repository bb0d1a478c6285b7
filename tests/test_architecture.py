"""The house rules: imports point down, each foreign library has one home, nothing grows too large."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "flyte_notebook"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", *(f"core.{name}" for name in ("bound", "reliance", "supported", "tested", "units", "userfiles"))),
    ("core.__init__", "core.endings", "core.limits", "core.private", "core.trace"),
    ("core.job", "core.next_limit", "core.outcome", "core.semantics", "core.stand_in"),
    ("core.diagnosis", "core.overrides", "core.progress", "catalogue.*", "experiments.*", "history.*"),
    ("storage.*", "limiters.*"),
    ("worker.*",),
    ("engine.*",),
    ("cells.*",),
    ("sdk.*",),
    ("views.*",),
    ("capabilities", "course.*"),
    ("notebook.*",),
    ("",),
    ("__main__",),
)
"""Rooms by floor, from the ground up. A module imports from floors below its own, and from its own room."""

HIGHEST_FLOOR_SEEN = {"views.*": 3}
"""Rooms that see less than everything below them: a view is given data, and starts nothing."""

HOMES: dict[str, tuple[str, ...]] = {
    "flyte": ("sdk.*", "errors"),
    "flyteidl2": ("sdk.*",),
    "connectrpc": ("sdk.*",),
    "ipywidgets": ("notebook.widgets_of_tasks", "views.failures.card", "views.history.live"),
    "matplotlib": ("views.charts.paper", "notebook.landing"),
    "IPython": ("notebook.*", "cells.formats", "cells.shell_in_worker"),
    "ipykernel": ("notebook.*",),
    "nest_asyncio2": ("notebook.*", "worker.process.body"),
    "psutil": ("limiters.*",),
    "traitlets": ("notebook.*", "cells.shell_in_worker", "views.failures.card", "views.history.live"),
    "zmq": ("notebook.*",),
    "tornado": ("notebook.*",),
    "cloudpickle": ("worker.values.classes", "worker.values.pickling", "worker.relies"),
    "numpy": ("worker.values.outside",),
    "pandas": ("core.trace",),
}
"""The only rooms that may import a foreign library; one that is not listed has no home yet."""

EXCUSED: dict[tuple[str, str], str] = {
    ("", "IPython"): "the type of the shell that %load_ext hands over",
}
"""Imports against the rules, (module, imported module or library) -> reason; under ``TYPE_CHECKING`` only."""

FOR_TYPES_ONLY = {"typing_extensions"}
"""Libraries that any module may import under ``TYPE_CHECKING``: the checker brings them."""

DISTRIBUTIONS = {"IPython": "ipython", "traitlets": "ipython"}  # the second comes with the first
"""What a library is called where it is installed from, if not by its own name."""

UNDECLARED: dict[str, str] = {
    "connectrpc": "the SDK brings the one that it uses, and another one costs the cards of its errors",
    "flyteidl2": "the SDK brings the one that it speaks, and another one costs cells as tasks",
    "numpy": "the user's; an array is made again only where there was one",
    "pandas": "the user's; what needs it says so",
}
"""Libraries that are imported and stand in no list of dependencies, with the reason; inside functions only."""

REPLACEABLE = frozenset(
    {"time.time", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.sleep", "json.dumps", "json.loads"}
    | {
        "os.urandom",
        "os.path.exists",
        "os.path.isfile",
        "os.unlink",
        "os.remove",
        "os.rename",
        "os.link",
        "os.makedirs",
    }
    | {
        "tempfile.mkstemp",
        "tempfile.NamedTemporaryFile",
        "socket.socket",
        "socket.socketpair",
        "open",
        "uuid",
        "random",
    }
)
"""What user code replaces now and then, or seeds: beside it, `bound` and `private` have what we use instead."""

AHEAD_OF_USER_CODE = (
    "limiters.*",
    "worker.stacks.allocation_probe",
    "worker.stacks.calibration",
    "worker.process.forkserver",
    "worker.process.fresh",
    "worker.process.launcher",
    "worker.process.launching",
    "worker.stacks.layout",
    "worker.process.fingerprint",
    "worker.process.own_pages",
    "worker.process.prctl",
    "worker.process.prefork",
    "worker.stacks.pystack",
    "worker.stacks.stack_sample",
    "worker.process.spare",
    "worker.process.spares",
    "worker.process.supervisor",
    "worker.process.watched",
    "worker.stacks.line_attribution",
    "sdk.probes",
)
"""Modules that run in a process without user code, or before it."""

MAY_USE: dict[tuple[str, str], str] = {
    ("core.bound", "time.sleep"): "bound here",
    ("core.bound", "os.urandom"): "bound here",
    ("core.bound", "open"): "bound here",
    ("core.private", "open"): "bound here",
    ("core.private", "os.unlink"): "bound here",
    ("core.private", "os.link"): "bound here",
    ("worker.stacks.allocation", "os.urandom"): "compared with what a line calls, and not called",
    ("worker.process.protocol", "socket.socket"): "bound here",
    ("worker.process.protocol", "socket.socketpair"): "bound here",
    ("sdk.places", "os.makedirs"): "a directory that a user named, as the SDK makes it",
}
"""Uses of what may be replaced, (module, name) -> reason."""

BANNED_NAMES = {"util", "utils", "common", "helpers", "helper", "manager", "misc", "base_utils"}
MODULE_LINES = 400
FUNCTION_LINES = 80

HEAVY = ("flyte", "IPython", "ipywidgets", "matplotlib", "numpy", "asyncio")
"""What ``import flyte_notebook`` must not load."""

NEVER_IN_A_WORKER = ("IPython", "ipywidgets", "matplotlib", "numpy", "pandas")
"""What a worker must not load before user code asks: it would count against the user's limit."""


MODULE_NAME = re.compile(rf"{PACKAGE}\.[a-z_]+(\.[a-z_]+)*(:\w+)?")
"""A string that names a module of ours, or something in one. Names of loggers are names of rooms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name, whole; ``for_types`` when only a type checker runs it, ``deferred`` inside a function."""

    line: int
    name: str
    for_types: bool
    deferred: bool = False

    @property
    def library(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One source file; ``name`` is relative to the package, "" is its ``__init__``."""

    name: str
    text: str

    @property
    def is_package(self) -> bool:
        """Whether relative imports count from the module itself."""
        return self.name == "" or self.name.endswith(".__init__")

    def imports(self) -> Iterator[Import]:
        """Yield every import, also inside functions, under ``TYPE_CHECKING``, and of a module that a string names.

        Those are ``import_module("flyte_notebook.views")`` and ``"flyte_notebook.sdk.inside:execute"``.
        """
        tree = ast.parse(self.text)
        blocks = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        for_types = {id(inner) for block in blocks for statement in block.body for inner in ast.walk(statement)}
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        deferred = {id(inner) for function in functions for inner in ast.walk(function)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = self._from(node)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            elif isinstance(node, ast.Constant) and MODULE_NAME.fullmatch(str(node.value)):
                name = str(node.value).partition(":")[0]
                place = ROOT.joinpath(*name.split("."))
                names = [name] if place.exists() or place.with_suffix(".py").exists() else []
            else:
                continue
            how = {"for_types": id(node) in for_types, "deferred": id(node) in deferred}
            yield from (Import(line=node.lineno, name=str(name), **how) for name in names)

    def _from(self, node: ast.ImportFrom) -> list[str]:
        base = node.module or ""
        if node.level:
            own = [PACKAGE, *[part for part in self.name.split(".") if part and part != "__init__"]]
            up = node.level - 1 if self.is_package else node.level
            base = ".".join([*own[: len(own) - up], *([node.module] if node.module else [])])
        # "from flyte_notebook.worker import relies" imports a module; "... import Limits" a name inside one.
        return [f"{base}.{alias.name}" if base.partition(".")[0] == PACKAGE else base for alias in node.names]


def room_of(name: str) -> tuple[int, str] | None:
    """Return floor and room of a module, ``None`` when it has none."""
    for floor, rooms in enumerate(FLOORS):
        for room in rooms:
            if fnmatch.fnmatchcase(name, room):
                return floor, room
    return None


def read_package(top: Path) -> list[Module]:
    """Read every module of the package."""
    modules = []
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        modules.append(Module(name="" if parts == ("__init__",) else ".".join(parts), text=path.read_text("utf-8")))
    return modules


def own_target(imported: str, known: set[str]) -> str | None:
    """Return the module of this package that an import means: the longest known prefix of its name."""
    parts = imported.split(".")[1:]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in known:
            return name
        if f"{name}.__init__" in known:
            return f"{name}.__init__"
    # What is left is the package itself, or a name in its __init__; a submodule that is not there has no room.
    return None if parts and parts[0].islower() and len(parts) > 1 else ""


def broken_floors(modules: list[Module]) -> list[str]:
    """Return what is wrong with rooms and the direction of imports."""
    known = {module.name for module in modules}
    wrong = []
    for module in modules:
        here = room_of(module.name)
        if here is None:
            wrong.append(f"{module.name}: no floor is named for it; find its room (FLOORS, ARCHITECTURE.md)")
            continue
        for found in module.imports():
            if found.library != PACKAGE:
                continue
            target = own_target(found.name, known)
            there = None if target is None else room_of(target)
            if target is None or there is None:
                wrong.append(f"{module.name}:{found.line} imports {found.name}, which is in no room")
            elif target != module.name and not _allowed(here, there) and not _excused(module, found, target):
                who, whom = module.name or PACKAGE, target or PACKAGE
                wrong.append(f"{who}:{found.line} (floor {here[0]}) imports {whom} (floor {there[0]})")
    return list(dict.fromkeys(wrong))  # two names from one module are one import


def _allowed(here: tuple[int, str], there: tuple[int, str]) -> bool:
    (floor, room), (other_floor, other_room) = here, there
    if _family(room) == _family(other_room):
        return True
    return other_floor < floor and other_floor <= HIGHEST_FLOOR_SEEN.get(room, floor)


def _excused(module: Module, found: Import, name: str) -> bool:
    return found.for_types and (name in FOR_TYPES_ONLY or (module.name, name) in EXCUSED)


def _family(room: str) -> str:
    return room.removesuffix(".*")


def broken_homes(modules: list[Module]) -> list[str]:
    """Return imports of foreign libraries outside of their home."""
    wrong = []
    for module in modules:
        for found in module.imports():
            library = found.library
            if library in sys.stdlib_module_names or library == PACKAGE or _excused(module, found, library):
                continue
            where = f"{module.name or PACKAGE}:{found.line}"
            homes = HOMES.get(library)
            if homes is None:
                wrong.append(f"{where} imports {library}, which has no home (HOMES)")
            elif not any(fnmatch.fnmatchcase(module.name, home) for home in homes):
                wrong.append(f"{where} imports {library}, whose home is {', '.join(homes)}")
    return wrong


def declared() -> set[str]:
    """Return the libraries that are installed with the package whatever else is, as they are called there."""
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = settings.partition("\ndependencies = [")[2].partition("\n]")[0]
    return {name.replace("-", "_") for name in re.findall(r'"([\w-]+)', listed)}


def undeclared(modules: list[Module]) -> list[str]:
    """Return imports of libraries that may not be there, where one that is not would break the import of a module."""
    known, wrong = declared(), []
    for module in modules:
        for found in module.imports():
            library = found.library
            if library in sys.stdlib_module_names or library == PACKAGE or found.for_types:
                continue
            if DISTRIBUTIONS.get(library, library) in known or (library in UNDECLARED and found.deferred):
                continue
            wrong.append(f"{module.name or PACKAGE}:{found.line} imports {library}, which may not be there")
    return wrong


def replaceable_uses(modules: list[Module]) -> list[tuple[str, int, str]]:
    """Return module, line and name of what is used beside user code though that may have replaced it.

    The name of a type alone, in an annotation or a check, is no use.
    """
    found = []
    for module in modules:
        if any(fnmatch.fnmatchcase(module.name, name) for name in AHEAD_OF_USER_CODE):
            continue
        tree = ast.parse(module.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [(module.name, node.lineno, alias.name) for alias in node.names if alias.name in REPLACEABLE]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [(module.name, node.lineno, name) for name in names if {name, node.module} & REPLACEABLE]
        types = {id(inner) for node in ast.walk(tree) for inner in _annotations(node)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Attribute, ast.Name)) and id(node) not in types:
                name = ast.unparse(node)
                if name in REPLACEABLE and isinstance(node.ctx, ast.Load):
                    found.append((module.name, node.lineno, name))
    return found


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes of the annotations that a node has."""
    for name in ("annotation", "returns"):
        if (annotation := getattr(node, name, None)) is not None:
            yield from ast.walk(annotation)


def too_large(modules: list[Module]) -> list[str]:
    """Return modules and functions beyond the size where one looks for the seam, and names that say nothing."""
    wrong = []
    for module in modules:
        lines = len(module.text.splitlines())
        if lines > MODULE_LINES:
            wrong.append(f"{module.name}: {lines} lines, at most {MODULE_LINES}")
        wrong += [f"{module.name}: a name that says nothing" for part in module.name.split(".") if part in BANNED_NAMES]
        for node in ast.walk(ast.parse(module.text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    wrong.append(f"{module.name}:{node.lineno} {node.name}: {length} lines, at most {FUNCTION_LINES}")
    return wrong


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted({{*sys.modules}} - before))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return {name.partition(".")[0] for name in run.stdout.split()}


MODULES = read_package(ROOT / PACKAGE)


def test_every_module_has_a_room_and_imports_point_down() -> None:
    """A module imports only from floors below its own; imports inside functions and for types count."""
    wrong = broken_floors(MODULES)
    assert [] == wrong, "\n".join(wrong)


def test_every_foreign_library_has_one_home() -> None:
    """A foreign library is imported only where it lives."""
    wrong = broken_homes(MODULES)
    assert [] == wrong, "\n".join(wrong)


def test_a_library_that_may_not_be_there_is_imported_where_it_is_used() -> None:
    """What is no declared dependency is imported inside functions alone, each for a reason that still holds."""
    wrong = undeclared(MODULES)
    assert [] == wrong, "\n".join(wrong)
    used = {found.library for module in MODULES for found in module.imports() if not found.for_types}
    assert set() == set(UNDECLARED) - used


def test_nothing_grew_too_large_and_names_say_something() -> None:
    """Modules, functions and names stay within the house's measures."""
    wrong = too_large(MODULES)
    assert [] == wrong, "\n".join(wrong)


def test_nothing_of_ours_depends_on_what_user_code_replaces() -> None:
    """Beside user code time, names, files and messages come from `bound`, `private` and `protocol`."""
    uses = replaceable_uses(MODULES)
    wrong = [f"{module}:{line} uses {name}" for module, line, name in uses if (module, name) not in MAY_USE]
    assert [] == wrong, "\n".join(wrong)
    assert set() == set(MAY_USE) - {(module, name) for module, _, name in uses}


@pytest.mark.parametrize(
    "text",
    [
        "import time\ndef f():\n    return time.monotonic()",
        "from time import monotonic",
        "import uuid",
        "def f():\n    import random",
        "from random import random",
        "def f(path):\n    with open(path) as file:\n        pass",
        "import os\nclock = os.path.exists",
        "def f(clock=time.monotonic):\n    pass",
    ],
)
def test_a_use_of_what_may_be_replaced_is_found(text: str) -> None:
    """Called, imported, handed on or taken as a default: it is found, but not where no user code runs."""
    assert replaceable_uses([Module(name="engine.pump", text=text)])
    assert not replaceable_uses([Module(name="worker.process.supervisor", text=text)])


def test_excuses_are_still_needed() -> None:
    """An excused import that is gone takes its excuse with it."""
    known = {module.name for module in MODULES}
    found = [(module.name, found) for module in MODULES for found in module.imports()]
    real = {(name, item.library) for name, item in found} | {
        (name, own_target(item.name, known)) for name, item in found
    }
    assert [] == [pair for pair in EXCUSED if pair not in real]


def test_importing_the_package_is_light() -> None:
    """``import flyte_notebook`` loads neither Flyte nor a notebook, a plot, a number cruncher or a loop."""
    assert set() == loaded_by(f"import {PACKAGE}") & set(HEAVY)


def test_the_worker_loads_neither_notebook_nor_plot() -> None:
    """What the worker loads counts against the user's limit: no IPython, no widgets, no plots."""
    assert set() == loaded_by(f"import {PACKAGE}.worker.process.child") & set(NEVER_IN_A_WORKER)


def test_the_supervisor_loads_no_flyte_and_no_loop() -> None:
    """The supervisor is small, and so is the launcher, each process of which begins as a copy of it."""
    assert set() == loaded_by(f"from {PACKAGE}.worker.process import launcher, supervisor") & set(HEAVY)


def test_only_processes_with_one_thread_fork() -> None:
    """The launcher and the server fork; the supervisor does so only where it has no threads; nobody else does."""
    found = {
        module.name
        for module in MODULES
        for node in ast.walk(ast.parse(module.text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.fork", "os.forkpty", "pty.fork"}
    }
    assert {"worker.process.launcher", "worker.process.launching", "worker.process.prefork"} == found
    (where,) = [module for module in MODULES if module.name == "worker.process.launching"]
    choices = [node for node in ast.walk(ast.parse(where.text)) if isinstance(node, ast.If)]
    (elsewhere,) = [node for node in choices if any("os.fork" in ast.unparse(inner) for inner in node.orelse)]
    assert "sys.platform == 'linux'" == ast.unparse(elsewhere.test)


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    """No file names a home directory: what is written here holds on every machine."""
    pattern = re.compile(r"/(?:home|Users)/[A-Za-z]\w*/|/root/[\w.]+")
    folders = [ROOT / name for name in (PACKAGE, "tests", "notebooks", "benchmarks", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix not in {".pyc", ".png"}]
    files += [
        path for path in ROOT.iterdir() if path.suffix in {".lock", ".md", ".toml", ".yml"} or path.name == "Makefile"
    ]
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files
        if path.is_file() and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert [] == wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("somewhere", "", "find its room"),
        ("core.units", "import flyte_notebook.core.limits", "units:1 (floor 0) imports core.limits (floor 1)"),
        (
            "core.units",
            "def f():\n    from flyte_notebook.core.limits import Limits",
            "units:2 (floor 0) imports core.lim",
        ),
        (
            "core.units",
            "if TYPE_CHECKING:\n    from flyte_notebook.core import limits",
            "(floor 0) imports core.limits",
        ),
        ("core.units", "from .limits import Limits", "core.units:1 (floor 0) imports core.limits (floor 1)"),
        ("core.limits", "from flyte_notebook.core import trace", "limits:1 (floor 1) imports core.trace (floor 1)"),
        ("limiters.base", "from ..worker import relies", "limiters.base:1 (floor 4) imports worker.relies (floor 5)"),
        ("worker.relies", "import flyte_notebook", "worker.relies:1 (floor 5) imports flyte_notebook (floor 12)"),
        ("worker.relies", "importlib.import_module('flyte_notebook.sdk.seam')", "imports sdk.seam (floor 8)"),
        ("worker.relies", "ENTRY = 'flyte_notebook.sdk.seam:run_local'", "imports sdk.seam (floor 8)"),
        ("views.style", "from flyte_notebook.worker import relies", "style:1 (floor 9) imports worker.relies"),
        ("views.style", "from flyte_notebook import capabilities", "(floor 9) imports capabilities (floor 10)"),
        ("views.style", "from flyte_notebook import Run", "views.style:1 (floor 9) imports flyte_notebook (floor 12)"),
        ("notebook.magics", "from flyte_notebook.nowhere import x", "which is in no room"),
    ],
)
def test_an_import_against_the_floors_is_found(name: str, text: str, words: str) -> None:
    """Each way to import upward or sideways is found, with module, line and floors."""
    others = ["", "core.units", "core.limits", "core.trace", "capabilities", "worker.relies", "sdk.seam"]
    modules = [Module(name=other, text="") for other in others if other != name] + [Module(name=name, text=text)]
    (wrong,) = broken_floors(modules)
    assert words in wrong


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core.limits", "from flyte_notebook.core.units import parse"),
        ("views.style", "from flyte_notebook.views.charts import chart\nfrom . import text\nfrom .text import line"),
        ("views.style", "from flyte_notebook.history import Run"),
        ("", "from flyte_notebook import notebook\nfrom .core.limits import Limits"),
    ],
)
def test_an_import_down_or_within_the_room_is_fine(name: str, text: str) -> None:
    """Lower floors and neighbours in the same folder may be imported."""
    others = [
        "",
        "core.units",
        "core.limits",
        "history.__init__",
        "views.text",
        "views.charts.chart",
        "notebook.__init__",
    ]
    modules = [Module(name=other, text="") for other in others if other != name] + [Module(name=name, text=text)]
    assert [] == broken_floors(modules)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("worker.process.child", "import flyte", "worker.process.child:1 imports flyte, whose home is sdk.*, errors"),
        (
            "views.failures.html",
            "def f():\n    import matplotlib.pyplot as plt",
            "views.failures.html:2 imports matplotlib",
        ),
        ("sdk.seam", "from IPython.display import display", "sdk.seam:1 imports IPython"),
        ("units", "import requests", "units:1 imports requests, which has no home"),
        ("units", "from typing_extensions import Self", "units:1 imports typing_extensions, which has no home"),
        ("", "import IPython", "flyte_notebook:1 imports IPython, whose home is notebook.*"),
    ],
)
def test_a_library_outside_its_home_is_found(name: str, text: str, words: str) -> None:
    """A foreign library is found outside its home, inside functions too."""
    (wrong,) = broken_homes([Module(name=name, text=text)])
    assert words in wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("import connectrpc", True),
        ("def f():\n    import connectrpc", False),
        ("if TYPE_CHECKING:\n    import connectrpc", False),
        ("def f():\n    import requests", True),
        ("import IPython, nest_asyncio2, psutil", False),
    ],
)
def test_an_undeclared_library_is_found(text: str, *, wrong: bool) -> None:
    """An import that runs with the module's own, or of what nobody has thought of, is found; others are fine."""
    assert wrong == bool(undeclared([Module(name="sdk.control_plane", text=text)]))


def test_for_types_alone_some_may_be_imported() -> None:
    """What only a type checker reads may come from its own library, and from where an excuse names a reason."""
    text = "if TYPE_CHECKING:\n    from typing_extensions import Self\n    import IPython"
    assert [] == broken_homes([Module(name="", text=text)])
    (wrong,) = broken_homes([Module(name="units", text=text)])
    assert "units:3 imports IPython" in wrong


def test_too_large_is_found() -> None:
    """A module of 401 lines, a function of 81 and a module named util are found."""
    long_function = "def f():\n" + "    pass\n" * 80
    assert ["limits: 401 lines, at most 400"] == too_large([Module(name="limits", text="x = 1\n" * 401)])
    assert ["limits:1 f: 81 lines, at most 80"] == too_large([Module(name="limits", text=long_function)])
    assert ["views.util: a name that says nothing"] == too_large([Module(name="views.util", text="")])
    assert [] == too_large([Module(name="limits", text="x = 1\n" * 400)])
