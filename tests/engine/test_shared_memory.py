"""What a failed task leaves in shared memory goes with it, as with a pod; what others use or made stays."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from bounds import under_load

from flyte_notebook.limiters.shared_memory import PLACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.usefixtures("session"),
    pytest.mark.skipif(not Path(PLACE).is_dir(), reason="this system has no /dev/shm"),
]

env = flyte.TaskEnvironment(name="shared", resources=flyte.Resources(cpu=1, memory="250Mi"))
MIB = 1 << 20


@env.task
def make_and(then: str, name: str) -> int:
    import multiprocessing  # noqa: PLC0415 - in the worker
    from multiprocessing import shared_memory  # noqa: PLC0415 - in the worker

    shared = shared_memory.SharedMemory(name, create=True, size=20 << 20)
    shared.buf[: 20 << 20] = bytes(20 << 20)
    semaphore = multiprocessing.Semaphore()
    if then == "oom":
        return len(bytearray(600 << 20))
    if then.startswith("sleep"):
        Path(then.removeprefix("sleep ")).touch()
        time.sleep(60)
    if then == "raise":
        raise ValueError("with shared memory")
    if then.startswith("exit"):
        time.sleep(0.1)
        os._exit(int(then[-1]))
    if then == "kill":
        time.sleep(0.1)
        os.kill(os.getpid(), 9)
    return len(shared.buf) + semaphore.get_value() - 1


@env.task
def map_only(name: str) -> None:
    import mmap  # noqa: PLC0415 - in the worker

    with Path(f"{PLACE}/{name}").open("r+b") as file:  # before Python 3.13 its own tracker removes what is attached
        mapped = mmap.mmap(file.fileno(), 0)
    mapped[0] = 1
    time.sleep(0.2)
    os._exit(3)


@env.task
def make_a_file(name: str) -> int:
    import mmap  # noqa: PLC0415 - in the worker

    Path(f"{PLACE}/{name}").write_bytes(bytes([7]))
    with Path(f"{PLACE}/{name}").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    time.sleep(0.2)
    return mapped[0]


@env.task
def make_a_semaphore(name: str) -> None:
    import ctypes  # noqa: PLC0415 - in the worker

    library = ctypes.CDLL(None)
    library.sem_open.restype = ctypes.c_void_p
    assert library.sem_open(f"/{name}".encode(), os.O_CREAT | os.O_EXCL, 0o600, 1)
    time.sleep(0.2)
    os._exit(3)


@pytest.fixture
def name() -> Iterator[str]:
    """Give a name that nothing has; what has it afterwards is removed."""
    name = f"fnb-test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    for path in Path(PLACE).glob(f"*{name}*"):
        path.unlink()


def left(name: str) -> list[str]:
    """Return what there is of that name."""
    return sorted(path.name for path in Path(PLACE).glob(f"*{name}*"))


def until(happened: Callable[[], object]) -> None:
    """Wait until it has happened, or for so long that it never will."""
    until_s = time.monotonic() + under_load(20)
    while not happened() and time.monotonic() < until_s:
        time.sleep(0.01)


def failure_of(task: Any, *args: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value.failure


@pytest.mark.parametrize("then", ["oom", "raise", "exit 0", "exit 3", "kill"])
def test_shared_memory_of_a_task_that_failed_goes_with_it(name: str, then: str) -> None:
    """Nothing of that name is left, whatever it died of, so that the next run with it begins as the first did."""
    for _ in range(2):
        failure = failure_of(make_and, then, name)
        assert [] == left(name)
        assert "FileExistsError" not in failure.headline
        if then == "oom":
            assert "memory" == failure.reason
            assert f"removed from shared memory, as with a pod: `{name}` (20 MiB)" == failure.note


def test_shared_memory_of_a_task_that_took_too_long_goes_with_it(name: str, tmp_path: Path) -> None:
    """As above, for a task that is stopped for its time."""
    failure = failure_of(make_and.override(timeout=1), f"sleep {tmp_path}/made", name)
    assert "max_runtime" == failure.reason
    assert [] == left(name)
    assert f"`{name}` (20 MiB)" in failure.note


def test_shared_memory_of_a_task_that_is_stopped_goes_with_it(name: str, tmp_path: Path) -> None:
    """As above, for a run that its user stops."""

    async def stopped() -> None:
        running = asyncio.ensure_future(flyte.run.aio(make_and, f"sleep {tmp_path}/made", name))
        await asyncio.to_thread(until, Path(tmp_path, "made").exists)
        assert [name] == left(name)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(stopped())
    until(lambda: not left(name))
    assert [] == left(name)


def test_a_named_semaphore_of_a_task_that_failed_goes_with_it(name: str) -> None:
    """It is a file there, too, which nobody has open: it is known by what is mapped."""
    failure = failure_of(make_a_semaphore, name)
    assert "exited" == failure.reason
    assert [] == left(name)
    assert f"`sem.{name}` (4 KiB)" in failure.note


def test_shared_memory_that_was_there_before_stays(name: str) -> None:
    """A task that only maps what another process made leaves it there, with what it wrote; nothing is said of it."""
    Path(PLACE, name).write_bytes(bytes(MIB))
    assert "" == failure_of(map_only, name).note
    assert b"\1" == Path(PLACE, name).read_bytes()[:1]


def test_shared_memory_that_somebody_else_uses_stays_and_is_named(name: str, tmp_path: Path) -> None:
    """What the task made and another process has mapped is left, and the failure says who uses it."""
    program = """if 1:
        import mmap, os, sys, time
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
        file = open(sys.argv[1], "r+b")
        mapped = mmap.mmap(file.fileno(), 0)
        file.close()
        print("mapped", flush=True)
        time.sleep(60)
    """
    user = subprocess.Popen(
        [sys.executable, "-c", program, f"{PLACE}/{name}", f"{tmp_path}/made"], stdout=subprocess.PIPE
    )
    try:
        failure = failure_of(make_and.override(timeout=1), f"sleep {tmp_path}/made", name)
        assert user.stdout is not None
        assert b"mapped\n" == user.stdout.readline()
    finally:
        user.kill()
        user.wait()
        user.stdout.close()
    assert [name] == left(name)
    assert f"`{name}` (20 MiB) stays in shared memory: in use by process {user.pid} (python" in failure.note


def test_shared_memory_of_a_task_that_passes_stays(name: str) -> None:
    """Whoever the task made it for may want it."""
    assert 7 == flyte.run(make_a_file, name).outputs()[0]
    assert [name] == left(name)
