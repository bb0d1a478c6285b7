"""Whatever of ours cannot be written is a system error, which names the file, its size and the reason.

Each file that is written for a run: payloads, inputs, results and answers, of tasks, of cells, and of calls from task
to task. The disk is full, or a limit holds every process of ours to small files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from programs import error_of, facts_of, small_disk

from flyte_notebook.core import private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.root, pytest.mark.linux]

PROGRAM = """
import resource, tempfile
import pandas as pd
from flyte_notebook.sdk.celltask import cell_task, read_cell

LARGE = 1_500_000
ballast = os.urandom(LARGE)
made = b""

@env.task
async def with_payload() -> int:
    return len(ballast)

@env.task
async def length(value: bytearray) -> int:
    return len(value)

@env.task
async def length_of_made() -> int:
    return len(made)

@env.task
async def calls_with_payload() -> int:
    globals()["made"] = os.urandom(LARGE)
    return await length_of_made()

@env.task
async def calls_with_input() -> int:
    return await length(bytearray(LARGE))

@env.task
async def grown() -> bytearray:
    return bytearray(LARGE)

@env.task(cache="auto")
async def cached() -> bytearray:
    return bytearray(LARGE)

@env.task
async def texts() -> tuple[str, str, str]:
    return "a" * (LARGE // 3), "b" * (LARGE // 3), "c" * (LARGE // 3)

@env.task
async def framed() -> pd.DataFrame:
    return pd.DataFrame({"value": list(os.urandom(LARGE))})

@env.task
async def calls_grown() -> int:
    return len(await grown())

@env.task
async def calls_texts() -> int:
    return sum(map(len, await texts()))

def cell(source, **inputs):
    parts = read_cell(source, inputs)
    return cell_task("cell", parts), tuple(parts.inputs.values())

result, _ = cell(f"bytes({LARGE})")
given, values = cell("len(value)", value=bytearray(LARGE))

writes = {
    "the payload": lambda: facts_of(with_payload),
    "an input": lambda: facts_of(length, bytearray(LARGE)),
    "an input of a cell": lambda: facts_of(given, *values),
    "a result": lambda: facts_of(grown),
    "a result of a cell": lambda: facts_of(result),
    "a result that is cached": lambda: facts_of(cached),
    "an answer": lambda: facts_of(texts),
    "the payload of a call": lambda: facts_of(calls_with_payload),
    "an input of a call": lambda: facts_of(calls_with_input),
    "a result of a call": lambda: facts_of(calls_grown),
    "an answer of a call": lambda: facts_of(calls_texts),
}

with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    break_it()
    found = {name: write() for name, write in writes.items()}
    beside, table = facts_of(add, 3, 4), facts_of(framed)
    mend_it()
    after = {name: write() for name, write in writes.items()} if mended else {}
    facts(found=found, beside=beside, table=table, after=after, directory=session.engine.directory.path)
"""
FULL = """
ballast_file = Path(os.environ["TMPDIR"], "ballast")
mended = True

def break_it():
    with ballast_file.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass

def mend_it():
    ballast_file.unlink()
"""
LIMITED = """
mended = False

def mend_it():
    pass

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
def break_it():
    pass
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a disk of 24 MiB."""
    with small_disk(tmp_path / "disk", 24) as place:
        yield place


@pytest.mark.parametrize(
    ("fault", "reason"), [(FULL, "No space left on device"), (LIMITED, "File too large")], ids=["full", "limited"]
)
def test_each_write_that_fails_is_said(disk: Path, tmp_path: Path, fault: str, reason: str) -> None:
    """Eleven kinds of files, each with path, size and reason in the message; with room again all of them work."""
    before, after = PROGRAM.split("LARGE = ", 1)
    program = f"{before}{fault}\nLARGE = {after}"
    environ = {"TMPDIR": str(disk), "XDG_CACHE_HOME": str(disk / "cache"), "HOME": str(tmp_path)}
    said = facts_of(program, tmp_path, environ=environ)
    assert {"outputs": ["7"]} == said["beside"]
    for name, found in said["found"].items():
        assert ("RuntimeSystemError", "Interrupted") == (found.get("error"), found.get("code")), (name, found)
        assert f"{reason}: 1.4 MiB cannot be written to {disk}" in found["message"], (name, found)
        assert reason in found["headline"], (name, found)
    assert "RuntimeSystemError" == said["table"]["error"]  # it is the SDK that writes it
    assert f"{reason}: a value cannot be written to {disk}" in said["table"]["message"]
    for name, found in said["after"].items():
        assert "outputs" in found, (name, found)
    assert 11 == len(said["found"])


def test_an_answer_that_the_notebook_cannot_hand_on_is_said(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of a call arrives in the notebook, and cannot be written for who called: a system error, with all."""
    write = private.write

    def refusing(path: str, data: bytes) -> None:
        if path.endswith(".parcel"):
            raise private.unwritable(path, len(data), OSError(28, "No space left on device"))
        write(path, data)

    assert 1_500_000 == flyte.run(calls_texts, 500_000).outputs()[0]
    with monkeypatch.context() as broken:
        broken.setattr(private, "write", refusing)
        error = error_of(calls_texts, 500_000)
    assert flyte.errors.RuntimeSystemError is type(error)
    assert f"No space left on device: 1.4 MiB cannot be written to {session.engine.directory.path}" in str(error)


env = flyte.TaskEnvironment(name="unwritable", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
async def texts(size: int) -> tuple[str, str, str]:
    return "a" * size, "b" * size, "c" * size


@env.task
async def calls_texts(size: int) -> int:
    found: Any = await texts(size)
    return sum(map(len, found))
