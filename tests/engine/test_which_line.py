"""The line that was executing when a task was killed: planted programs, each with one line marked by its own name."""

from __future__ import annotations

import asyncio
import copy
import ctypes
import importlib
import itertools
import json
import mmap
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from bounds import SLOWER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

MIB = 1 << 20
SECOND = round(SLOWER)
"""Time enough to have begun, for a task that is stopped."""
PAUSE_S = 0.03 * SLOWER
"""Long beside a step that takes memory."""
env = flyte.TaskEnvironment(name="planted", resources=flyte.Resources(cpu=1, memory="160Mi"))
large = flyte.TaskEnvironment(name="planted_large", resources=flyte.Resources(cpu=1, memory="300Mi"))

MODULE = """
def grow(kept):
    kept.append(bytearray(1 << 20))  # in_a_module


def start():
    kept = []
    while True:
        grow(kept)
"""


@env.task
def one_call() -> None:
    begun = [1]
    begun += bytearray(600 * MIB)  # one_call


@env.task
def one_call_at_the_end() -> None:
    kept = [bytearray(MIB) for _ in range(40)]
    time.sleep(0.3)
    more = bytes(300 * MIB).replace(b"\0", b"\1")  # one_call_at_the_end
    kept.append(bytearray(more))


@env.task
def repeated() -> None:
    row = [0] * 10
    row = row * 20_000_000  # repeated
    row.clear()


@env.task
def in_a_loop() -> None:
    kept = []
    for number in range(1_000_000):
        square = number * number
        kept.append(bytearray(MIB))  # in_a_loop
        assert square >= 0


@env.task
def comprehended() -> None:
    numbers = list(range(10))
    strings = [str(number).rjust(100) for number in range(10_000_000)]  # comprehended
    assert strings, numbers


@env.task
def joined() -> None:
    text = "a" * MIB
    text = "".join([text] * 1000)  # joined
    assert text


def deeper(depth: int) -> Any:
    if depth:
        return deeper(depth - 1)
    return bytearray(600 * MIB)  # in_a_helper


@env.task
def in_a_helper() -> None:
    deeper(20)


def chunks() -> Iterator[bytearray]:
    while True:
        yield bytearray(MIB)  # in_a_generator


@env.task
def in_a_generator() -> None:
    list(chunks())


class Holder:
    def __init__(self, size: int) -> None:
        self.size = size
        self.data = bytearray(size)  # in_a_method


@env.task
def in_a_method() -> None:
    Holder(600 * MIB)


@env.task
def on_many_lines() -> None:
    parts = [bytearray(MIB)] * 500
    whole = b"".join(  # on_many_lines
        [
            bytes(1),
            *parts,
        ]
    )
    assert whole


@env.task
def in_a_library() -> None:
    tree = [{"key": [number]} for number in range(60_000)]
    copies = [
        tree,
    ]
    while True:
        copies.append(copy.deepcopy(tree))  # in_a_library


@env.task
def in_json() -> None:
    items = list(range(300_000)) * 40
    text = json.dumps(items)  # in_json
    assert text


@env.task
def in_a_thread() -> None:
    kept = []

    def eat() -> None:
        while True:
            kept.append(bytearray(MIB))  # in_a_thread

    def idle() -> None:
        while True:
            time.sleep(0.001)

    threads = [threading.Thread(target=target, daemon=True) for target in (idle, eat, idle)]
    for thread in threads:
        thread.start()
    threads[0].join()


@env.task
def in_a_pool() -> None:
    def wait(seconds: float) -> None:
        time.sleep(seconds)

    def eat(size: int) -> Any:
        return bytearray(size)  # in_a_pool

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(wait, 30), pool.submit(eat, 600 * MIB)]
        futures[0].result()


@env.task
def recursive() -> None:
    sys.setrecursionlimit(10_000)

    def down(depth: int) -> None:
        room = bytearray(MIB)  # recursive
        if depth < 5_000:
            down(depth + 1)
        assert room

    down(0)


