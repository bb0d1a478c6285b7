"""Admission: by memory, in order, capped, and never a deadlock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from flyte_notebook.core.limits import Limits
from flyte_notebook.engine.scheduler import (
    DEFAULT_RESERVE_BYTES,
    OTHERS_BOUND_S,
    OTHERS_FOR_S,
    NeverFitsError,
    Scheduler,
    Ticket,
    reserve_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GIB = 1 << 30


@dataclass
class Machine:
    """A machine with memory that tests set, and a clock that they move."""

    capacity_bytes: int = 4 * GIB
    available_bytes: int = 4 * GIB
    now_s: float = 0.0
    asked: int = 0

    def memory(self) -> tuple[int, int]:
        self.asked += 1
        return self.capacity_bytes, self.available_bytes

    def scheduler(self, max_processes: int = 64, places: float = float("inf")) -> Scheduler:
        return Scheduler(
            memory=self.memory,
            max_processes=max_processes,
            places=lambda: places,
            clock=lambda: self.now_s,
        )


def run(body: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        await body()

    asyncio.run(main())


async def admitted(*tasks: asyncio.Task[Ticket]) -> list[bool]:
    """Let the loop settle, then say which of the tasks have their ticket."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def ask(scheduler: Scheduler, memory_bytes: int | None) -> asyncio.Task[Ticket]:
    return asyncio.ensure_future(scheduler.admit(Limits(memory_bytes=memory_bytes)))


