"""The same task under a limit of its own, with nothing of ours in between: a control group that is made by hand.

Two ways to run it there: the SDK alone in a fresh interpreter, and the entry point of a Flyte pod, ``a0``, which finds
its inputs in a file and no control plane. Both import the task from its module, which lies in the current directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyte._internal.runtime.convert import convert_from_native_to_inputs

from flyte_notebook.limiters.control_groups import own, remove_tree
from flyte_notebook.limiters.kernel_files import read_number, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MIB = 1 << 20
BOUND_S = 120
FILES = {1: ("memory.limit_in_bytes", "memory.max_usage_in_bytes"), 2: ("memory.max", "memory.peak")}

ALONE = """
import importlib, sys
import flyte
task = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
flyte.init()
flyte.run(task, **eval(sys.argv[3]))
"""


@contextlib.contextmanager
def _group(limit_bytes: int) -> Iterator[tuple[str, str]]:
    """Make a group with a limit; yield its directory and its file for the peak. It is removed in any case."""
    found = own("memory")
    assert found is not None, "no control group for memory may be written here"
    directory = Path(found[0], f"fnb-by-hand-{os.getpid()}")
    directory.mkdir()
    try:
        version = 1 if (directory / FILES[1][0]).exists() else 2
        limit, peak = FILES[version]
        write(str(directory / limit), str(limit_bytes))
        yield str(directory), str(directory / peak)
    finally:
        remove_tree(str(directory), patience_s=5)


def held(command: Sequence[str], limit_bytes: int) -> bool:
    """Run a command under a limit; return whether it passed. Raises AssertionError when it failed otherwise."""
    with _group(limit_bytes) as (directory, peak):
        join = f'echo $$ > "{directory}/cgroup.procs" && exec "$@"'
        environ = {**os.environ, "FLYTE_DISABLE_TELEMETRY": "1", "_U_EP_OVERRIDE": "localhost:1"}
        done = subprocess.run(
            ["/bin/sh", "-c", join, "sh", *command],
            capture_output=True,
            check=False,
            cwd=Path(__file__).parent,
            env=environ,
            timeout=BOUND_S,
            text=True,
        )
        near = (read_number(peak) or 0) > 0.95 * limit_bytes
    assert done.returncode == 0 or near, done.stderr[-2000:]
    return done.returncode == 0


def alone(task: Any, inputs: Mapping[str, object]) -> list[str]:  # noqa: ANN401 - a Flyte task
    """Return the command for the SDK alone in a fresh interpreter."""
    return [sys.executable, "-c", ALONE, task.func.__module__, task.short_name, repr(dict(inputs))]


@contextlib.contextmanager
def in_pod(task: Any, inputs: Mapping[str, object]) -> Iterator[list[str]]:  # noqa: ANN401 - a Flyte task
    """Yield the command for the entry point of a pod; its inputs stand in a file meanwhile."""
    a0 = shutil.which("a0", path=str(Path(sys.executable).parent)) or shutil.which("a0")
    assert a0 is not None, "the SDK's entry point is not installed beside this interpreter"
    message = asyncio.run(convert_from_native_to_inputs(task.native_interface, **inputs)).proto_inputs
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "inputs.pb")
        file.write_bytes(message.SerializeToString())
        where = {"inputs": str(file), "outputs-path": place, "run-base-dir": place, "raw-data-path": place}
        who = {"version": "1", "name": "a0", "run-name": "by-hand", "project": "p", "domain": "d", "org": "o"}
        resolver = "flyte._internal.resolvers.default.DefaultTaskResolver"
        options = [part for name, value in {**where, **who}.items() for part in (f"--{name}", value)]
        named = ["mod", task.func.__module__, "instance", task.short_name]
        yield [a0, *options, "--resolver", resolver, *named]


def edge_mib(command: Sequence[str], low_mib: int, high_mib: int) -> int:
    """Return the smallest limit that passes, in MiB; the lower one must fail and the higher one pass."""
    assert held(command, high_mib * MIB)
    assert not held(command, low_mib * MIB)
    while high_mib - low_mib > 1:
        middle = (low_mib + high_mib) // 2
        if held(command, middle * MIB):
            high_mib = middle
        else:
            low_mib = middle
    return high_mib
