"""The supervisor's side of one worker process and its group: samples, time limits, the first reason, the end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.trace import TraceRecorder
from flyte_notebook.limiters.shared_memory import SharedObjects
from flyte_notebook.worker.stacks.allocation_probe import AllocationProbe
from flyte_notebook.worker.stacks.line_attribution import HASTE_BOUND_S, REST_S, STAND_BOUND_S, LineAttribution
from flyte_notebook.worker.stacks.stack_sample import errands

if TYPE_CHECKING:
    from flyte_notebook.core.limits import Limits
    from flyte_notebook.core.outcome import Tripped
    from flyte_notebook.limiters.base import Counters, TaskGroup

DENSE_S = 0.005
"""The time between samples in the first second, and while memory changes."""
FASTEST_S = 0.002
"""The same when lines are read: growth is attributed to the line that is read next."""
COST_SHARE = 15
"""After each look there is none for this many times its duration."""
GROWTH_BYTES_PER_S = 4 << 30
"""Tasks do not write to fresh pages faster than this."""
SPARSE_S = 0.25
"""The time between samples of a task whose memory does not change."""
DENSE_FOR_S = 1.0
MOVING_BYTES = 1 << 20
COUNTERS_EVERY_S = 0.05
KILL_AGAIN_S = 0.005
ALARM_AFTER_S = 0.03
"""How long an attempt runs before the kernel's memory notification is set up: most attempts end before."""
ALARM_BOUND_S = 0.5
"""How long after that the first notification may take."""
LEAVE_BYTES = 96 << 20
"""Up to this much memory there is no need to wait; the kernel reclaims it within milliseconds."""
LEAVE_BOUND_S = 0.5
"""How long a worker may take to end after it reported its end, before it is killed."""
TIDY_BOUND_S = 0.3
"""How long Python's own tracker may take to remove shared memory that no process was seen to use."""
EMPTY_BOUND_S = 10.0
"""How long a killed group may take to become empty (a process in an uninterruptible call) before we stop waiting."""


