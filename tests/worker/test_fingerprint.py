"""When a forked worker would be another one than a fresh interpreter, it is not forked."""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.sdk.ahead import PREFORK
from flyte_notebook.worker.process.fingerprint import OF_AN_ATTEMPT, READ_AT_START, EnvironmentFingerprint

if TYPE_CHECKING:
    from pathlib import Path

# Libraries that copy the whole environment read no variable of it: their own are named.
READS = """
import os, sys
read = set()
kind = type(os.environ)
for name in ("__getitem__", "__contains__"):
    def watching(self, key, original=getattr(kind, name)):
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") in {"os", "_collections_abc", "collections.abc"}:
            frame = frame.f_back
        if frame.f_globals.get("__name__") != "fsspec.config":
            read.add(key)
        return original(self, key)
    setattr(kind, name, watching)
import importlib
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
print(*sorted(read))
"""


def server(sys_path: list[str]) -> EnvironmentFingerprint:
    return EnvironmentFingerprint(
        executable="/py",
        environ={"HOME": "/me", "A": "1"},
        sys_path=sys_path,
        modules=["flyte", "google", "json"],
        namespaces=["google"],
    )


def asked(path: list[str], **changes: Any) -> dict[str, Any]:
    return {"executable": "/py", "environ": {"HOME": "/me", "A": "2"}, "sys_path": path, "cwd": "/", **changes}


def test_variables_read_while_importing_are_watched() -> None:
    """Each environment variable that an import of the server reads makes a difference when it is changed."""
    names = (*PREFORK.modules, *PREFORK.if_installed)
    run = subprocess.run([sys.executable, "-c", READS, *names], capture_output=True, text=True, check=True)
    read = set(run.stdout.split()) - OF_AN_ATTEMPT
    assert "HOME" in read
    assert [] == sorted(name for name in read if not name.startswith(READ_AT_START))


def test_a_worker_like_the_server_is_forked(tmp_path: Path) -> None:
    """Another variable, another directory and another place to import from make no difference."""
    (tmp_path / "mine.py").touch()
    assert "" == server(["/lib"]).difference(**asked([str(tmp_path), "/lib"], cwd=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environ": {"HOME": "/you"}}, "HOME"),
        ({"environ": {"HOME": "/me", "LC_ALL": "C"}}, "LC_ALL"),
        ({"environ": {}}, "HOME"),
        ({"executable": "/other"}, "interpreter"),
        ({"cwd": "/nowhere-at-all"}, "current directory"),
        ({"sys_path": ["/b", "/a"]}, "order"),
        ({"sys_path": ["/a"]}, "removed"),
    ],
)
def test_a_difference_is_said(changes: dict[str, Any], words: str) -> None:
    """What would have changed the imports is named in the sentence."""
    assert words in server(["/a", "/b"]).difference(**asked(["/a", "/b"], **changes))


@pytest.mark.parametrize(
    "name", ["json.py", "json.pyc", "flyte/__init__.py", "google/extra.py", "json.cpython-3X.so", "flyte.abi3.so"]
)
def test_a_file_that_would_be_imported_instead_is_found(tmp_path: Path, name: str) -> None:
    """A local file with the name of a module that the server has imported is found, also when it is made later."""
    name = name.replace(".cpython-3X.so", importlib.machinery.EXTENSION_SUFFIXES[0])
    fingerprint = server(["/lib"])
    here = asked(["", "/lib"], cwd=str(tmp_path))
    assert "" == fingerprint.difference(**here)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    os.utime(tmp_path, ns=(1, 1))  # a clock that ticks slowly must not hide it from this test
    assert name.partition("/")[0] in fingerprint.difference(**here)
    assert "" == fingerprint.difference(**asked(["/lib", str(tmp_path)])), "behind the installed ones it hides nothing"


@pytest.mark.parametrize("name", ["flyte", "flyte/data.csv", "json.txt", "json.tar.gz", "json_.py"])
def test_what_cannot_be_imported_hides_nothing(tmp_path: Path, name: str) -> None:
    """A program called ``flyte``, a folder of data, a file of another kind: a worker is forked all the same."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert "" == server(["/lib"]).difference(**asked(["", "/lib"], cwd=str(tmp_path)))


def test_an_installed_package_makes_it_outdated(tmp_path: Path) -> None:
    """What was installed after the server had imported is noticed."""
    place = tmp_path / "site-packages"
    place.mkdir()
    fingerprint = server([str(place)])
    assert not fingerprint.outdated
    (place / "news").mkdir()
    os.utime(place, ns=(1, 1))
    assert fingerprint.outdated
