"""Control groups version 2: one hierarchy, a directory per session and one per attempt.

``memory.max`` is the limit, ``memory.swap.max`` 0 keeps swap from extending it, and ``memory.oom.group`` makes the
kernel end all processes of the group together. ``memory.events`` counts: ``oom_kill`` rises once per process killed for
any reason, and ``oom`` only when this group's own limit (or one below) was the reason. ``cpu.max`` is the CPU time per
period. Source: kernel Documentation/admin-guide/cgroup-v2.rst. By kernel: ``cgroup.kill`` from 5.14, ``memory.peak``
from 5.19; both have a fallback.

Only leaf groups may contain processes, so processes in our group must first move to a leaf group, ``fnb-main``; it is
kept, because they continue to run in it. An ordinary user may do all this only in a delegated group:
`systemd_scope_command` gets one from systemd.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.limiters import affinity
from flyte_notebook.limiters.attempt_group import AttemptGroup, fresh
from flyte_notebook.limiters.base import Counters, LimiterUnavailableError
from flyte_notebook.limiters.control_groups import CPU_PERIOD_US, Meter, clear, own, prove_entry, quota_us, upwards
from flyte_notebook.limiters.kernel_files import parse_counts, read, read_number, write
from flyte_notebook.limiters.session_limits import Room, shares

if TYPE_CHECKING:
    from flyte_notebook.core.limits import CpuMechanism

MAIN = "fnb-main"
CACHE_KEYS = (b"\ninactive_file ", b"\nactive_file ")
PROOF_BYTES = 64 << 20
MOVE_ROUNDS = 10
"""How often to look again for processes that were forked while the others moved."""


class CgroupV2:
    """Groups next to ``fnb-main`` in our delegated group, or for root under the top of the hierarchy."""

    def __init__(self, session: str) -> None:
        """Make the session's directory and try it. Raises `LimiterUnavailableError` where that is not allowed."""
        found = own("")
        if found is None:
            raise LimiterUnavailableError(errno.ENODEV, "cgroup v2: no hierarchy is mounted here")
        base = find_base(*found, root=os.geteuid() == 0)
        self._cpus = affinity.Cpus()
        self._session = f"{base.directory}/{session}"
        self._room = Room(self._session + "/memory.current", self._session + "/memory.max")
        try:
            if base.occupied:
                _move_to_main(base.directory)
            cpu_is_held = _enable(base.directory)
            Path(self._session).mkdir(exist_ok=True)
            self._cpu_is_held = _enable(self._session) and cpu_is_held
            self._pids_each = self._limit_pids(base.directory, found[1])
            self._prove()
        except OSError as refused:
            clear(self._session)
            raise LimiterUnavailableError(
                refused.errno, f"cgroup v2: {base.directory} cannot hold limited groups: {refused}"
            ) from refused
        otherwise: CpuMechanism = "affinity" if affinity.AVAILABLE else "none"
        self.enforcement = Enforcement(memory="cgroup_v2", cpu="cgroup_v2" if self._cpu_is_held else otherwise)

    def group(self, name: str, limits: Limits) -> AttemptGroup:
        """Make the group of one attempt, its limits set. Raises OSError when the kernel refuses."""
        directory = f"{self._session}/fnb-{name}"

        def limit(limits: Limits) -> float | None:
            _limit_memory(directory, limits.memory_bytes)
            if not self._cpu_is_held:
                return limits.cpu_cores
            if limits.cpu_cores is not None:
                write(directory + "/cpu.max", f"{quota_us(limits.cpu_cores)} {CPU_PERIOD_US}")
            return None

        with fresh([directory]):
            if self._pids_each is not None:
                write(directory + "/pids.max", str(self._pids_each))
            return AttemptGroup(
                [directory],
                meter=Meter(directory + "/memory.current", directory + "/memory.stat", CACHE_KEYS),
                count=lambda: _count(directory),
                limit=limit,
                limits=limits,
                cpu_allocator=self._cpus,
            )

    def keep_room(self) -> None:
        """Limit all attempts together to the memory left in a limited group above."""
        self._room.keep()

    def close(self) -> None:
        """Kill the processes of every remaining group of this session and remove the groups. Idempotent."""
        clear(self._session)

    def _limit_pids(self, directory: str, point: str) -> int | None:
        """Limit the session's processes; return an attempt's share, ``None`` where the controller was not delegated."""
        if "pids" not in _words(self._session, "subtree_control"):
            return None
        session_most, each = shares(directory, point)
        write(self._session + "/pids.max", str(session_most))
        return each

    def _prove(self) -> None:
        name = f"proof-{os.getpid()}"
        group = self.group(name, Limits(memory_bytes=PROOF_BYTES, cpu_cores=0.5))
        try:
            prove_entry([f"{self._session}/fnb-{name}"])
        finally:
            group.remove()


def _count(directory: str) -> Counters | None:
    """Return the counters of a group, ``None`` when it is removed."""
    events = read(directory + "/memory.events")
    if events is None:
        return None
    peak_bytes = read_number(directory + "/memory.peak")
    source = "samples" if peak_bytes is None else "kernel counter"
    return replace(read_events(events), peak_bytes=peak_bytes, peak_source=source)


