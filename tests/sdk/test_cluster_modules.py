"""Which files of the user go to a cluster with a cell, and which lines of a log are new."""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from flyte_notebook.sdk.cluster import modules
from flyte_notebook.sdk.cluster.following import _Read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory that modules are imported from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def members(data: bytes) -> dict[str, str]:
    """Return the files of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return {name: zipped.read(name).decode() for name in zipped.namelist()}


def test_a_module_goes_with_those_of_the_user_that_it_imports(place: Path) -> None:
    """Whether they were imported here or not; those that are installed stay out."""
    (place / "fnb_shop.py").write_text("import json, numpy, fnb_taxes\nfrom fnb_pack.deep import own\n")
    (place / "fnb_taxes.py").write_text("import fnb_shop\n")  # a circle
    (place / "fnb_pack" / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/__init__.py", "deep/rates.json"):
        (place / "fnb_pack" / name).write_text("{}\n")
    (place / "fnb_other.py").write_text("")
    data, names = modules.archive(["fnb_shop.sub", "json", "flyte_notebook"])
    assert ("fnb_pack", "fnb_shop", "fnb_taxes") == names
    packed = [f"fnb_pack/{name}" for name in ("__init__.py", "deep/__init__.py", "deep/rates.json")]
    assert [*packed, "fnb_shop.py", "fnb_taxes.py"] == list(members(data))
    assert data == modules.archive(["fnb_shop"])[0], "the same files give the same bytes"


def test_the_file_is_sent_as_it_is_now(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as it was when it was imported."""
    (place / "fnb_stale.py").write_text("OF = 1\n")
    importlib.import_module("fnb_stale")
    monkeypatch.delitem(sys.modules, "fnb_stale", raising=False)
    (place / "fnb_stale.py").write_text("OF = 19\n")
    assert {"fnb_stale.py": "OF = 19\n"} == members(modules.archive(["fnb_stale"])[0])


@pytest.mark.parametrize("names", [[], ["json", "sys", "__main__"], ["fnb_no_such_module"], [".", "a b"]])
def test_nothing_is_sent_where_nothing_is_the_users(names: list[str]) -> None:
    """No archive at all."""
    assert (b"", ()) == modules.archive(names)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import a.b, c as d\nfrom e.f import g\nfrom . import h\nfrom .i import j", {"a", "c", "e"}),
        ("def f():\n    import late", {"late"}),
        ("import (", set()),
        (b"\xff\xfe", set()),
        ("a\0b", set()),
    ],
)
def test_imports_are_read_without_running_anything(text: str | bytes, found: set[str]) -> None:
    """Those inside functions too; none of a program that cannot be read."""
    assert found == set(modules.imported_in(text))


def news(read: _Read, *moments: int) -> list[bool]:
    """Return which lines of these moments are new."""
    return [read.is_new(SimpleNamespace(timestamp=SimpleNamespace(seconds=moment, nanos=0))) for moment in moments]


def test_a_log_that_begins_again_has_only_its_new_lines() -> None:
    """Also where several lines have the same time."""
    read = _Read()
    assert [True] * 3 == news(read, 1, 2, 2)
    read.begins_again()
    assert [False, False, False, True, True] == news(read, 1, 2, 2, 2, 3)
    assert [False, False, False, False, False, True] == news(read, 1, 2, 2, 2, 3, 4), "a client that began again itself"


def test_a_log_that_goes_on_loses_none_of_its_lines() -> None:
    """Without a beginning in between, lines of the same time are all new."""
    assert [True] * 4 == news(_Read(), 5, 5, 5, 6)
