"""Reads stacks in a separate thread, so that nothing else waits when the kernel locks a process's memory.

Reading another process's memory takes the lock of its mappings, which a fork holds: with many forks for seconds, and
only SIGKILL ends the wait (``mmap_lock``, kernel mm/memory.c, ``__access_remote_vm``). The thread only does the work
requested here; when it is stuck, another thread replaces it.
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
    """A thread in the user's code: its lines, the innermost first, and its number of page faults.

    ``waits`` is whether it only waited at that moment, so that its line changes no memory; ``writes`` whether it had
    page faults at exactly that moment.
    """

    native_id: int
    stack: tuple[Place, ...]
    faults: int
    waits: bool = False
    writes: bool = False


STUCK_S: Final = 0.3
MOST_STUCK: Final = 8


class StackSample:
    """One look at all threads of a process. It holds the results when it is ``done``.

    ``seen`` are the threads that are in the user's code, the oldest first; ``None`` when they could not be read. It
    also holds the reason for the look: the change of memory, and whether the ``oldest`` thread has to be taken.
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
        """Whether the look is done."""
        return self._done.is_set()

    def wait(self, bound_s: float) -> bool:
        """Wait for the look; return whether it is done."""
        return self._done.wait(bound_s)

    def run(self) -> None:
        """Do the look."""
        began_s = time.monotonic()
        try:
            with self._reader.in_use():
                self.seen = self._look()
        except Exception:  # noqa: S110 - on any error nothing was read, and the next look may succeed
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
        before, waited = activity(self._pid, thread.native_id)
        stack = self._reader.stack(thread)
        if not stack:
            return None if stack is None else Seen(thread.native_id, (), 0)
        faults, waits = activity(self._pid, thread.native_id)
        # A thread that begins or ends its wait just then is on a line that waits as well.
        return Seen(thread.native_id, stack, faults, waits=waited or waits, writes=faults > before)


def activity(pid: int | None, native_id: int) -> tuple[int, bool]:
    """Return how many page faults of a thread took memory, and whether it waits; 0 and no when it has ended."""
    text = read(f"/proc/{pid}/task/{native_id}/stat")
    try:
        fields = text[text.rindex(")") + 2 :].split() if text else ["", *"0000000"]
        return int(fields[7]), fields[0] == "S"
    except (ValueError, IndexError):
        return 0, False


class SamplerThread:
    """A thread for work that may take long, started at the first request."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy_since_s: float | None = None
        self._stuck = 0

    def ask(self, work: Callable[[], None]) -> None:
        """Queue a function; returns at once. The function must not raise."""
        since_s = self._busy_since_s
        stuck = since_s is not None and time.monotonic() - since_s > STUCK_S
        if self._thread is None or (stuck and self._stuck < MOST_STUCK):
            self._stuck += stuck
            self._busy_since_s = None
            self._thread = threading.Thread(target=self._serve, name="flyte-notebook-sampler", daemon=True)
            self._thread.start()
        self._queue.put(work)

    def close(self) -> None:
        """End the thread after its queued work."""
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
                self._stuck -= 1  # it was stuck, and another thread replaced it
                return
            self._busy_since_s = None


sampler = SamplerThread()
"""The thread of this process that reads stacks."""

errands = SamplerThread()
"""The thread for work whose result is not waited for."""
