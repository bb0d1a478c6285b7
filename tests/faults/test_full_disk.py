"""A disk without room: what cannot be written is said by the run that needed it, and with room again the next works.

The disk is a file system in memory of 4 MiB, mounted for the test, and the directory for temporary files is on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from programs import facts_of, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.cgroup, pytest.mark.root]

PROGRAM = """
import tempfile

@env.task
async def length(value: str) -> int:
    return len(value)

@env.task
async def refuse(value: str) -> int:
    raise ValueError(len(value))

@env.task
async def long_text(characters: int) -> str:
    return "x" * characters

class Held:
    def __init__(self, size): self.data = os.urandom(size)

@env.task
async def writes(size: int) -> int:
    return Path(os.environ["TMPDIR"], "own").write_bytes(bytes(size))

@env.task
async def size_of(held: Held) -> int:
    return len(held.data)

ballast = Path(tempfile.gettempdir(), "ballast")

def fill():
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass

def raised_by(task, *arguments):
    "As facts_of, for what the SDK raises before it starts anything."
    try:
        return facts_of(task, *arguments)
    except Exception as error:
        texts = []
        cause = error
        while cause is not None:
            texts.append(str(cause))
            cause = cause.__cause__ or cause.__context__
        return {"error": type(error).__name__, "message": " / ".join(texts), "headline": ""}

with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    assert facts_of(add, 1, 2) == {"outputs": ["3"]}
    fill()
    found = FOUND
    beside = facts_of(add, 3, 4)
    ballast.unlink()
    facts(found=found, beside=beside, after=AFTER, left=sorted(os.listdir(session.engine.directory.path)))
"""

NO_SPACE = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a disk of 4 MiB."""
    with small_disk(tmp_path / "disk", 4) as place:
        yield place


def on_full(disk: Path, tmp_path: Path, found: str, after: str) -> dict[str, dict[str, str]]:
    program = PROGRAM.replace("FOUND", found).replace("AFTER", after)
    facts: dict[str, dict[str, str]] = facts_of(program, tmp_path, environ={"TMPDIR": str(disk)})
    assert {"outputs": ["7"]} == facts["beside"]
    assert [] == [name for name in facts["left"] if name.endswith(".payload")]
    return facts


def test_a_payload_that_cannot_be_written_is_a_system_error(disk: Path, tmp_path: Path) -> None:
    """Inputs above what travels inline need a file: the worker that waits for them is ended, the error says why."""
    facts = on_full(disk, tmp_path, "facts_of(length, 'x' * 1_500_000)", "facts_of(length, 'x' * 1_500_000)")
    assert ("RuntimeSystemError", "Interrupted") == (facts["found"]["error"], facts["found"]["code"])
    assert NO_SPACE in facts["found"]["message"]
    assert NO_SPACE in facts["found"]["headline"]
    assert {"outputs": ["1500000"]} == facts["after"]


def test_a_result_that_needs_no_disk_does_not_mind(disk: Path, tmp_path: Path) -> None:
    """A result inside the bound for inline values travels over the channel."""
    facts = on_full(disk, tmp_path, "facts_of(long_text, 900_000)", "facts_of(add, 1, 1)")
    assert 900_000 == len(facts["found"]["outputs"][0])


def test_a_file_that_a_task_cannot_write_is_its_own_error(disk: Path, tmp_path: Path) -> None:
    """What user code writes fails as anywhere: RuntimeUserError, code OSError, the kernel's words."""
    facts = on_full(disk, tmp_path, "facts_of(writes, 1_000_000)", "facts_of(writes, 1_000_000)")
    assert ("RuntimeUserError", "OSError") == (facts["found"]["error"], facts["found"]["code"])
    assert NO_SPACE in facts["found"]["message"]
    assert {"outputs": ["1000000"]} == facts["after"]


def test_an_input_that_cannot_be_written_is_said(disk: Path, tmp_path: Path) -> None:
    """A pickled input is a file as well: nothing is started, and the error says why."""
    facts = on_full(disk, tmp_path, "raised_by(size_of, Held(3_000_000))", "facts_of(size_of, Held(3_000_000))")
    assert NO_SPACE in facts["found"]["message"]
    assert {"outputs": ["3000000"]} == facts["after"]


def test_a_failure_whose_inputs_cannot_be_kept_is_that_failure(disk: Path, tmp_path: Path) -> None:
    """What fails on a full disk says its own error; that its inputs are not kept is said when they are asked for."""
    kept = "session.repeats.job(fn.last_failure.worker) is not None"
    facts = on_full(disk, tmp_path, f"[facts_of(refuse, 'x' * 500_000), {kept}]", f"[facts_of(refuse, 'x'), {kept}]")
    assert ("RuntimeUserError", "ValueError", False) == (
        facts["found"][0]["error"],  # type: ignore[index]  # a list
        facts["found"][0]["code"],  # type: ignore[index]  # a list
        facts["found"][1],  # type: ignore[index]  # a list
    )
    assert facts["after"][1] is True  # type: ignore[index]  # a list


def test_it_can_be_enabled_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """Python takes another directory for temporary files then: limits are enforced, and runs work."""
    (disk / "ballast").write_bytes(bytes(4 << 20))
    program = "with fn.enable():\n    facts(found=facts_of(add, 1, 2))"
    assert {"outputs": ["3"]} == facts_of(program, tmp_path, environ={"TMPDIR": str(disk)})["found"]
