"""What is large travels as a file, is charged to the one who receives it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import numpy as np
import pytest

import flyte_notebook as fn

if TYPE_CHECKING:
    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("session")]

MANY = 6_000_000
MOST_INLINE = 100 << 20

env = flyte.TaskEnvironment(name="large", resources=flyte.Resources(cpu=1, memory="250Mi"))
numbers = np.arange(1 << 19)
"""A global of 4 MiB, which travels with each task that reads it."""


@env.task
def summed(more: int) -> int:
    return int(numbers.sum()) + more


@env.task
def lost_once(place: str) -> int:
    if not Path(place).exists():
        Path(place).touch()
        os._exit(3)
    return int(numbers.sum())


@env.task
def refuses() -> int:
    raise ValueError(int(numbers[-1]))


@env.task(max_inline_io_bytes=MOST_INLINE)
async def text(size: int) -> str:
    return "x" * size


@env.task(max_inline_io_bytes=MOST_INLINE)
async def doubled(value: str) -> str:
    return value + value


@env.task(max_inline_io_bytes=MOST_INLINE)
async def chained(size: int) -> str:
    return await doubled(await text(size))


def outputs(task: Any, *args: Any) -> Any:
    return flyte.run(task, *args).outputs()[0]


@pytest.fixture
def files(session: Session) -> Any:
    """Return what lists the files that the session holds for payloads and answers, and nothing that stays by itself."""

    def listed() -> list[str]:
        found = [path.name for path in Path(session.engine.directory.path).iterdir()]
        return sorted(name for name in found if name.endswith((".payload", ".parcel")))

    assert [] == listed()
    return listed


def test_a_large_global_travels_with_the_task_and_its_file_goes(files: Any) -> None:
    """A task may read a large array of the notebook; nothing is left when it is over."""
    assert int(numbers.sum()) + 5 == outputs(summed, 5)
    assert [] == files()


def test_an_attempt_that_is_replaced_gets_the_same_file(session: Session, tmp_path: Path, files: Any) -> None:
    """A worker that is lost has not taken the payload with it."""
    session.system_retries = 1
    try:
        assert int(numbers.sum()) == outputs(lost_once, str(tmp_path / "place"))
    finally:
        session.system_retries = 0
    assert [] == files()


def test_a_failed_task_with_a_large_global_can_be_repeated(session: Session, files: Any) -> None:
    """Its payload is kept apart from the one that went with the job."""
    with pytest.raises(flyte.errors.RuntimeUserError) as caught:
        outputs(refuses)
    assert [] == files()
    worker = caught.value.failure.worker  # type: ignore[attr-defined]  # every error that reaches the user has it
    assert ({}, "large.refuses") == (session.repeats.find(worker).arguments(), session.repeats.find(worker).task.name)


def test_large_answers_and_large_nested_inputs_travel(files: Any) -> None:
    """Text of several MiB, from a task, into a nested one and back, by way of the kernel; no file stays."""
    assert 2 * MANY == len(outputs(chained, MANY))
    assert [] == files()


def test_a_goodbye_does_not_leave_a_child_behind() -> None:
    """A task that leaves a process behind is over when that process is gone."""
    pid = outputs(leaves_a_child)
    until_s = time.monotonic() + 10  # it leaves its group a moment before its state says that it has ended
    while runs(pid):
        assert time.monotonic() < until_s


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@env.task
def leaves_a_child() -> int:
    import subprocess  # noqa: PLC0415 - needed in the worker only

    return subprocess.Popen(["sleep", "100"], start_new_session=True).pid


def test_what_the_kernel_measured_is_there_after_a_goodbye() -> None:
    """A short attempt has its peak, its baseline and an exit status of 0, though nobody waited for the process."""
    assert 5 == len(asyncio.run(short()))
    assert fn.last_run is not None
    (attempt,) = fn.last_run.actions[0].attempts
    assert attempt.outcome is not None
    assert 0 == attempt.outcome.report.exit_status
    trace = attempt.trace
    assert trace.baseline_bytes is not None
    assert trace.peak_bytes is not None
    assert 20 << 20 < trace.baseline_bytes <= trace.peak_bytes < 100 << 20


async def short() -> str:
    found: str = (await flyte.run.aio(text, 5)).outputs()[0]
    return found
