"""What follows the import of a library, also of one that a stand-in loads at its first access."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from flyte_notebook.worker.process.after_import import call_after_import, loaded

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_follows_a_late_import_finds_the_library_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first access it is not, and at the call it is, with what its code made."""
    name = "loaded_late_for_a_test"
    (tmp_path / f"{name}.py").write_text("made = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    seen: list[tuple[bool, int]] = []
    call_after_import(name, lambda: seen.append((loaded(name), sys.modules[name].made)))
    assert not loaded(name)
    assert [] == seen
    assert 3 == module.made
    assert [(True, 3)] == seen