@env.task
def mapped() -> None:
    area = mmap.mmap(-1, 600 * MIB)
    page = b"\1" * MIB
    for place in range(600):
        area.seek(place * MIB)
        area.write(page)  # mapped


@env.task
def after_freeing() -> None:
    first = bytearray(90 * MIB)
    del first
    time.sleep(0.05)
    second = bytearray(90 * MIB)
    third = bytearray(90 * MIB)  # after_freeing
    assert second, third


@env.task
def in_a_child() -> None:
    program = "x = bytearray(2 ** 30); import time; time.sleep(60)"
    subprocess.run([sys.executable, "-c", program], check=False)  # in_a_child
    time.sleep(60)


def eat_in_a_fork() -> None:
    kept = []
    while True:
        kept.append(bytearray(MIB))


@env.task
def in_a_fork() -> None:
    process = multiprocessing.get_context("fork").Process(target=eat_in_a_fork)
    process.start()
    process.join(60)  # in_a_fork
    time.sleep(60)


@env.task
async def in_a_coroutine() -> None:
    kept = []

    async def eat() -> None:
        while True:
            await asyncio.sleep(0)
            kept.append(bytearray(MIB))  # in_a_coroutine

    await asyncio.gather(asyncio.sleep(60), eat())


@env.task
def in_a_module(directory: str) -> None:
    sys.path.insert(0, directory)
    importlib.import_module("planted_module").start()


@large.task
def in_numpy() -> None:
    import numpy as np  # noqa: PLC0415 - in the worker

    small = np.ones(10)
    array = np.ones(200 * MIB)  # in_numpy
    assert array.sum() > small.sum()


@large.task
def in_pandas() -> None:
    import numpy as np  # noqa: PLC0415 - in the worker
    import pandas as pd  # noqa: PLC0415 - in the worker

    left = pd.DataFrame({"key": np.zeros(4_000, dtype=int), "value": range(4_000)})
    merged = left.merge(left, on="key")  # in_pandas
    assert len(merged)


@env.task(timeout=SECOND)
def spinning() -> None:
    total = sum(number % 7 for number in itertools.count())  # spinning
    assert total


@env.task(timeout=SECOND)
def asleep() -> None:
    begun = time.monotonic()
    time.sleep(60)  # asleep
    assert begun


@env.task(timeout=SECOND)
def matching() -> None:
    text = "a" * 40
    re.match("(a+)+b", text)  # matching


@env.task(timeout=SECOND)
def deadlocked() -> None:
    lock = threading.Lock()
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    with lock:
        lock.acquire()  # deadlocked


@env.task(timeout=SECOND)
async def blocking() -> None:
    await asyncio.sleep(0.01)
    time.sleep(60)  # blocking # noqa: ASYNC251 - the mistake is planted


@env.task
def killed() -> None:
    time.sleep(0.2)
    subprocess.run(["sh", "-c", f"sleep 0.2; kill -9 {os.getpid()}; sleep 60"], check=False)  # killed


@env.task
def crashed() -> None:
    libc = ctypes.CDLL(None)
    _ = libc.usleep(800_000), signal.raise_signal(signal.SIGSEGV)  # crashed


@env.task(timeout=SECOND)
async def waiting() -> None:
    async def longer() -> None:
        await asyncio.sleep(60)  # waiting

    await longer()


@env.task(timeout=SECOND)
async def gathering() -> None:
    await asyncio.gather(asyncio.sleep(60), asyncio.sleep(0))  # gathering


