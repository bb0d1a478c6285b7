"""What comes with the SDK may be another one tomorrow: loading does not break over it, and one feature is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.cgroup

BOUND_S = 100

# The SDK still finds what it needs: it is our own modules that do not find what they know.
PROGRAM = """
import builtins, importlib.util, json, sys
import flyte
from IPython.core.interactiveshell import InteractiveShell

library, name, first = sys.argv[1:]
import_ = builtins.__import__

def without(wanted, namespace=None, locals=None, fromlist=(), level=0):
    if wanted.partition(".")[0] == library and (namespace or {}).get("__name__", "").startswith("flyte_notebook.sdk"):
        if not name:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        if name in (fromlist or ()):
            raise ImportError(f"cannot import name {name!r} from {wanted!r}")
    return import_(wanted, namespace, locals, fromlist, level)

builtins.__import__ = without
exec(first)
shell = InteractiveShell.instance()
loaded = shell.run_cell("%load_ext flyte_notebook").success
from flyte_notebook.notebook.render import OF_FLYTE
from flyte_notebook.sdk import control_plane, lazy, types

env = flyte.TaskEnvironment(name="missing")

@env.task
async def add(a: int, b: int) -> int:
    return a + b

flyte.init()
cell = shell.run_cell("%%flyte_task\\n[1, 2]")
found = {
    "loaded": loaded,
    "of flyte": [kind.__name__ for kind in OF_FLYTE],
    "errors": control_plane.lost(),
    "cells": types.lost(),
    "stand-ins": lazy.lost(),
    "sum": flyte.run(add, 1, 2).outputs()[0],
    "cell": cell.result,
    "refused": str(cell.error_in_exec or ""),
    "unloaded": shell.run_cell("%unload_ext flyte_notebook").success,
}
print("FOUND" + json.dumps(found))
"""


def without(library: str, name: str = "", *, first: str = "") -> dict[str, Any]:
    """Load the extension in a shell whose modules do not find a library, or a name in it; return what it found."""
    command = [sys.executable, "-c", PROGRAM, library, name, first]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND_S, env=dict(os.environ))
    text, mark, found = done.stdout.rpartition("FOUND")
    assert mark, text + done.stderr
    return dict(json.loads(found))


def test_nothing_is_lost_with_the_libraries_that_are_there() -> None:
    """With what the SDK brings today nothing is lost, errors of its client are known, and a cell runs."""
    found = without("nobody")
    assert ("", "", "") == (found["errors"], found["cells"], found["stand-ins"])
    assert ([1, 2], 3) == (found["cell"], found["sum"])
    assert "ConnectError" in found["of flyte"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "ModuleNotFoundError: No module named 'connectrpc'"),
        ("ConnectError", "ImportError: cannot import name 'ConnectError' from 'connectrpc.errors'"),
    ],
)
def test_without_the_rpc_library_its_errors_are_as_any_other(name: str, why: str) -> None:
    """Absent or moved it costs the card of such an error, and says so; loading, tasks and cells work."""
    found = without("connectrpc", name)
    assert (True, 3, [1, 2], True) == (found["loaded"], found["sum"], found["cell"], found["unloaded"])
    assert "ConnectError" not in found["of flyte"]
    lost = "an error of the control plane's client is shown as any other, without its endpoint"
    assert f"{lost}: {why}" == found["errors"]


@pytest.mark.parametrize("name", ["", "literals_pb2", "types_pb2"])
def test_without_the_literals_no_cell_is_a_task(name: str) -> None:
    """Where the SDK speaks another language `%%flyte_task` says so before anything runs; loading and tasks work."""
    found = without("flyteidl2", name)
    assert (True, 3, None, True) == (found["loaded"], found["sum"], found["cell"], found["unloaded"])
    assert found["cells"].startswith("no cell can be made a task, as the literals of flyte ")
    assert "Error: " in found["cells"]
    assert f"%%flyte_task: {found['cells']}" == found["refused"]


def test_without_the_class_of_stand_ins_everything_works() -> None:
    """Python's private class for libraries that are put off may go: an error takes a second more, and that is said."""
    found = without("nobody", first="import flyte.types; del importlib.util._LazyModule")
    assert (True, 3, [1, 2], True) == (found["loaded"], found["sum"], found["cell"], found["unloaded"])
    assert "the first error of a notebook loads pandas and pyarrow" in found["stand-ins"]
