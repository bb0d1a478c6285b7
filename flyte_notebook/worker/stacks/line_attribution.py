"""Records the lines of an attempt: its current position, and the lines on which its memory grew.

Each change of memory is attributed to the line that is read when the change is noticed, so denser samples give a better
table. With several threads in the user's code, the thread whose page faults grew most is taken (field ``minflt`` of
``/proc/PID/task/TID/stat``, proc(5)): writing to fresh memory causes page faults. Before any page fault, and when a
task is stopped for its time, the oldest thread is taken, which runs the task.

A thread that waits when the change is noticed (``time.sleep`` in a loop that leaks) writes nothing at that moment: if
its page faults show that it wrote before, the line of its last page faults is taken. If its page faults cannot explain
the change, a child process or a library's thread grew, and the line that waits for it is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from flyte_notebook.worker.stacks.stack_sample import StackSample, activity, sampler

if TYPE_CHECKING:
    from flyte_notebook.worker.stacks.pystack import Place, StackReader
    from flyte_notebook.worker.stacks.stack_sample import Seen

STEP_BYTES: Final = 256 << 10
"""The smallest change that is examined. Control groups count in batches of 64 pages for each CPU."""
REST_S: Final = 0.1
"""How old the last look may be for a task whose memory does not change."""
SETTLE_S: Final = 0.01
"""When a running task is looked at again: it may have begun to wait."""
FORGET_S: Final = 1.0
"""How long code is cached: its memory may have been freed and used again."""
MOST_GREW: Final = 10
SMALLEST_BYTES: Final = 1 << 20
"""The smallest growth of a line that is reported."""
MOST_KEPT: Final = 5_000
FAULT_BYTES: Final = 4 << 20
"""The growth that one page fault may explain: a huge page is 2 MiB, and the kernel adds pages of its own."""
LEAST_FAULTS: Final = 2
"""Another thread is taken if it had this many more page faults; with huge pages one fault is 2 MiB."""
STAND_BOUND_S: Final = 0.05
HASTE_BOUND_S: Final = 0.005
"""How long to wait for a look: usually less than a millisecond, but the kernel may lock the process's memory."""


_At: TypeAlias = "tuple[tuple[Place, ...], float]"
"""A stack, the innermost line first, and when it was read."""


