"""Real tasks wait their turn for memory and processes: never more than fit, in order, and never for ever."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import flyte
import pytest
from hand_made import limit_file
from small_machine import SmallMachine, small_machine

import flyte_notebook as fn
from flyte_notebook.errors import UnschedulableError
from flyte_notebook.limiters import machine
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

CONTAINER_BYTES = 3 << 30
TASKS = 12
AT_A_TIME = 3
"""Two of them, and the one that gathers."""

IN_CONTAINER = """
import asyncio, contextlib, json, mmap, os, time
import flyte
import flyte_notebook as fn

env = flyte.TaskEnvironment(name="many", resources=flyte.Resources(cpu=1, memory="1Gi"))
small = flyte.Resources(memory="200Mi")

@contextlib.contextmanager
def at_work():
    path = os.path.join(PLACE, str(os.getpid()))
    open(path, "w").close()
    yield
    os.remove(path)

@env.task
def use(number: int, mebibytes: int) -> list[float]:
    with at_work():
        began = time.monotonic()
        block = mmap.mmap(-1, mebibytes << 20)
        block.madvise(mmap.MADV_HUGEPAGE)  # or this test would be about page faults
        for at in range(0, len(block), mmap.PAGESIZE):
            block[at] = 1
        while number < 2 and not os.path.exists(os.path.join(PLACE, "seen")) and time.monotonic() < began + 30:
            time.sleep(0.01)
        block.close()
        return [float(number), began, time.monotonic()]

@env.task
async def use_all(count: int, mebibytes: int) -> list[list[float]]:
    with at_work():
        return list(await asyncio.gather(*(use.aio(number, mebibytes) for number in range(count))))

@env.task
async def make(path: str) -> bool:
    open(path, "w").close()
    return True

@env.task
async def wait_for(path: str) -> bool:
    until = time.monotonic() + 20
    while not os.path.exists(path) and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return os.path.exists(path)

@env.task
async def beside(path: str) -> list[bool]:
    larger = make.override(resources=flyte.Resources(memory="1300Mi"))
    return list(await asyncio.gather(wait_for(path), larger(path)))

flyte.init()
with fn.enable():
    print("FACTS " + json.dumps(flyte.run(BODY).outputs()[0]))
"""

env = flyte.TaskEnvironment(name="admission", resources=flyte.Resources(cpu=1, memory="200Mi"))
BOUND_S = 60.0


def mebibytes(share: float) -> str:
    return f"{int(machine.available_bytes() * share) >> 20}Mi"


def meet(place: str, number: int, together: int) -> None:
    """Wait until so many have come here: that they run at a time is then no matter of how fast they start."""
    Path(place, str(number)).touch()
    until = time.monotonic() + BOUND_S / 2
    while len(list(Path(place).iterdir())) < together and time.monotonic() < until:
        time.sleep(0.01)


@env.task
async def interval(number: int, seconds: float, place: str = "", together: int = 0) -> list[float]:
    """Say from when to when it ran; the clock is the machine's."""
    began = time.monotonic()
    if place:
        meet(place, number, together)
    await asyncio.sleep(seconds)
    return [float(number), began, time.monotonic()]


@env.task
async def intervals(count: int, seconds: float, memory: list[str], place: str, together: int) -> list[list[float]]:
    """Start many at once, each with a limit, or with a request and a limit."""
    wanted = (memory[0], memory[1]) if len(memory) > 1 else memory[0]
    one = interval.override(resources=flyte.Resources(cpu=1, memory=wanted))
    return list(await asyncio.gather(*(one(number, seconds, place, together) for number in range(count))))


@env.task
async def nest(levels: int) -> int:
    return 1 if levels == 1 else 1 + await nest(levels - 1)


@env.task
async def call_with(memory: str) -> list[float]:
    return await interval.override(resources=flyte.Resources(memory=memory))(1, 0.0)


@env.task
async def holds_and_calls(held: int, memory: str, place: str) -> str:
    """Keep memory while a child is awaited that cannot have what is left."""
    kept = bytearray(held << 20)
    meet(place, 0, 2)  # the pretended machine knows of it with the next report of usage
    try:
        await interval.override(resources=flyte.Resources(memory=memory))(1, 0.0)
    except UnschedulableError as error:
        return f"{len(kept) >> 20} {error}"
    return "it ran"


def most_at_a_time(spans: list[list[float]]) -> int:
    return max(sum(began <= moment < ended for _, began, ended in spans) for _, moment, _ in spans)


