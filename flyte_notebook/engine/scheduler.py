"""Admission: which attempt may start now, by memory and number of processes; CPU is shared by quota instead.

Queueing by cores would deadlock (four nested ``cpu=1`` tasks never fit on two cores), so only memory is reserved. A
running attempt reserves its memory limit (or its request, where one is declared; 256 MiB without either); a parent that
awaits children counts with its current usage. The queue is strictly first in, first out.

Runs on the engine's loop; no locks. Reads the machine through the function that it is given.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.units import format_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.limits import Limits

DEFAULT_RESERVE_BYTES = 256 << 20
MAX_PROCESSES = 64
POLL_S = 0.2
OTHERS_EVERY_S = 0.2
"""How often the memory of other programs is read while no attempt waits."""
OTHERS_FOR_S = 0.5
"""How long this reading is used: the age of a usage report (0.1 s) and the time since the reading before it (0.3 s)."""
OTHERS_BOUND_S = 10.0
"""How long an attempt waits for memory of other programs while no attempt of ours runs."""


class NeverFitsError(Exception):
    """The attempt cannot be admitted; the text says what it needs and what is available."""


@dataclass(slots=True, eq=False)
class Ticket:
    """The right to run. ``usage_bytes`` is kept up to date by the engine; give it back with `Scheduler.release`."""

    reserve_bytes: int
    usage_bytes: int = 0
    waiting_for: int = 0
    """How many children this attempt awaits now."""

    @property
    def waiting(self) -> bool:
        """Whether the attempt awaits children."""
        return self.waiting_for > 0

    @property
    def counts_bytes(self) -> int:
        """The part of the budget that the attempt holds."""
        return self.usage_bytes if self.waiting else max(self.reserve_bytes, self.usage_bytes)


@dataclass(slots=True, eq=False)
class _Waiter:
    reserve_bytes: int
    since_s: float
    future: asyncio.Future[Ticket] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Scheduler:
    """Admits attempts in order as memory allows; ``memory`` returns how much there is, and how much is available.

    ``places`` is called while no attempt runs; it returns how many attempts other limits allow, including parents that
    wait for children.
    """

    def __init__(
        self,
        *,
        memory: Callable[[], tuple[int, int]],
        max_processes: int = MAX_PROCESSES,
        places: Callable[[], float] = lambda: float("inf"),
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self._memory = memory
        self._max_processes = max_processes
        self._places = places
        self._most_attempts = 0.0
        self._clock = clock
        self._queue: deque[_Waiter] = deque()
        self._tickets: set[Ticket] = set()
        self._others: deque[tuple[float, int]] = deque()
        self._poll: asyncio.TimerHandle | None = None

    def admit(self, limits: Limits) -> asyncio.Future[Ticket]:
        """Return the future right to run under these limits; it may fail with `NeverFitsError`, and this may raise it.

        A caller that no longer wants it calls `give_up`; setting an exception wakes the waiting caller.
        """
        reserve = reserve_bytes(limits)
        capacity, _ = self._memory()
        if reserve > capacity:
            msg = f"needs {format_memory(reserve)} of memory, this machine has {format_memory(capacity)} in all"
            raise NeverFitsError(msg)
        waiter = _Waiter(reserve, self._clock())
        self._queue.append(waiter)
        self.pump()
        return waiter.future

    def give_up(self, future: asyncio.Future[Ticket]) -> None:
        """Remove the place from the queue, or return the ticket if it was granted meanwhile. Idempotent."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self.release(future.result())
            return
        for waiter in self._queue:
            if waiter.future is future:
                self._queue.remove(waiter)
                break
        future.cancel()
        self.pump()

    def release(self, ticket: Ticket) -> None:
        """Return a ticket; idempotent."""
        self._tickets.discard(ticket)
        self.pump()

    def awaits_child(self, ticket: Ticket, change: int) -> None:
        """Note that an attempt began (+1) or stopped (-1) awaiting a child."""
        ticket.waiting_for += change
        self.pump()

    def reported(self) -> None:
        """Note that the usage of the tickets was updated."""
        now_s = self._clock()
        if self._queue or not self._others or now_s - self._others[-1][0] >= OTHERS_EVERY_S:
            self._others.append((now_s, self._others_bytes(*self._memory())))
            while now_s - self._others[0][0] > OTHERS_FOR_S:
                self._others.popleft()
        if self._queue:
            self.pump()

    @property
    def queued(self) -> int:
        """How many attempts wait for admission."""
        return len(self._queue)

    def pump(self) -> None:
        """Admit from the head of the queue as long as the head fits."""
        while self._queue:
            waiter = self._queue[0]
            if waiter.future.done():
                self._queue.popleft()
                continue
            try:
                fits = self._fits(waiter)
            except NeverFitsError as error:
                self._queue.popleft()
                waiter.future.set_exception(error)
                continue
            if not fits:
                break
            self._queue.popleft()
            ticket = Ticket(waiter.reserve_bytes)
            self._tickets.add(ticket)
            waiter.future.set_result(ticket)
        self._poll_again()

    def _fits(self, waiter: _Waiter) -> bool:
        running = sum(not ticket.waiting for ticket in self._tickets)
        if not self._tickets:
            self._most_attempts = self._places()
        if running >= self._max_processes or (running and len(self._tickets) >= self._most_attempts):
            return False
        capacity, available = self._memory()
        budget = capacity - self._most_of_others_bytes(capacity, available)
        held = sum(ticket.counts_bytes for ticket in self._tickets)
        if held + waiter.reserve_bytes <= budget:
            return True
        if running:
            return False  # one of them will end
        if self._tickets:
            # Only parents that wait for children are left: no memory will become free for this one.
            if waiter.reserve_bytes <= available:
                return True
            msg = (
                f"needs {format_memory(waiter.reserve_bytes)} of memory, {format_memory(available)} is free, and only "
                f"{len(self._tickets)} waiting parent tasks hold the rest ({format_memory(held)}); waiting would "
                "never end. Lower the memory of the child or of its parents"
            )
            raise NeverFitsError(msg)
        if self._clock() - waiter.since_s > OTHERS_BOUND_S:
            msg = (
                f"needs {format_memory(waiter.reserve_bytes)} of memory, other programs leave "
                f"{format_memory(available)} of this machine's {format_memory(capacity)}"
            )
            raise NeverFitsError(msg)
        return False

    def _others_bytes(self, capacity: int, available: int) -> int:
        """Return the memory that no attempt of ours holds, as of the last report."""
        ours = sum(ticket.usage_bytes for ticket in self._tickets)
        return max(0, capacity - available - ours)

    def _most_of_others_bytes(self, capacity: int, available: int) -> int:
        # Memory that an attempt released since the last report is available already, but still counts as its usage: the
        # sum would count it twice.
        since_s = self._clock() - OTHERS_FOR_S
        now_bytes = self._others_bytes(capacity, available)
        return max([now_bytes, *(size for when_s, size in self._others if when_s >= since_s)])

    def _poll_again(self) -> None:
        # There is no event when other programs release memory.
        if self._queue and self._poll is None:
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._polled)

    def _polled(self) -> None:
        self._poll = None
        self.pump()


def reserve_bytes(limits: Limits) -> int:
    """Return what admission reserves for these limits: the request, else the limit, else 256 MiB."""
    if limits.memory_request_bytes is not None:
        return limits.memory_request_bytes
    if limits.memory_bytes is not None:
        return limits.memory_bytes
    return DEFAULT_RESERVE_BYTES