class LineAttribution:
    """Watches the lines of one process. ``reader`` is ``None`` where stacks cannot be read, and ``why`` says why."""

    def __init__(self, pid: int | None, reader: StackReader | None = None, why: str = "") -> None:
        self._pid = pid
        self._reader = reader
        self._why = why
        self.begin(0)
        self._begun = False

    def begin(self, used_bytes: int) -> None:
        """Start again, for an attempt that begins now with this usage."""
        self._begun = True
        self._used_bytes = used_bytes
        self._stack: tuple[Place, ...] = ()
        self._seen_s: float | None = None
        self._wrote_at: _At = ((), 0.0)
        self._awake_at: _At = ((), 0.0)
        self._waits = self._wrote = False
        self._settled = True
        self._faulted = 0
        self._charged: tuple[Place | None, int] = (None, 0)
        self._owed: dict[Place, int] = {}
        self._asked_s = self._forgot_s = float("-inf")
        self._ended_s: float | None = None
        self._stopped = False
        self._pending: StackSample | None = None
        before = 0 if self._pid is None else activity(self._pid, self._pid)[0]
        self._faults: dict[int, int] = {self._pid: before} if self._pid is not None and before else {}
        """By thread; all that the main thread had before are not the attempt's."""
        self._blamed_id: int | None = None
        self._grew: dict[Place, int] = {}
        self.cost_s = 0.0
        """How long the last look took."""

    def give(self, reader: StackReader | None, why: str) -> None:
        """Set how the stacks of a running attempt are read."""
        self._reader, self._why, self._begun = reader, why, True

    @property
    def sees(self) -> bool:
        """Whether stacks can be read now."""
        return self._begun and self._ended_s is None and self._reader is not None and not self._reader.gone

    def look(self, now: float, used_bytes: int) -> None:
        """Take a sample of memory, and look at the line if memory changed or the last look is old.

        Does not wait: the result is used at the next look.
        """
        self._collect()
        change = used_bytes - self._used_bytes
        rests = abs(change) < STEP_BYTES and now - self._asked_s < (REST_S if self._settled else SETTLE_S)
        if not self.sees or self._pending is not None or rests:
            return
        self._used_bytes = used_bytes
        self._ask(now, change_bytes=change)

    def stand(self, now: float, *, memory: bool) -> None:
        """Read its position just before it is killed; ``memory``: it is killed for memory, so there is little time."""
        if not self.sees or not self._wait(HASTE_BOUND_S if memory else STAND_BOUND_S):
            return
        self._ask(now, oldest=not memory)
        asked = self._pending
        if self._wait(HASTE_BOUND_S if memory else STAND_BOUND_S) and asked is not None:
            self._stopped = asked.seen is not None

    def ended(self, now: float) -> None:
        """Note that it has stopped running; only the first call counts."""
        if self._ended_s is None:
            self._ended_s = now

    def close(self) -> None:
        """Close the process's memory. Idempotent."""
        self._collect()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def facts(self, ended_s: float, *, reached_bytes: int | None = None) -> dict[str, Any]:
        """All results, as JSON: lines as file, number, function; the outermost first.

        ``reached_bytes`` is its usage when killed for memory: growth after the last sample counts for the last line.
        """
        self._collect()
        if reached_bytes is not None:
            self._charge(max(0, reached_bytes - self._used_bytes))
            self._used_bytes = max(reached_bytes, self._used_bytes)
        last = None
        if self._stack and self._seen_s is not None:
            ended_s = self._ended_s if self._ended_s is not None else ended_s
            stack, seen_s, how = self._stack, self._seen_s, "stopped" if self._stopped else "sampled"
            worked, worked_s = self._worked_at()
            if reached_bytes is not None and not self._stopped and self._waits and self._wrote and worked:
                stack, seen_s, how = worked, worked_s, "grew"
            last = {
                "stack": [list(place) for place in reversed(stack)],
                "age_s": 0.0 if self._stopped else round(max(0.0, ended_s - seen_s), 4),
                "how": how,
            }
        self._pay()
        told = [(place, grew) for place, grew in self._grew.items() if abs(grew) >= SMALLEST_BYTES]
        told.sort(key=lambda item: abs(item[1]), reverse=True)
        grew = [[*place, change] for place, change in told[:MOST_GREW]]
        return {"last_line": last, "grew": grew, "no_line": self._why}

    def _ask(self, now: float, *, change_bytes: int = 0, oldest: bool = False) -> None:
        assert self._reader is not None
        forget = now - self._forgot_s > FORGET_S
        if forget:
            self._forgot_s = now
        self._asked_s = now
        self._pending = StackSample(self._pid, self._reader, forget=forget, change_bytes=change_bytes, oldest=oldest)
        sampler.ask(self._pending.run)

    def _wait(self, bound_s: float) -> bool:
        """Wait until no look is pending; return whether that was reached."""
        if self._pending is not None:
            self._pending.wait(bound_s)
            self._collect()
        return self._pending is None

    def _collect(self) -> None:
        """Use the result of the last look, if it is done."""
        asked = self._pending
        if asked is None or not asked.done:
            return
        self._pending = None
        self.cost_s = asked.cost_s
        if asked.seen is None:
            self._used_bytes -= asked.change_bytes  # for the line that is read next
            return
        self._seen_s = asked.seen_s
        blamed, faults = self._blamed(asked.seen, oldest=asked.oldest)
        self._stack, self._waits = ((), False) if blamed is None else (blamed.stack, blamed.waits)
        if blamed is not None and blamed.writes:
            self._wrote_at = self._stack, asked.seen_s
            self._pay()
        if not self._waits:
            self._awake_at = self._stack, asked.seen_s
        if asked.change_bytes > 0:
            # Memory is sampled some time before faults are counted: its growth may belong to the previous count.
            self._wrote = (faults + self._faulted) * FAULT_BYTES >= asked.change_bytes
        self._faulted = faults
        self._settled = self._waits or abs(asked.change_bytes) < STEP_BYTES
        self._charge(asked.change_bytes)

    def _charge(self, change_bytes: int) -> None:
        """Attribute a change to a line: the current one, or the last one seen to write."""
        if not self._stack:
            return
        place, (before, before_bytes) = self._stack[0], self._charged
        self._charged = (place, change_bytes)
        if self._waits and self._wrote:
            if before == place:  # read there a moment before it began to wait
                self._count(place, -before_bytes)
                change_bytes += before_bytes
            self._charged = (None, 0)
            self._owed[place] = self._owed.get(place, 0) + change_bytes
            if self._wrote_at[0]:
                self._pay()
        else:
            self._count(place, change_bytes)

    def _pay(self) -> None:
        """Attribute the pending change to a line that is seen to write."""
        for place in list(self._owed):
            self._count((self._worked_at()[0] or (place,))[0], self._owed.pop(place))

    def _worked_at(self) -> _At:
        """Return the line at which it last wrote, else the last at which it did not wait; and when."""
        return self._wrote_at if self._wrote_at[0] else self._awake_at

    def _count(self, place: Place, change_bytes: int) -> None:
        if place in self._grew or len(self._grew) < MOST_KEPT:
            self._grew[place] = self._grew.get(place, 0) + change_bytes

    def _blamed(self, seen: list[Seen], *, oldest: bool) -> tuple[Seen | None, int]:
        """Return the thread to take, and its faults: the previous one, unless another had more page faults."""
        known, self._faults = self._faults, {one.native_id: one.faults for one in seen}
        if oldest or not seen:
            return (seen[0] if seen else None), 0
        before = next((one for one in seen if one.native_id == self._blamed_id), seen[0])
        # All faults of a new thread are new; for threads that existed at the first look the number is not known.
        grew = {one.native_id: one.faults - known.get(one.native_id, 0 if known else one.faults) for one in seen}
        most = max(seen, key=lambda one: grew[one.native_id])
        blamed = most if grew[most.native_id] > max(LEAST_FAULTS, grew[before.native_id]) else before
        self._blamed_id = blamed.native_id
        return blamed, grew[blamed.native_id]
