"""Settings of libraries are read whatever state the libraries are in."""

from __future__ import annotations

import sys
import types

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
