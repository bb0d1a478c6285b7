"""Settings of libraries are read whatever state the libraries are in."""

from __future__ import annotations

import decimal
import logging
import pickle
import sys
import types
import warnings

import pytest

from flyte_notebook.cells import generators, library_settings


@pytest.mark.parametrize("name", ["matplotlib", "numpy", "pandas", "decimal", "socket"])
def test_a_library_that_is_being_imported_has_no_settings_yet(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another thread may be at it: nothing is said of it."""
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    found = library_settings.read()
    of_it = {library.what for library in library_settings.LIBRARIES if library.module == name}
    assert [] == [said for said in found.left if said.startswith(tuple(of_it))]
    assert set() == of_it & set(found.packed)


def test_a_generator_that_is_being_imported_has_no_state_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have."""
    monkeypatch.setitem(sys.modules, "numpy.random", types.ModuleType("numpy.random"))
    assert {"random"} == set(generators.read())


def test_what_cannot_be_pickled_is_named_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another part of the same settings stays behind by itself."""
    formatter = logging.Formatter("%(message)s")
    formatter.converter = lambda *_: None  # type: ignore[assignment, return-value]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    monkeypatch.setattr(logging.root, "handlers", [handler, logging.Handler()])
    found = library_settings.read()
    assert any(said.startswith("logging stay in the notebook: ") for said in found.left)
    assert "logging" not in found.packed


class Outer:
    class InnerWarning(Warning):
        """One whose name has a dot in it."""


def test_a_class_inside_of_a_class_may_be_filtered() -> None:
    """Its name has a dot in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Outer.InnerWarning)
        packed = library_settings.read().packed
    with library_settings.made(packed, ""), pytest.raises(Outer.InnerWarning):
        warnings.warn("late", Outer.InnerWarning, stacklevel=1)


def test_what_cannot_be_set_is_said_and_the_cell_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """One that is no pickle, say."""
    before = decimal.getcontext().copy()
    with library_settings.made({"the decimal context": b"nothing"}, ""):
        pass
    assert "[flyte_notebook: the decimal context cannot be set in the task: " in capsys.readouterr().err
    assert repr(before) == repr(decimal.getcontext())


def test_equal_settings_are_no_change_however_they_are_pickled() -> None:
    """One text that two options share is pickled once, two equal texts twice: both are the same settings."""
    text = "a text that is not interned"
    shared = pickle.dumps({"one": text, "two": text})
    apart = pickle.dumps({"one": text, "two": "".join(text)[:-1] + "d"})
    assert shared != apart
    assert library_settings._same(shared, apart)
    assert not library_settings._same(shared, pickle.dumps({"one": text, "two": "another"}))
    assert not library_settings._same(shared, None)
    assert library_settings._same(None, None)
