"""Failed attempts are kept with their inputs, a bounded number of them, and can be repeated exactly."""

from __future__ import annotations

import asyncio
import collections
import datetime as dt
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import flyte.io
import numpy as np
import pytest
from sessions import opened_for

from flyte_notebook.core.job import Job
from flyte_notebook.core.overrides import Override
from flyte_notebook.history import Call, Cell
from flyte_notebook.sdk import repeats
from flyte_notebook.sdk.celltask import cell_task, read_cell
from flyte_notebook.sdk.repeats import INLINE_BYTES, KEPT, InputsGoneError, Repeats, with_override

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = pytest.mark.slow

MI = 2**20
env = flyte.TaskEnvironment(name="repeats", resources=flyte.Resources(cpu=1, memory=("100Mi", "200Mi")))


@dataclass
class Point:
    """A value of a user's own class."""

    x: int
    names: list[str]


@env.task
async def failing(point: Point, numbers: np.ndarray, file: flyte.io.File, count: int = 3) -> int:
    """Fail, whatever it gets."""
    raise ValueError(f"{point} {numbers} {file} {count}")


@env.task(retries=2)
async def failing_often() -> int:
    """Fail at each attempt."""
    raise ValueError("again")


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Return the open session; the tasks of this module travel by value."""
    with opened_for(sys.modules[__name__]) as opened:
        yield opened


def job(number: int, size_bytes: int = 10, *, run: str | None = None, attempt: int = 0) -> Job:
    """Return a job that nobody can run."""
    payload = b"x" * size_bytes
    return Job(label="t", run=run or f"r{number}", action="a0", entry="m:f", payload=payload, attempt=attempt)


def stored(place: Path) -> int:
    """Return how many files there are."""
    return len(list(place.iterdir()))


def failure_of(call: Any) -> Any:
    """Return the failure of something that must fail."""
    with pytest.raises(flyte.errors.RuntimeUserError) as caught:
        call()
    return caught.value.failure  # type: ignore[attr-defined]  # every error that reaches the user has it


def test_only_the_last_failures_are_kept(tmp_path: Path) -> None:
    """The oldest goes first, with its file."""
    kept = Repeats(lambda: str(tmp_path))
    for number in range(KEPT + 3):
        kept.keep(job(number, INLINE_BYTES + 1))
    assert [None, None, None] == [kept.job(f"r{number}-a0-0") for number in range(3)]
    assert kept.job("r3-a0-0") is not None
    assert KEPT == stored(tmp_path)
    with pytest.raises(
        InputsGoneError, match=r"only those of the last 20 failures are, up to 1 GiB.*run its cell again"
    ):
        kept.find("r0-a0-0")


def test_small_payloads_take_no_file(tmp_path: Path) -> None:
    """They stay in memory, which is bounded by their number."""
    kept = Repeats(lambda: str(tmp_path))
    kept.keep(job(1, INLINE_BYTES))
    assert 0 == stored(tmp_path)
    held = kept.job("r1-a0-0")
    assert held is not None
    assert INLINE_BYTES == len(held.payload)


def test_files_are_kept_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above it the oldest go, however few there are."""
    monkeypatch.setattr(repeats, "KEPT_BYTES", 3 * INLINE_BYTES)
    kept = Repeats(lambda: str(tmp_path))
    for number in range(5):
        kept.keep(job(number, INLINE_BYTES + 1))
    assert 2 == stored(tmp_path)
    assert kept.job("r4-a0-0") is not None
    kept.keep(job(5, 4 * INLINE_BYTES))
    assert 0 == stored(tmp_path)


def test_a_retry_replaces_the_attempt_before_it(tmp_path: Path) -> None:
    """They have the same inputs; actions of other runs stay."""
    kept = Repeats(lambda: str(tmp_path))
    kept.keep(job(1, INLINE_BYTES + 1, run="r"))
    kept.keep(job(2, INLINE_BYTES + 1))
    kept.keep(job(1, INLINE_BYTES + 1, run="r", attempt=1))
    assert (None, True, True) == (
        kept.job("r-a0-0"),
        kept.job("r-a0-1") is not None,
        kept.job("r2-a0-0") is not None,
    )
    assert 2 == stored(tmp_path)