class Watched:
    """Watches one attempt from fork to the removal of its group.

    ``pid`` is ``None`` if no process is known: then only the group has to become empty.
    """

    def __init__(
        self, pid: int | None, group: TaskGroup, limits: Limits, attribution: LineAttribution | None = None
    ) -> None:
        self.pid = pid
        self._attribution = attribution or LineAttribution(pid)
        self._asked = AllocationProbe(pid)
        self._shared = SharedObjects(errands.ask)
        self.over = False
        self._group = group
        self._tripped: Tripped | None = None
        self._lost = ""
        self._wait_status: int | None = None if pid is not None else 0
        self._ended_s: float | None = None
        self._baseline_bytes: int | None
        self._ready_after_s: float | None
        self.begin(limits)

    def take(self, limits: Limits) -> None:
        """Begin an attempt of a spare, before the spare gets it: earlier usage does not belong to the attempt.

        This usage is the baseline: later nobody knows how far the attempt has come.
        """
        self.begin(limits)
        self.measure()
        assert self._baseline_bytes is not None
        self._ready_after_s = 0.0
        self._attribution.begin(self._baseline_bytes)
        self._asked.begin(self._baseline_bytes)
        self._asked.look(self.started_s, self._baseline_bytes)

    def begin(self, limits: Limits) -> None:
        """Start the clock and the trace of an attempt under these limits."""
        self.usage_bytes = 0
        self.due_s = self.started_s = time.monotonic()
        self._limits = limits
        self._shared.begin()
        self._recorder = TraceRecorder(first_interval_s=DENSE_S)
        self._interval_s = DENSE_S
        self._counters_due_s = 0.0
        self._alarm_asked_s: float | None = None
        self._ends: dict[Tripped, float] = {}
        self._baseline_bytes = self._ready_after_s = None

    @property
    def alarm(self) -> int | None:
        """Descriptor that can be read when memory has to be checked at once."""
        return self._group.alarm

    def measure(self) -> None:
        """Take what a worker uses now as the baseline, while it waits for this."""
        self._baseline_bytes = self._group.sample()

    def arm(self, max_runtime_s: float | None, deadline_in_s: float | None) -> None:
        """Start the time limits: the worker is ready. This may come late, when the attempt uses memory or is over."""
        now = time.monotonic()
        if self._wait_status is None:
            self._asked.look(now, self._group.sample())
        self._ready_after_s = now - self.started_s
        if max_runtime_s is not None:
            self._ends["max_runtime"] = now + max_runtime_s
        if deadline_in_s is not None:
            self._ends["deadline"] = now + deadline_in_s
        self.due_s = now

    def trip(self, reason: Tripped) -> None:
        """End the attempt for a reason; the first reason is kept."""
        now = time.monotonic()
        if self._wait_status is None and self._tripped is None:
            self._tripped = reason
            self._attribution.stand(now, memory=reason == "memory")
            self._attribution.ended(now)
            self._shared.stand(self._group.pids, HASTE_BOUND_S if reason == "memory" else STAND_BOUND_S)
        self._kill()
        self.due_s = time.monotonic()

    def _kill(self) -> None:
        self._group.kill()
        if self._wait_status is None and self.pid is not None:
            with contextlib.suppress(OSError):  # not waited for yet, so the pid is valid, in the group or not
                os.kill(self.pid, signal.SIGKILL)

    def died(self, status: int) -> None:
        """Take the exit status of the worker, as returned by ``waitpid``."""
        self._wait_status = status
        self._ended_s = self.due_s = time.monotonic()
        self._attribution.ended(self._ended_s)
        self._attribution.close()

    def leave(self, status: int) -> bool:
        """Note that the worker reported its end with this status; return whether the attempt counts as ended now.

        It does not while other processes are in the group, which have to be ended first, when the attempt is being
        killed, while it has so much memory that the next attempt must wait for it, and when it failed with shared
        memory.
        """
        if status and self._shared.held:
            return False
        if self._wait_status is not None or self._tripped is not None or self.pid is None:
            return False
        if self._group.sample() > LEAVE_BYTES or not self._group.alone(self.pid):
            return False
        self.died(status << 8)
        self.due_s += LEAVE_BOUND_S
        return True

    def look(self, now: float) -> None:
        """Sample, compare with the limits, kill if necessary; set the time of the next sample."""
        if self._wait_status is not None:
            self._finish(now)
            return
        used = self._group.sample()
        before, self.usage_bytes = self.usage_bytes, used
        moved = abs(used - before) > MOVING_BYTES
        self._recorder.add(now - self.started_s, used)
        self._shared.look(now, self._group.pids)
        self._asked.look(now, used, moved=moved)
        if self._group.exceeded():
            self.trip("memory")
        elif now >= self._counters_due_s or self._near(max(used, before)):
            self._counters_due_s = now + COUNTERS_EVERY_S
            if self._group.counters().oom_kills:
                # The kernel may have killed a child: the attempt is over for all processes. The task may have moved on
                # to another line since.
                self._attribution.ended(now)
                self.trip("memory")
            elif self._tripped is None and self.pid is not None and not self._group.holds(self.pid):
                self._lost = "its process was moved out of its limits' group, so it was ended"
                self.trip("stopped")
        for reason, end_s in self._ends.items():
            if now >= end_s:
                self.trip(reason)
        self._attribution.look(now, used)
        if self._alarm_asked_s is None and now - self.started_s > ALARM_AFTER_S and self._attribution.sees:
            self._alarm_asked_s = now
            errands.ask(self._group.set_alarm)
        self._interval_s = self._next_interval_s(now, used, moved=moved)
        wait_s = min(self._interval_s, self._group.poll_interval_s or SPARSE_S)
        if self._tripped is not None:
            self._kill()
            wait_s = KILL_AGAIN_S
        self.due_s = min([now + wait_s, *(end for end in self._ends.values() if end > now)])

    def _next_interval_s(self, now: float, used: int, *, moved: bool) -> float:
        """Return when to sample again: soon while memory changes, and before an allocation could reach the limit."""
        if not self._attribution.sees:
            dense = moved or now - self.started_s < DENSE_FOR_S
            return DENSE_S if dense else min(SPARSE_S, self._interval_s * 1.5)
        if moved:
            return max(FASTEST_S, COST_SHARE * self._attribution.cost_s)
        longest_s = DENSE_S if now - self.started_s < DENSE_FOR_S else REST_S
        limit_bytes = self._limits.memory_bytes
        if limit_bytes is not None and not self._is_called(now):
            in_time_s = (limit_bytes - used) / GROWTH_BYTES_PER_S / 2
            longest_s = min(longest_s, max(DENSE_S, in_time_s))
        return min(longest_s, max(self._interval_s, FASTEST_S) * 1.5)

    def _is_called(self, now: float) -> bool:
        """Whether the operating system notifies us when usage comes near the limit, so that it need not be polled."""
        asked_s = self._alarm_asked_s
        return self._group.alarm is not None and asked_s is not None and now - asked_s > ALARM_BOUND_S

    def _near(self, used: int) -> bool:
        limit = self._limits.memory_bytes
        return limit is not None and used > 0.9 * limit

    def _finish(self, now: float) -> None:
        """End the processes that an ended worker has left, then remove the group."""
        ended_s = self._ended_s if self._ended_s is not None else now
        self.due_s = now + KILL_AGAIN_S
        if self._group.empty() or now - ended_s > EMPTY_BOUND_S:
            failed = self._tripped is not None or self._wait_status != 0
            self.over = not failed or self._shared.settled(now)
        elif self._tripped is not None or now - ended_s > TIDY_BOUND_S or not self._shared.unseen:
            self._group.kill()

    def facts(self) -> dict[str, Any]:
        """All recorded facts, as JSON."""
        self._group.sample()  # page cache outlives the processes that read it, perhaps all within one interval
        counters = self._group.counters()
        status = self._wait_status or 0
        signalled = os.WIFSIGNALED(status)
        highest = self._recorder.highest_bytes
        exact = counters.peak_bytes is not None
        points = self._recorder.points
        return {
            "exit_status": None if signalled else os.WEXITSTATUS(status),
            "signal": os.WTERMSIG(status) if signalled else None,
            "tripped": self._tripped,
            "lost": self._lost if self._tripped == "stopped" else "",
            "oom_kills": counters.oom_kills,
            "limit_reached": counters.limit_reached,
            "machine_oom_kills": getattr(counters, "machine_oom_kills", 0),
            "duration_s": (self._ended_s or time.monotonic()) - self.started_s,
            "ready_after_s": self._ready_after_s,
            "times_s": [round(time_s, 4) for time_s, _ in points],
            "memory_bytes": [memory for _, memory in points],
            "baseline_bytes": self._baseline_bytes,
            "peak_bytes": counters.peak_bytes if exact else highest,
            "peak_source": counters.peak_source if exact else "samples",
            "page_cache_bytes": counters.page_cache_bytes,
            "asked": self._asked.last,
            "left": self._shared.left,
            "held": [] if status else self._shared.held,
            **self._attribution.facts(self._ended_s or time.monotonic(), reached_bytes=self._reached_bytes(counters)),
        }

    def _reached_bytes(self, counters: Counters) -> int | None:
        """Return the usage when the operating system killed it for its limit; ``None`` if it did not."""
        return self._limits.memory_bytes if counters.oom_kills and counters.limit_reached else None

    def release(self) -> None:
        """Remove the group of an attempt that is over."""
        self._attribution.close()
        with contextlib.suppress(OSError):
            self._group.remove()