@pytest.fixture
def pretended_machine(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Let the scheduler believe in a machine of 1000 MiB, so that tests need not fill this one; give its size."""
    size = 1000 << 20
    scheduler = session.engine._scheduler

    def memory() -> tuple[int, int]:
        return size, size - sum(ticket.usage_bytes for ticket in scheduler._tickets)

    monkeypatch.setattr(scheduler, "_memory", memory)
    return size


def test_a_gather_never_runs_more_than_fit(tmp_path: Path) -> None:
    """Eight tasks that each may take 30% of what is free: three at a time, and every one finishes."""
    began = time.monotonic()
    spans = flyte.run(intervals, 8, 0.4, [mebibytes(0.3)], str(tmp_path), 2).outputs()[0]
    assert list(range(8)) == [int(number) for number, _, _ in spans]
    assert 2 <= most_at_a_time(spans) <= 3
    assert time.monotonic() - began < BOUND_S


@pytest.mark.usefixtures("pretended_machine")
def test_a_request_is_what_is_reserved_and_the_limit_is_what_is_held(tmp_path: Path) -> None:
    """memory=("100Mi", "900Mi"): admitted by the request, so that six run at once, and held to the limit."""
    spans = flyte.run(intervals, 6, 0.0, ["100Mi", "900Mi"], str(tmp_path), 6).outputs()[0]
    assert 6 == most_at_a_time(spans)
    assert fn.last_run is not None
    limits = {action.limits.memory_bytes for action in fn.last_run.actions if action.parent is not None}
    assert {900 << 20} == limits


@pytest.fixture
def container() -> Iterator[SmallMachine]:
    """Give a container of 3 GiB; nothing in it is replaced, what it holds is what the kernel says."""
    with small_machine(CONTAINER_BYTES) as container:
        yield container


class GroupsSeen(threading.Thread):
    """Looks every few milliseconds at all attempts inside: how many run at once, and what their limits are together.

    One runs as long as its task says so, by a file named as its process: the group of one that has said goodbye may
    still be there beside that of the one that follows it.
    """

    def __init__(self, container: SmallMachine, at_work: Path) -> None:
        super().__init__()
        self.most = 0
        self.most_bytes = 0
        self._container = container
        self._at_work = at_work
        self._over = threading.Event()

    def run(self) -> None:
        """Look until it is over."""
        before: dict[Path, int] = {}
        while not self._over.wait(0.005):
            # What is there in two looks was there at the same time, between them.
            now = dict(self._limits())
            limits = [now[group] for group in now if group in before]
            self.most = max(self.most, len(limits))
            self.most_bytes = max(self.most_bytes, sum(limits))
            if self.most >= AT_A_TIME:
                (self._at_work / "seen").touch()
            before = now

    def _limits(self) -> Iterator[tuple[Path, int]]:
        inside = self._container.group.directory
        for group in (*inside.glob("fnb-*/fnb-*"), *inside.glob("*.scope/fnb-*/fnb-*")):
            with contextlib.suppress(OSError):  # it went while we looked
                pids = (group / "cgroup.procs").read_text().split()
                if any((self._at_work / pid).exists() for pid in pids):
                    yield group, int(limit_file(group).read_text())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@pytest.mark.slow
@pytest.mark.cgroup
def test_many_tasks_run_in_order_as_the_memory_of_the_container_allows(container: SmallMachine, tmp_path: Path) -> None:
    """Tasks of 1Gi, each using 150 MiB, in a container of 3 GiB: two at a time, in order, and every one finishes."""
    at_work = tmp_path / "at work"
    at_work.mkdir()
    program = IN_CONTAINER.replace("BODY", f"use_all.override(resources=small), {TASKS}, 150")
    program = program.replace("PLACE", repr(str(at_work)))
    with GroupsSeen(container, at_work) as seen:
        spans = container.facts_of(program, tmp_path / "script.py", bound_s=110)
    assert list(range(TASKS)) == [int(number) for number, _, _ in spans]
    assert 2 == most_at_a_time(spans)
    assert AT_A_TIME == seen.most
    assert seen.most_bytes <= CONTAINER_BYTES
    assert 300 << 20 < container.group.peak_bytes < CONTAINER_BYTES
    assert 0 == container.group.refusals
    # In order: of those before it all have ended when one begins, but for one, which may not even have begun.
    for number, began, _ in spans:
        assert sum(ended > began for _, _, ended in spans[: int(number)]) <= 1


@pytest.mark.cgroup
def test_a_parent_that_waits_beside_a_running_task_counts_what_it_uses(container: SmallMachine, tmp_path: Path) -> None:
    """Parent and child of 1Gi each, another child of 1300Mi: they fit into 3 GiB while the parent's limit is not held.

    The first child runs until the second has.
    """
    program = IN_CONTAINER.replace("BODY", f"beside, {str(tmp_path / 'made')!r}")  # PLACE is never asked for
    assert [True, True] == container.facts_of(program, tmp_path / "script.py")


def test_nested_levels_with_a_core_each_do_not_deadlock() -> None:
    """Four levels of cpu=1, each awaiting the next, end on a machine of any number of cores."""
    began = time.monotonic()
    assert 4 == flyte.run(nest, 4).outputs()[0]
    assert time.monotonic() - began < BOUND_S


@pytest.mark.usefixtures("pretended_machine")
def test_nested_levels_wait_at_what_they_use() -> None:
    """Five levels of 300Mi each on a machine of 1000 MiB: a parent that waits counts what it uses, not its limit."""
    assert 5 == flyte.run(nest.override(resources=flyte.Resources(memory="300Mi")), 5).outputs()[0]


def told_of_usage(session: Session, mebibytes: int, place: Path) -> threading.Thread:
    """Start a thread that comes to a meeting when the scheduler knows of an attempt that uses so much."""

    def wait() -> None:
        until = time.monotonic() + BOUND_S
        while time.monotonic() < until:
            with contextlib.suppress(RuntimeError):  # the set changed while it was looked at
                if any(ticket.usage_bytes >> 20 >= mebibytes for ticket in session.engine._scheduler._tickets):
                    break
            time.sleep(0.01)
        (place / "usage is known").touch()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.usefixtures("pretended_machine")
def test_a_child_larger_than_what_its_parent_leaves_is_an_error(session: Session, tmp_path: Path) -> None:
    """A parent that holds 400 MiB and awaits a child of 700Mi on 1000 MiB: a named error, not a deadlock."""
    began = time.monotonic()
    parent = holds_and_calls.override(resources=flyte.Resources(memory="500Mi"))
    waits = told_of_usage(session, 400, tmp_path)
    answer = flyte.run(parent, 400, "700Mi", str(tmp_path)).outputs()[0]
    waits.join()
    held, _, message = answer.partition(" ")
    assert "400" == held
    assert "needs 700 MiB of memory" in message
    assert "only 1 waiting parent tasks hold the rest" in message
    assert "waiting would never end. Lower the memory of the child or of its parents" in message
    assert time.monotonic() - began < 20


def test_a_child_larger_than_the_machine_is_an_error_at_once() -> None:
    """More than the machine has is refused by name, with both sizes, whoever asks."""
    with pytest.raises(UnschedulableError, match=r"needs 900 TiB of memory, this machine has") as caught:
        flyte.run(call_with, "900Ti")
    assert "never_fits" == caught.value.failure.reason


def test_the_first_in_the_queue_is_not_overtaken(session: Session, pretended_machine: int, tmp_path: Path) -> None:
    """A small task that comes after a large one waits behind it, so that large ones do not starve.

    The one before them ends when both have come.
    """
    assert pretended_machine > 0
    memory = flyte.Resources(memory="600Mi")
    small = flyte.Resources(memory="100Mi")

    async def main() -> list[list[float]]:
        runs = []
        for number, resources in enumerate((memory, memory, small)):
            task = interval.override(resources=resources)
            place = "" if number else str(tmp_path)
            runs.append(asyncio.ensure_future(flyte.run.aio(task, number, 0.1, place, 2)))
            while session.engine.active <= number:  # noqa: ASYNC110 - what is waited for happens on another thread
                await asyncio.sleep(0.01)
        (tmp_path / "all have come").touch()
        return [(await run).outputs()[0] for run in runs]

    first, large, late = asyncio.run(main())
    assert first[2] <= large[1]
    assert first[2] <= late[1]


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_processes_than_allowed(session: Session, most: int, tmp_path: Path) -> None:
    """max_processes bounds how many tasks run at a time; a parent that waits does not count."""
    assert session.engine.active == 0
    fn.disable()
    with fn.enable(max_processes=most):
        opened = enforcement.current()
        assert opened is not None
        opened.engine.wait_until_proven()
        spans = flyte.run(intervals, 4, 0.3, ["120Mi"], str(tmp_path), most).outputs()[0]
    assert list(range(4)) == [int(number) for number, _, _ in spans]
    assert most == most_at_a_time(spans)
