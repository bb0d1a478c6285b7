"""The protocol of all limiting mechanisms.

A limiter runs in the supervisor process, never in a limited group. Per attempt it makes one `TaskGroup`: the group is
made before the worker exists, the worker joins it between fork and exec (so that interpreter and imports count), and it
is removed after the last process in it has ended. The worker's environment names session and attempt
(`SESSION_VARIABLE`, `ATTEMPT_VARIABLE`): these identify a daemon, which has another parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flyte_notebook.core.limits import Enforcement, Limits


SESSION_VARIABLE = "FLYTE_NOTEBOOK_SESSION"
"""Environment variable of a worker: the session's name."""

ATTEMPT_VARIABLE = "FLYTE_NOTEBOOK_ATTEMPT"
"""Environment variable of a worker: the name its group was made with."""


class LimiterUnavailableError(OSError):
    """A mechanism does not work on this machine; the text says which one, why, and how to make it work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The kernel's counters of a group.

    ``oom_kills`` counts processes killed for memory; ``limit_reached`` says whether the group was at its own limit (a
    kill without it means that the machine, or a group above, ran out of memory). ``peak_bytes`` is ``None`` where the
    kernel keeps no peak; ``peak_source`` names its source. A kernel's peak counts page cache too: ``page_cache_bytes``
    is the most of it that any sample saw, so the peak of the memory that cannot be dropped is between the highest
    sample and ``peak_bytes``. ``machine_oom_kills`` is the rise of the machine-wide counter, filled only where no
    counter of the group exists: with it, a SIGKILL of unknown origin probably means that the machine ran out of memory.
    """

    oom_kills: int = 0
    limit_reached: bool = False
    peak_bytes: int | None = None
    peak_source: str = "samples"
    page_cache_bytes: int = 0
    machine_oom_kills: int = 0


class TaskGroup(Protocol):
    """All processes of one attempt, under one set of limits."""

    poll_interval_s: float | None
    """How often `sample` must be called to enforce the limit; ``None`` where the kernel enforces it."""

    alarm: int | None
    """Descriptor that can be read when usage comes near the limit, once it is set; ``None`` where the kernel has no
    such notification."""

    procs_files: tuple[str, ...]
    """Files to which a process writes "0" in order to join; none where nothing has to be written."""

    cpus: frozenset[int]
    """The CPUs to which a joining process binds itself; none where its binding is not changed."""

    def assign(self, name: str, limits: Limits) -> None:
        """Assign a group that was made without limits to an attempt, while its one process waits.

        Raises OSError when the kernel refuses, as version 1 does with a limit below the current usage.
        """

    def attach(self, pid: int) -> None:
        """Tell the group the pid of its first process, in the supervisor, once that one has joined."""

    def holds(self, pid: int) -> bool:
        """Whether the first process is still inside; one that is just ending counts as inside. Never raises."""

    def sample(self) -> int:
        """Return the bytes the task uses now, page cache excluded. Cheap enough for every 5 ms. Never raises."""

    def set_alarm(self) -> None:
        """Set up the kernel's notification by `alarm`. Takes about 50 ms, so it is done in a thread. Never raises."""

    def exceeded(self) -> bool:
        """Whether the last sample is above a limit that only this package enforces (watchdog)."""

    def counters(self) -> Counters:
        """Read the kernel's counters. Also valid after the last process ended, and after `remove`. Never raises."""

    def kill(self) -> None:
        """Send SIGKILL to every process of the group; returns at once, call again until `empty`."""

    def empty(self) -> bool:
        """Whether no living process is left in the group (zombies do not count)."""

    def alone(self, pid: int) -> bool:
        """Whether no living process but this one is in the group. Never raises."""

    def pids(self) -> list[int]:
        """Return the known processes of the group. Never raises."""

    def remove(self) -> None:
        """Remove the group from the machine; the group must be empty. Idempotent. Raises OSError if it is not."""


class Limiter(Protocol):
    """One mechanism, chosen once per session by `flyte_notebook.limiters.selection`."""

    enforcement: Enforcement

    def group(self, name: str, limits: Limits) -> TaskGroup:
        """Make the group of one attempt. ``name`` is safe as a file name. Raises OSError when the kernel refuses."""

    def keep_room(self) -> None:
        """Limit all attempts together to the memory left in a limited group above. Called each 100 ms; never raises."""

    def close(self) -> None:
        """Kill the processes of every remaining group of this session and remove the groups. Idempotent."""