def read_events(text: str) -> Counters:
    """Return the numbers in ``memory.events``; they include events of groups below, but not of groups above."""
    events = parse_counts(text)
    return Counters(oom_kills=events.get("oom_kill", 0), limit_reached=events.get("oom", 0) > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The parent group of sessions; ``occupied`` when processes in it must first move to ``fnb-main``."""

    directory: str
    occupied: bool


def find_base(directory: str, point: str, *, root: bool) -> Base:
    """Return the parent group for sessions, given our own group and its mount point. Raises `LimiterUnavailableError`.

    In this order: the parent of ``fnb-main`` if we were moved there before; the top of the hierarchy, which may contain
    both processes and groups; for root outside of any delegated or limited group, the top as well, so that no process
    has to move; our own group, if it is writable.
    """
    above = directory.rpartition("/")[0]
    if directory.rpartition("/")[2] == MAIN and _writable(above) and "memory" in _words(above, "subtree_control"):
        return Base(directory=above, occupied=False)
    if "memory" not in _words(directory, "controllers"):
        raise LimiterUnavailableError(errno.ENODEV, f"cgroup v2: {directory} has no memory controller")
    if _is_top(directory) and _writable(directory):
        return Base(directory=directory, occupied=False)
    if root and _is_top(point) and not _delegated(directory) and _writable(point) and not _limited(directory, point):
        return Base(directory=point, occupied=False)
    if _writable(directory):
        return Base(directory=directory, occupied=True)
    reason = f"cgroup v2: {directory} may not be written: it was not delegated to us"
    raise LimiterUnavailableError(errno.EACCES, reason)


def systemd_scope_command() -> list[str] | None:
    """Return the words before a command that start it in a delegated scope of systemd's user manager.

    ``None`` where this is not needed (our own group is sufficient), not possible (no cgroup v2 memory controller, no
    user manager that can be reached through ``XDG_RUNTIME_DIR``, no ``systemd-run``), or not wanted (another mechanism
    is forced, or tasks in a scope would escape a limit that applies to us). The scope exists until its last process
    ends. Source: systemd-run(1), systemd's CGROUP_DELEGATION.md.
    """
    found = own("") if sys.platform == "linux" else None
    if found is None or os.environ.get("FLYTE_NOTEBOOK_LIMITER", "cgroup_v2") != "cgroup_v2":
        return None
    try:
        find_base(*found, root=os.geteuid() == 0)
    except LimiterUnavailableError:
        if os.geteuid() != 0 and "memory" in _words(found[1], "controllers") and user_manager_answers():
            program = _systemd_run()
            if program is not None and not held_outside(*found):
                return [program, "--user", "--scope", "-p", "Delegate=yes", "--quiet", "--collect"]
    return None


def held_outside(directory: str, point: str) -> bool:
    """Whether a limited group is above us but not above the user manager, which has the scopes: a service, a job."""
    user = f"{point}/user.slice/user-{os.geteuid()}.slice/"
    return any(_limits(place) for place in upwards(directory, point) if not user.startswith(place + "/"))


def user_manager_answers() -> bool:
    """Whether ``XDG_RUNTIME_DIR`` has a socket of systemd's user manager."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return bool(runtime) and any(Path(f"{runtime}/{name}").exists() for name in ("systemd/private", "bus"))


def _systemd_run() -> str | None:
    paths = (f"{directory}/systemd-run" for directory in os.get_exec_path())
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def _is_top(directory: str) -> bool:
    """Whether this is the real top of the hierarchy: only the top group has no ``cgroup.type``."""
    return not Path(directory + "/cgroup.type").exists()


def _words(directory: str, name: str) -> list[str]:
    return (read(f"{directory}/cgroup.{name}") or "").split()


def _writable(directory: str) -> bool:
    return os.access(directory, os.W_OK) and os.access(directory + "/cgroup.procs", os.W_OK)


def _delegated(directory: str) -> bool:
    """Whether systemd has delegated the group to us (an extended attribute, systemd 251)."""
    if sys.platform != "linux":
        return False
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _limited(directory: str, point: str) -> bool:
    """Whether a group above us is limited: groups at the top would escape this limit."""
    return any(_limits(place) for place in upwards(directory, point))


def _limits(directory: str) -> bool:
    """Whether a group limits memory, CPU time or CPUs of the groups below it."""
    memory, time, cpus = (read(f"{directory}/{name}") or "" for name in ("memory.max", "cpu.max", "cpuset.cpus"))
    return memory[:1].isdigit() or time[:1].isdigit() or bool(cpus.strip())


def _move_to_main(directory: str) -> None:
    main = f"{directory}/{MAIN}"
    Path(main).mkdir(exist_ok=True)
    for _ in range(MOVE_ROUNDS):
        pids = _words(directory, "procs")
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                write(main + "/cgroup.procs", pid)


def _enable(directory: str) -> bool:
    """Turn controllers on for the groups below. Returns whether CPU is among them; raises OSError without memory."""
    switch = directory + "/cgroup.subtree_control"
    write(switch, "+memory")
    for word in ("+pids", "+cpu"):
        with contextlib.suppress(OSError):  # not delegated; memory is most important
            write(switch, word)
    return "cpu" in _words(directory, "subtree_control")


def _limit_memory(directory: str, memory_bytes: int | None) -> None:
    write(directory + "/memory.oom.group", "1")
    if memory_bytes is None:
        return
    write(directory + "/memory.max", str(memory_bytes))
    if Path(directory + "/memory.swap.max").exists():  # missing on a kernel without swap
        write(directory + "/memory.swap.max", "0")
