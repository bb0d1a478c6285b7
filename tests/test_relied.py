"""Nothing that is relied on of others can vanish without the doctor naming the feature that is lost."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import relied_table
from relied_breaks import BREAKS

from flyte_notebook import capabilities
from flyte_notebook.core import supported
from flyte_notebook.core.limits import Enforcement
from flyte_notebook.core.reliance import Losses, Reliance
from flyte_notebook.core.tested import VERSIONS
from flyte_notebook.sdk import control_plane, lazy, probes
from flyte_notebook.sdk import relies as of_sdk
from flyte_notebook.sdk.cluster import relies as of_clusters
from flyte_notebook.worker import relies as of_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_PROCESS = (*of_workers.ENTRIES, *of_sdk.ENTRIES, *of_clusters.ENTRIES)
ENTRIES = relied_table.ENTRIES
PACKAGE = Path(__file__).parent.parent / "flyte_notebook"
OF_KERNELS = Path(__file__).parent / "notebook" / "test_relied_in_kernels.py"

DOCUMENTED = {"_thread", "_replace", "_asdict", "_fields", "_make", "_exit", "_getframe", "_repr_mimebundle_"}
"""Names that begin with an underscore and that their documentation promises."""


@pytest.fixture(autouse=True)
def _tried_out_anew() -> Iterator[None]:
    """Forget what was found out in this process, before and after."""
    for remembered in (probes.rehearsed, control_plane._rpc_library, lazy._classes):
        remembered.cache_clear()
    yield
    for remembered in (probes.rehearsed, control_plane._rpc_library, lazy._classes):
        remembered.cache_clear()


def doctor_of(losses: Losses) -> str:
    return str(
        capabilities.Doctor(
            enforcement=Enforcement(), findings=tuple(capabilities.lost_findings(losses.found)), hints=()
        )
    )


def test_everything_is_as_known_here() -> None:
    """With the libraries that are installed, each probe finds what is relied on."""
    losses = Losses()
    losses.check(IN_PROCESS)
    assert () == losses.found


@pytest.mark.parametrize(
    "entry", [entry for entry in IN_PROCESS if entry.probe is not None], ids=lambda entry: entry.key
)
def test_a_planted_change_is_named(entry: Reliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a library behaves otherwise, the doctor names the feature that is lost, and the library."""
    losses = Losses()
    losses.check([entry])
    assert () == losses.found
    for remembered in (probes.rehearsed, control_plane._rpc_library, lazy._classes):
        remembered.cache_clear()
    with monkeypatch.context() as patch:
        BREAKS[entry.key](patch)
        losses.check([entry])
    (loss,) = losses.found
    assert entry.key == loss.key
    assert loss.why
    said = doctor_of(losses)
    assert entry.lost in said
    assert f"{entry.library}: " in said
    assert (loss,) == losses.untold()
    assert () == losses.untold()


def test_each_entry_has_a_planted_change() -> None:
    """No entry is without a test that breaks what it is about; the others are broken in a kernel."""
    in_kernels = OF_KERNELS.read_text(encoding="utf-8")
    missing = [entry.key for entry in ENTRIES if entry.key not in BREAKS and f'"{entry.key}"' not in in_kernels]
    assert [] == missing
    assert len(ENTRIES) == len({entry.key for entry in ENTRIES})


def test_a_library_that_is_newer_than_tested_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor names each library whose installed version is above the one that was tested, with both."""
    assert [] == [finding.holds for finding in capabilities.newer_findings() if "flyte 99.1" in finding.holds]
    before = supported.version
    monkeypatch.setattr(supported, "version", lambda name: "99.1rc2" if name == "flyte" else before(name))
    (finding,) = capabilities.newer_findings()
    assert "newer than tested" == finding.subject
    assert f"flyte 99.1rc2 ({VERSIONS['flyte']})" in finding.holds


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2.12.1", (2, 12, 1)),
        ("3.1rc2", (3, 1)),
        ("7", (7,)),
        ("1.0+local.3", (1, 0)),
        ("2.0.0b33", (2, 0, 0)),
        ("", ()),
    ],
)
def test_the_numbers_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    """A version is compared by its numbers, up to the first part that is more than a number."""
    assert numbers == supported.numbers(version)


def test_what_is_there_again_is_not_lost_any_more() -> None:
    """A feature that works again is taken back, and said anew when it is lost again."""
    works = [False]

    def probe() -> None:
        assert works[0], "gone"

    entry = Reliance(key="a", library="b", behaviour="c", lost="d", probe=probe)
    losses = Losses()
    losses.check([entry])
    assert "d (b: AssertionError: gone" in str(losses.untold()[0])
    works[0] = True
    losses.check([entry])
    assert () == losses.found
    works[0] = False
    losses.check([entry])
    assert 1 == len(losses.untold())


def private_names(top: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, place) for each private name of something foreign that a package asks for, sets or imports."""
    for path in sorted(top.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = set(_defined(tree))
        for node in ast.walk(tree):
            for name in _asked_for(node):
                if name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED | own:
                    yield name, f"{path.relative_to(top)}:{node.lineno}"  # type: ignore[attr-defined]  # all have one


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def _asked_for(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and not _is_self(node.value):
        yield node.attr
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in {"getattr", "hasattr", "setattr", "delattr"} and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and not (node.module or "").startswith("flyte_notebook"):
        yield from [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    elif isinstance(node, ast.Import):
        yield from (part for alias in node.names for part in alias.name.split("."))


def test_private_names_of_others_are_used_only_where_an_entry_names_them() -> None:
    """What begins with an underscore and is not ours stands in an entry, which names nothing that is not used."""
    known = {name for entry in ENTRIES for name in entry.names}
    used = dict(private_names(PACKAGE))
    assert {} == {name: place for name, place in used.items() if name not in known}
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.stem != "relies")
    assert [] == [name for name in known if name not in text]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f(x):\n    return x._secret", "_secret"),
        ("def f(x):\n    return getattr(x, '_secret', None)", "_secret"),
        ("def f(x):\n    return hasattr(x, '_secret')", "_secret"),
        ("from other import _secret", "_secret"),
        ("from other._inner import name", "_inner"),
        ("import other._inner", "_inner"),
    ],
)
def test_a_private_name_is_found(source: str, name: str, tmp_path: Path) -> None:
    """Each way to use what a library keeps to itself is found; what a module defines itself is not."""
    (tmp_path / "module.py").write_text(source)
    assert [name] == [found for found, _ in private_names(tmp_path)]
    (tmp_path / "module.py").write_text(f"class Own:\n    def {name}(self): ...\n{source}")
    if "other" not in source:
        assert [] == list(private_names(tmp_path))


def test_the_documentation_lists_the_entries() -> None:
    """`docs/relied-on.md` is what `tests/relied_table.py` makes of the entries."""
    path = PACKAGE.parent / "docs" / "relied-on.md"
    assert relied_table.text() == path.read_text(encoding="utf-8"), "run: python tests/relied_table.py"
