"""Programs of their own, for faults that would hurt the process that tests; and what every test of a fault asks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import flyte
import flyte.errors
import pytest

from flyte_notebook.limiters.control_groups import own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

BOUND_S = 100.0
"""Of every wait; a test may take a little longer."""

PRELUDE = """
import asyncio, json, os, resource, subprocess, sys, threading, time
from pathlib import Path
import flyte, flyte.errors
import flyte_notebook as fn
from flyte_notebook.sdk import enforcement

env = flyte.TaskEnvironment(name="faults", resources=flyte.Resources(cpu=1, memory="250Mi"))

@env.task
async def add(a: int, b: int) -> int:
    return a + b

def facts_of(task, *arguments):
    try:
        return {"outputs": [str(value) for value in flyte.run(task, *arguments).outputs()]}
    except flyte.errors.BaseRuntimeError as error:
        failure = error.failure
        return {"error": type(error).__name__, "code": error.code, "message": str(error), "headline": failure.headline}

def facts(**found):
    print("FACTS " + json.dumps(found), flush=True)  # one write: what others say may come between two

flyte.init()
"""


def facts_of(
    program: str,
    directory: Path,
    *,
    environ: Mapping[str, str] | None = None,
    group: Path | None = None,
    bound_s: float = BOUND_S,
) -> Any:
    """Run a program to its end, inside a control group if one is given; return what it says by ``facts``."""
    with started(program, directory, environ=environ, group=group) as process:
        said, _ = process.communicate(timeout=bound_s)
    assert 0 == process.returncode, said
    return json.loads(said.partition("FACTS ")[2].splitlines()[0])


@contextlib.contextmanager
def started(  # noqa: PLR0913 - all that a process can be started with, by name
    program: str,
    directory: Path,
    *,
    environ: Mapping[str, str] | None = None,
    group: Path | None = None,
    prefix: Sequence[str] = (),
    stdin: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Start a program in a terminal session of its own, ``prefix`` before its command; kill what is left of it."""
    script = Path(directory, f"program-{time.monotonic_ns()}.py")
    script.write_text(PRELUDE + program)
    join = [] if group is None else ["/bin/sh", "-c", f'echo $$ > "{group}/cgroup.procs"; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*join, *prefix, sys.executable, str(script)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environ or {})},
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def groups(session: str) -> set[Path]:
    """Return the control groups of a session."""
    bases = {base[0] for base in map(own, ("memory", "cpu", "pids", "")) if base is not None}
    return {path for base in bases for path in Path(base, session).glob("**/")}


def read_until(process: subprocess.Popen[str], word: str, count: int = 1) -> str:
    """Read lines until a word stood in so many of them; return the last."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        count -= word in line
        if count == 0:
            return line
    pytest.fail(f"the program ended before it said {word!r}:\n{text}")


def until(true: Callable[[], T], bound_s: float = BOUND_S) -> T:
    """Wait until something is true, and return it."""
    until_s = time.monotonic() + bound_s
    while not (found := true()):
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.01)
    return found


def error_of(task: Any, *args: Any) -> Any:
    """Run a task that must fail, and return its error."""
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


@contextlib.contextmanager
def small_disk(place: Path, size_mib: int) -> Iterator[Path]:
    """Give a directory on a disk of its own; skips the test where no file system may be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("no file system may be mounted")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
