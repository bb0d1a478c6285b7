"""A library that was put off is not loaded by the question where it is, and is by everything else, as ever."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import subprocess
import sys
import types
from typing import TYPE_CHECKING

import pytest
from flyte._utils.lazy_module import is_imported, lazy_module

from flyte_notebook.sdk import lazy
from flyte_notebook.sdk.lazy import let_stand_ins_be_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "put_off"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Give the SDK's stand-in for a package that is there."""
    package = tmp_path / NAME
    package.mkdir()
    (package / "__init__.py").write_text("from put_off.inner import value\n")
    (package / "inner.py").write_text("import sys\nvalue = 42\nsys.modules['put_off'].whole = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lazy_module(NAME)
    for name in (NAME, f"{NAME}.inner"):
        sys.modules.pop(name, None)


@pytest.fixture
def module(stand_in: types.ModuleType) -> Iterator[types.ModuleType]:
    """Give the stand-in, taught to be asked."""
    undo = let_stand_ins_be_asked()
    yield stand_in
    undo()


def loaded(module: types.ModuleType) -> bool:
    return type(module) is types.ModuleType


def test_asking_where_it_is_does_not_load_it(module: types.ModuleType, tmp_path: Path) -> None:
    """Its file and its name are known, to `inspect` too when it looks for code; the SDK still knows what is loaded."""
    assert str(tmp_path / NAME / "__init__.py") == module.__file__
    assert NAME == module.__name__
    assert inspect.getmodule(compile("1", "<no file>", "exec")) is None
    assert not loaded(module)
    assert not is_imported(NAME)


@pytest.mark.parametrize("use", ["attribute", "import", "import of a part", "from"])
def test_everything_else_loads_it_as_ever(module: types.ModuleType, use: str) -> None:
    """A look at what is in it, or an import of any kind, finds it whole."""
    assert NAME == module.__name__
    if use == "attribute":
        assert 42 == module.value
    elif use == "import":
        importlib.import_module(NAME)
    elif use == "import of a part":
        assert 42 == importlib.import_module(f"{NAME}.inner").value
    else:
        exec(f"from {NAME} import value\nassert 42 == value", {})  # noqa: S102 - an import statement
    assert loaded(module)
    assert is_imported(NAME)
    assert 42 == vars(module)["value"]
    assert vars(module)["whole"]


@pytest.mark.parametrize("used", [False, True])
def test_it_is_as_it_was_afterwards(stand_in: types.ModuleType, *, used: bool) -> None:
    """Undone, a stand-in that was not used is Python's own again, and one that was used stays loaded."""
    before = type(stand_in)
    undo = let_stand_ins_be_asked()
    assert before is not type(stand_in)
    assert not used or 42 == stand_in.value
    undo()
    assert (types.ModuleType if used else before) is type(stand_in)
    assert 42 == stand_in.value


class Slotted(types.ModuleType):
    """Another layout: no module can become one."""

    __slots__ = ("more",)


class NeverLoads(types.ModuleType):
    """A stand-in that loads in some other way."""


class Refuses(types.ModuleType):
    """A stand-in that cannot be asked at all."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(f"{name} is not for you")


@pytest.fixture
def unknown(stand_in: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[object], str]]:
    """Give what puts another class in the place of Python's, ``None`` for none, and returns what is lost then."""
    lazy._classes.cache_clear()

    def lost(other: object) -> str:
        before = type(stand_in)
        if other is None:
            monkeypatch.delattr(importlib.util, "_LazyModule")
        else:
            monkeypatch.setattr(importlib.util, "_LazyModule", other)
        undo = let_stand_ins_be_asked()
        assert before is type(stand_in), "it is as it was"
        undo()
        assert before is type(stand_in)
        return lazy.lost()

    yield lost
    lazy._classes.cache_clear()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (None, "NameError: "),
        (Slotted, "TypeError: "),
        (NeverLoads, "it does not load what it stands for"),
        (Refuses, "RuntimeError: whole is not for you"),
        (types.ModuleType, "there are none"),
        (7, "TypeError: "),
    ],
)
def test_stand_ins_that_are_not_as_known_stay_as_they_are(
    unknown: Callable[[object], str], other: object, why: str
) -> None:
    """A class that is gone or behaves in another way costs one feature; nothing is raised, and the reason is told."""
    words = f"the first error of a notebook loads pandas and pyarrow, which takes about a second: {why}"
    assert unknown(other).startswith(words)


def test_without_a_lazy_loader_nothing_is_raised(
    unknown: Callable[[object], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public class that makes stand-ins may go as well."""
    monkeypatch.delattr(importlib.util, "LazyLoader")
    assert "AttributeError: " in unknown(importlib.util._LazyModule)  # type: ignore[attr-defined]


def test_nothing_is_lost_with_the_stand_ins_of_this_python() -> None:
    """Here and now they are as they are known."""
    lazy._classes.cache_clear()
    assert "" == lazy.lost()


def test_what_is_tried_out_when_a_session_starts_loads_no_library() -> None:
    """Each session tries the SDK out in a worker: that took 0.4 s of processor time more when it loaded pandas."""
    rehearse = "from flyte_notebook.sdk.rehearsal import rehearse; rehearse()"
    program = f"import sys; {rehearse}; print('pandas.core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "False" == done.stdout.strip()