def test_reserves_the_request_then_the_limit_then_the_default() -> None:
    """What is reserved is the declared request, else the limit, else 256 MiB."""
    assert reserve_bytes(Limits(memory_bytes=GIB, memory_request_bytes=GIB // 2)) == GIB // 2
    assert reserve_bytes(Limits(memory_bytes=GIB)) == GIB
    assert reserve_bytes(Limits()) == DEFAULT_RESERVE_BYTES == 256 << 20


def test_as_many_run_as_memory_allows_and_the_rest_wait_in_order() -> None:
    """Of six tasks of 1 GiB on 4 GiB four start; each release admits the next in line."""

    async def body() -> None:
        scheduler = Machine().scheduler()
        tasks = [ask(scheduler, GIB) for _ in range(6)]
        assert [True] * 4 + [False] * 2 == await admitted(*tasks)
        assert scheduler.queued == 2
        scheduler.release(tasks[2].result())
        assert [True] * 5 + [False] == await admitted(*tasks)
        scheduler.release(tasks[0].result())
        assert [True] * 6 == await admitted(*tasks)

    run(body)


def test_no_more_run_than_there_are_places_for_unless_all_wait() -> None:
    """Parents that wait for children hold a place, too; where nobody else runs, a child is let in all the same."""

    async def body() -> None:
        scheduler = Machine().scheduler(places=2)
        tasks = [ask(scheduler, GIB // 4) for _ in range(4)]
        assert [True, True, False, False] == await admitted(*tasks)
        scheduler.awaits_child(tasks[0].result(), 1)
        assert [True, True, False, False] == await admitted(*tasks)
        scheduler.awaits_child(tasks[1].result(), 1)
        assert [True, True, True, False] == await admitted(*tasks)

    run(body)


def test_a_small_task_does_not_overtake_a_large_one() -> None:
    """The queue is first in, first out: the head waits for room and everybody behind it waits too."""

    async def body() -> None:
        scheduler = Machine().scheduler()
        first = ask(scheduler, 3 * GIB)
        large = ask(scheduler, 2 * GIB)
        small = ask(scheduler, GIB // 4)
        assert [True, False, False] == await admitted(first, large, small)
        scheduler.release(first.result())
        assert [True, True, True] == await admitted(first, large, small)

    run(body)


def test_what_can_never_fit_fails_at_once_and_says_both_sizes() -> None:
    """A reserve above the machine's capacity is refused without waiting."""

    async def body() -> None:
        with pytest.raises(NeverFitsError, match=r"needs 8 GiB of memory, this machine has 4 GiB in all"):
            await Machine().scheduler().admit(Limits(memory_bytes=8 * GIB))

    run(body)


def test_processes_are_capped_and_waiting_parents_do_not_count() -> None:
    """With a cap of two the third waits until one ends or becomes a waiting parent."""

    async def body() -> None:
        scheduler = Machine().scheduler(max_processes=2)
        tasks = [ask(scheduler, 1 << 20) for _ in range(3)]
        assert [True, True, False] == await admitted(*tasks)
        scheduler.awaits_child(tasks[0].result(), +1)
        assert [True, True, True] == await admitted(*tasks)

    run(body)


def test_a_waiting_parent_counts_at_its_usage() -> None:
    """A parent of 3 GiB that uses 100 MiB while it waits leaves room for a child of 3 GiB."""

    async def body() -> None:
        machine = Machine()
        scheduler = machine.scheduler()
        parent = await scheduler.admit(Limits(memory_bytes=3 * GIB))
        parent.usage_bytes = 100 << 20
        machine.available_bytes -= parent.usage_bytes
        child = ask(scheduler, 3 * GIB)
        assert [False] == await admitted(child)
        scheduler.awaits_child(parent, +1)
        assert [True] == await admitted(child)

    run(body)


@pytest.mark.parametrize(("parent_uses", "fits"), [(GIB // 4, True), (2 * GIB, False)])
def test_beside_a_running_task_a_waiting_parent_counts_at_its_usage(parent_uses: int, *, fits: bool) -> None:
    """While another task runs, the child gets what the parent's limit holds but its usage does not; no more than that.

    Of 8 GiB a parent has a limit of 3, another task one of 3; the child asks for 4.
    """

    async def body() -> None:
        machine = Machine(capacity_bytes=8 * GIB, available_bytes=8 * GIB)
        scheduler = machine.scheduler()
        parent = await scheduler.admit(Limits(memory_bytes=3 * GIB))
        other = await scheduler.admit(Limits(memory_bytes=3 * GIB))
        parent.usage_bytes, other.usage_bytes = parent_uses, GIB
        machine.available_bytes = 8 * GIB - parent.usage_bytes - other.usage_bytes
        child = ask(scheduler, 4 * GIB)
        assert [False] == await admitted(child)
        scheduler.awaits_child(parent, +1)
        assert [fits] == await admitted(child)
        scheduler.release(other)
        assert [True] == await admitted(child)

    run(body)


def test_memory_given_back_since_the_last_report_is_not_there_twice() -> None:
    """What a running task has just freed is available already, while its usage is still told as it was: no room."""

    async def body() -> None:
        machine = Machine(available_bytes=4 * GIB - GIB // 2)  # other programs have the rest
        scheduler = machine.scheduler()
        running = await scheduler.admit(Limits(memory_bytes=2 * GIB))
        running.usage_bytes = GIB
        machine.available_bytes -= GIB
        scheduler.reported()
        machine.available_bytes += GIB
        machine.now_s += OTHERS_FOR_S / 2
        second = ask(scheduler, 2 * GIB)
        assert [False] == await admitted(second)
        running.usage_bytes = 0
        scheduler.reported()
        assert [False] == await admitted(second)
        scheduler.release(running)
        assert [True] == await admitted(second)

    run(body)


def test_memory_taken_since_the_last_report_makes_wait_until_the_next_one() -> None:
    """What a running task has just taken looks like another program's, as long as its usage is told as it was."""

    async def body() -> None:
        machine = Machine()
        scheduler = machine.scheduler()
        running = await scheduler.admit(Limits(memory_bytes=2 * GIB))
        scheduler.reported()
        machine.available_bytes -= GIB
        second = ask(scheduler, 2 * GIB)
        assert [False] == await admitted(second)
        running.usage_bytes = GIB
        scheduler.reported()
        assert [True] == await admitted(second)

    run(body)


def test_the_machine_is_asked_now_and_then_while_nobody_waits() -> None:
    """Of ten reports in a second five look at the machine; each does while somebody waits for its memory."""

    async def body() -> None:
        machine = Machine()
        scheduler = machine.scheduler()
        await scheduler.admit(Limits(memory_bytes=3 * GIB))
        machine.asked = 0
        for tenth in range(10):
            machine.now_s = tenth / 10
            scheduler.reported()
        assert 5 == machine.asked
        second = ask(scheduler, 2 * GIB)
        machine.asked = 0
        for tenth in range(10, 20):
            machine.now_s = tenth / 10
            scheduler.reported()
        assert machine.asked >= 10
        assert [False] == await admitted(second)
        scheduler.give_up(second)

    run(body)


def test_only_waiting_parents_in_the_way_is_an_error_not_a_deadlock() -> None:
    """When nobody is left who could make room, the child fails and the message says who holds what."""

    async def body() -> None:
        machine = Machine()
        scheduler = machine.scheduler()
        parent = await scheduler.admit(Limits(memory_bytes=3 * GIB))
        parent.usage_bytes = 2 * GIB
        machine.available_bytes = 2 * GIB
        scheduler.awaits_child(parent, +1)
        child = ask(scheduler, 3 * GIB)
        assert [True] == await admitted(child)
        with pytest.raises(NeverFitsError, match=r"needs 3 GiB of memory, 2 GiB is free, and only 1 waiting parent"):
            child.result()

    run(body)


def test_memory_held_by_others_is_waited_for_only_so_long() -> None:
    """With nothing of ours running, an attempt waits for other programs ten seconds, then says what they leave."""

    async def body() -> None:
        machine = Machine(available_bytes=GIB)
        scheduler = machine.scheduler()
        task = ask(scheduler, 2 * GIB)
        assert [False] == await admitted(task)
        machine.now_s = OTHERS_BOUND_S + 1
        scheduler.pump()
        assert [True] == await admitted(task)
        with pytest.raises(NeverFitsError, match=r"other programs leave 1 GiB of this machine's 4 GiB"):
            task.result()

    run(body)


def test_memory_that_others_release_is_noticed() -> None:
    """A waiting attempt starts by itself when other programs give memory back."""

    async def body() -> None:
        machine = Machine(available_bytes=GIB)
        scheduler = machine.scheduler()
        task = ask(scheduler, 2 * GIB)
        assert [False] == await admitted(task)
        machine.available_bytes = 3 * GIB
        await asyncio.wait_for(task, 5)

    run(body)


def test_giving_up_frees_the_place() -> None:
    """A cancelled attempt leaves the queue, and one that was admitted in the same moment gives its ticket back."""

    async def body() -> None:
        scheduler = Machine().scheduler()
        first, second, third = ask(scheduler, 4 * GIB), ask(scheduler, 4 * GIB), ask(scheduler, 4 * GIB)
        assert [True, False, False] == await admitted(first, second, third)
        second.cancel()
        scheduler.release(first.result())
        assert [True, True, True] == await admitted(first, second, third)
        assert third.result().reserve_bytes == 4 * GIB

    run(body)