def test_a_file_that_is_gone_or_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Neither raises where a failure is kept."""
    kept = Repeats(lambda: str(tmp_path))
    kept.keep(job(1, INLINE_BYTES + 1))
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(InputsGoneError, match="No such file"):
        kept.find("r1-a0-0")
    kept.clear()
    nowhere = Repeats(lambda: str(tmp_path / "not" / "there"))
    nowhere.keep(job(1, INLINE_BYTES + 1))
    assert nowhere.job("r1-a0-0") is None


def test_everything_can_be_forgotten(tmp_path: Path) -> None:
    """No file stays, and nothing is found; twice is as once."""
    kept = Repeats(lambda: str(tmp_path))
    kept.keep(job(1, INLINE_BYTES + 1))
    kept.keep(job(2))
    kept.clear()
    kept.clear()
    assert (0, None) == (stored(tmp_path), kept.job("r2-a0-0"))


def test_many_threads_may_keep_and_look(tmp_path: Path) -> None:
    """None raises, and the bound holds."""
    kept = Repeats(lambda: str(tmp_path))
    raised: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 100):
                kept.keep(job(number, INLINE_BYTES + 1))
                kept.job(f"r{number - 1}-a0-0")
        except BaseException as error:  # noqa: BLE001 - told to the test
            raised.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ([], KEPT) == (raised, stored(tmp_path))


@pytest.mark.linux
def test_a_plain_task_and_its_inputs_come_back(session: Session, tmp_path: Path) -> None:
    """A dataclass, an array and a file are what they were; the default counts as an input."""
    source = tmp_path / "file.txt"
    source.write_text("content")
    failure = failure_of(
        lambda: flyte.run(failing, Point(x=1, names=["a"]), np.arange(5), flyte.io.File.from_local_sync(str(source)))
    )
    repeat = session.repeats.find(failure.worker)
    assert failing.name == repeat.task.name
    values = repeat.arguments()
    assert {"point", "numbers", "file", "count"} == set(values)
    assert (1, ["a"], 3) == (values["point"].x, values["point"].names, values["count"])
    assert [0, 1, 2, 3, 4] == values["numbers"].tolist()
    with values["file"].open_sync("rb") as file:
        assert b"content" == file.read()
    task = with_override(repeat.task, Override(memory_bytes=300 * MI))
    again = failure_of(lambda: session.run(session.begin(task.name, Call()), task, (), values))
    assert 300 * MI == again.limits.memory_bytes
    assert failure.message.partition(" [")[0] == again.message.partition(" [")[0]


@pytest.mark.linux
async def test_inputs_can_be_read_where_a_loop_runs(session: Session) -> None:
    """As on the main thread of a notebook."""
    failure = await asyncio.to_thread(failure_of, lambda: flyte.run(failing_often))
    assert {} == session.repeats.find(failure.worker).arguments()


@pytest.mark.linux
def test_of_retries_the_last_attempt_is_kept(session: Session) -> None:
    """Its worker is the one on the card."""
    failure = failure_of(lambda: flyte.run(failing_often))
    assert failure.worker.endswith("-2")
    assert session.repeats.job(failure.worker) is not None
    assert session.repeats.job(failure.worker[:-1] + "1") is None


VALUES = {
    "a tuple": (1, "a", None),
    "a large integer": 2**70,
    "an ordered dictionary": collections.OrderedDict(b=1, a=2),
    "a naive datetime": dt.datetime(2024, 1, 1, 12),  # noqa: DTZ001 - the SDK would make it UTC
    "a set": {1, 2},
    "text": 'it\'s "so" \u202e',
    "an exception": ValueError("kept"),
    "bytes in a file": b"x" * (2 * MI),
}


@pytest.mark.linux
def test_a_cell_and_its_pickled_inputs_come_back(session: Session) -> None:
    """Exactly, whatever the notebook did to its own since; large ones from their files."""
    names = {f"v{index}": value for index, value in enumerate(VALUES.values())}
    listed = [1, 2]
    parts = read_cell(f"used = ({', '.join(names)}, listed)\n1 / 0", {**names, "listed": listed}, filename="<c>")
    task = cell_task("cell", parts)
    failure = failure_of(lambda: session.run(session.begin("cell", Cell()), task, tuple(parts.inputs.values())))
    listed.append(3)
    repeat = session.repeats.find(failure.worker)
    values = repeat.arguments()
    assert [1, 2] == values.pop("listed")
    assert "kept" == str(values["v6"])
    assert [type(value) for value in VALUES.values()] == [type(values[name]) for name in names]
    same = [name for name in names if name != "v6"]
    assert {name: names[name] for name in same} == {name: values[name] for name in same}
    assert (task.cell.source, task.cell.version) == (repeat.task.cell.source, repeat.task.cell.version)


@pytest.mark.linux
def test_a_large_input_whose_file_is_gone_is_said(session: Session) -> None:
    """The SDK wraps what it met; the sentence is ours."""
    parts = read_cell("len(big)\n1 / 0", {"big": b"x" * (2 * MI)}, filename="<c>")
    failure = failure_of(
        lambda: session.run(session.begin("cell", Cell()), cell_task("cell", parts), tuple(parts.inputs.values()))
    )
    repeat = session.repeats.find(failure.worker)
    for literal in repeat._inputs.proto_inputs.literals:
        Path(literal.value.scalar.blob.uri).unlink()
    with pytest.raises(InputsGoneError, match="the inputs of this attempt are not kept any more"):
        repeat.arguments()


def test_every_setting_can_be_overridden() -> None:
    """What is not overridden stays, and the task itself is as before."""
    other = flyte.TaskEnvironment(name="o", resources=flyte.Resources(cpu=1, memory="100Mi", shm="auto"))
    bounds = flyte.Timeout(max_runtime=30, deadline=dt.timedelta(minutes=5))

    @other.task(retries=2, timeout=bounds)
    async def task() -> None:
        """Do nothing."""

    changed = with_override(task, Override(memory_bytes=2**30, cpu_cores=0.5, max_runtime_s=0.5, retries=0))
    assert flyte.Resources(cpu="500m", memory="1Gi", shm="auto") == changed.resources
    assert dt.timedelta(seconds=0.5) == changed.timeout.max_runtime
    assert bounds.deadline == changed.timeout.deadline
    assert 0 == changed.retries.count
    assert (flyte.Resources(cpu=1, memory="100Mi", shm="auto"), bounds, flyte.RetryStrategy(count=2)) == (
        task.resources,
        task.timeout,
        task.retries,
    )
    assert task is with_override(task, Override())
    assert task.retries == with_override(task, Override(memory_bytes=2**30)).retries


def test_a_reusable_task_keeps_its_resources() -> None:
    """The SDK refuses with a sentence of its own; other settings can be overridden."""
    image = flyte.Image.from_debian_base().with_pip_packages("unionai-reuse")
    other = flyte.TaskEnvironment(name="r", reusable=flyte.ReusePolicy(replicas=1, concurrency=1), image=image)

    @other.task
    async def task() -> None:
        """Do nothing."""

    with pytest.raises(ValueError, match="Cannot override resources when reusable is set"):
        with_override(task, Override(memory_bytes=2**30))
    assert 3 == with_override(task, Override(retries=3)).retries.count
