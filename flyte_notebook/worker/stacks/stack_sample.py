"""Reading stacks in a thread of its own, so that nothing else waits for the memory of a process that the kernel holds.

Reading another process's memory takes that process's lock of its mappings, which a fork holds: in a storm of forks for
seconds, and nothing but SIGKILL ends the wait (``mmap_lock``, kernel mm/memory.c, ``__access_remote_vm``). The thread
runs nothing but what is asked here; when it is stuck another one takes its place.
"""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from flyte_notebook.limiters.kernel_files import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.worker.stacks.pystack import Place, StackReader, Thread


class Seen(NamedTuple):
    """A thread in the user's code: where it stands, the innermost line first, and how many page faults it had.

    ``waits`` is whether it did nothing at that moment but wait, so that its line changes no memory; ``writes`` whether
    it had page faults at that very moment.
    """

    native_id: int
    stack: tuple[Place, ...]
    faults: int
    waits: bool = False
    writes: bool = False


STUCK_S: Final = 0.3
MOST_STUCK: Final = 8


class StackSample:
    """One look at all threads of a process. What it found stands here when it is ``done``.

    ``seen`` are the threads that are in the user's code, the oldest first; ``None`` when they could not be read. What
    it was asked for stands beside it: the change of memory, and whether the ``oldest`` of them is meant.
    """

    def __init__(
        self, pid: int | None, reader: StackReader, *, forget: bool, change_bytes: int = 0, oldest: bool = False
    ) -> None:
        self.change_bytes = change_bytes
        self.oldest = oldest
        self.seen: list[Seen] | None = None
        self._pid = pid
        self.seen_s = self.cost_s = 0.0
        self._reader = reader
        self._forget = forget
        self._done = threading.Event()

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._done.is_set()

    def wait(self, bound_s: float) -> bool:
        """Wait for it; whether it is done."""
        return self._done.wait(bound_s)

    def run(self) -> None:
        """Look."""
        began_s = time.monotonic()
        try:
            with self._reader.in_use():
                self.seen = self._look()
        except Exception:  # noqa: S110 - whatever it is: then nothing was seen, and the next one may
            pass
        self.seen_s = time.monotonic()
        self.cost_s = self.seen_s - began_s
        self._done.set()

    def _look(self) -> list[Seen] | None:
        if self._forget:
            self._reader.forget()
        threads = self._reader.threads()
        found = [self._see(thread) for thread in threads]
        seen = [one for one in found if one is not None and one.stack]
        waiting = () if seen else self._reader.awaited()
        if waiting:
            seen = [Seen(0, waiting, 0, waits=True)]
        unread = not threads or (not seen and None in found)
        return None if unread or self._reader.gone else seen

    def _see(self, thread: Thread) -> Seen | None:
        """Look at one thread; ``None`` when its stack could not be read."""
        before, waited = _activity(self._pid, thread.native_id)
        stack = self._reader.stack(thread)
        if not stack:
            return None if stack is None else Seen(thread.native_id, (), 0)
        faults, waits = _activity(self._pid, thread.native_id)
        # One that falls asleep or wakes just then is on a line that waits as well.
        return Seen(thread.native_id, stack, faults, waits=waited or waits, writes=faults > before)


def _activity(pid: int | None, native_id: int) -> tuple[int, bool]:
    """Return how many page faults a thread had that took memory, and whether it waits; 0 and no when it is gone."""
    text = read(f"/proc/{pid}/task/{native_id}/stat")
    try:
        fields = text[text.rindex(")") + 2 :].split() if text else ["", *"0000000"]
        return int(fields[7]), fields[0] == "S"
    except (ValueError, IndexError):
        return 0, False


class SamplerThread:
    """A thread for what may take long, started when it is first asked."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy_since_s: float | None = None
        self._stuck = 0

    def ask(self, work: Callable[[], None]) -> None:
        """Have it done soon; returns at once. It must not raise."""
        since_s = self._busy_since_s
        stuck = since_s is not None and time.monotonic() - since_s > STUCK_S
        if self._thread is None or (stuck and self._stuck < MOST_STUCK):
            self._stuck += stuck
            self._busy_since_s = None
            self._thread = threading.Thread(target=self._serve, name="flyte-notebook-sampler", daemon=True)
            self._thread.start()
        self._queue.put(work)

    def close(self) -> None:
        """End the thread once it has done what was asked."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)

    def _serve(self) -> None:
        while True:
            work = self._queue.get()
            if work is None:
                return
            self._busy_since_s = time.monotonic()
            work()
            if self._thread is not None and threading.current_thread() is not self._thread:
                self._stuck -= 1  # it was stuck, and another one took its place
                return
            self._busy_since_s = None


sampler = SamplerThread()
"""The one of this process that looks."""

errands = SamplerThread()
"""The thread for work that nothing waits for."""