def failure_of(task: Any, *args: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value.failure  # type: ignore[attr-defined]  # ours


KILLED = [
    one_call,
    one_call_at_the_end,
    repeated,
    in_a_loop,
    comprehended,
    joined,
    in_a_helper,
    in_a_generator,
    in_a_method,
    on_many_lines,
    in_a_library,
    in_json,
    in_a_thread,
    in_a_pool,
    recursive,
    mapped,
    after_freeing,
    in_a_child,
    in_a_fork,
    in_a_coroutine,
    in_numpy,
    in_pandas,
]
STOPPED = [spinning, asleep, matching, deadlocked, blocking, waiting, gathering]


@pytest.mark.parametrize("task", KILLED, ids=lambda task: task.short_name)
def test_the_line_that_took_the_memory(task: Any) -> None:
    """A task killed for memory names the line it was at, in one C call or many, in whatever thread and function."""
    failure = failure_of(task)
    assert "memory" == failure.reason
    assert failure.line is not None
    assert failure.line.text.endswith(f"# {task.short_name}")
    assert failure.line == failure.lines[-1]
    assert failure.line.text[:40] in failure.headline


@pytest.mark.parametrize("task", STOPPED, ids=lambda task: task.short_name)
def test_the_line_where_it_stood_when_its_time_was_up(task: Any) -> None:
    """A task that is stopped names the line it stands at, read right before it is killed."""
    failure = failure_of(task)
    assert "max_runtime" == failure.reason
    assert "stopped" == failure.report.last_line.how
    assert f"# {task.short_name}" in failure.line.text


@pytest.mark.parametrize("task", [killed, crashed], ids=lambda task: task.short_name)
def test_the_line_when_a_signal_ended_it(task: Any) -> None:
    """A task that a signal ended, of somebody else or of its own fault, names the line it was last seen at."""
    failure = failure_of(task)
    assert "signalled" == failure.reason
    assert f"# {task.short_name}" in failure.line.text
    assert "sampled" == failure.report.last_line.how


def test_the_line_in_a_module_of_the_user(tmp_path: Path) -> None:
    """Code that a task calls in a module of the user's is named by its own file, below the line that called it."""
    (tmp_path / "planted_module.py").write_text(MODULE)
    failure = failure_of(in_a_module, str(tmp_path))
    assert str(tmp_path / "planted_module.py") == failure.line.file
    assert failure.line.text.endswith("# in_a_module")
    assert ["in_a_module", "start", "grow"] == [line.function for line in failure.lines]


guide = flyte.TaskEnvironment(name="failure_handling", resources=flyte.Resources(cpu=1, memory="250Mi"))


@guide.task
def oomer(x: int) -> int:
    large_list = [0] * 100_000_000 * x
    return len(large_list)


def test_the_oomer_of_the_guide_names_its_line() -> None:
    """The guide's own task names the line that took the memory, first in its table of growth as well."""
    failure = failure_of(oomer, 1000)
    assert "large_list = [0] * 100_000_000 * x" == failure.line.text
    assert failure.line == failure.report.grew[0].line
    assert failure.report.grew[0].grew_bytes > 100 * MIB


def test_the_lines_that_memory_grew_on() -> None:
    """What memory grew by stands beside the line that took it, and little of it beside any other."""
    failure = failure_of(in_a_loop)
    first, *others = failure.report.grew
    assert first.line.text.endswith("# in_a_loop")
    assert first.grew_bytes > 60 * MIB
    assert sum(abs(other.grew_bytes) for other in others) < first.grew_bytes / 4


@env.task
def in_steps() -> None:
    kept = []
    # The first step takes so long that it is seen, however busy the machine: of those after it none need be.
    for source in itertools.chain([itertools.repeat(1, 10 * MIB)], itertools.repeat(6 * MIB)):
        kept.append(bytearray(source))  # in_steps
        time.sleep(PAUSE_S)


@pytest.mark.alone
def test_a_line_that_sleeps_is_not_what_took_the_memory() -> None:
    """A loop that leaks and waits is seen waiting nearly always: the growth stands beside the line that leaks.

    So does, nearly always, the line of the kill: the step that was too much may be over before anybody looked.
    """
    failures = [failure_of(in_steps) for _ in range(5)]
    for failure in failures:
        assert failure.report.grew[0].line.text.endswith("# in_steps")
    lines = [failure.line.text for failure in failures if failure.line is not None]
    assert 3 <= sum(line.endswith("# in_steps") for line in lines)
