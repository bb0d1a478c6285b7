"""What a test may leave behind: nothing. Finds processes, limit groups, descriptors, threads and files that stayed.

Two snapshots are compared: what was there before is fine, what came and stayed is a leak. Processes are found by
descent and by a marker in their environment, so that one that lost its parent is found as well. Another run of the
tests on the same machine has a marker of its own and is left out.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["process", "group", "descriptor", "thread", "file"]
KINDS: tuple[Kind, ...] = get_args(Kind)

GRACE_S = 10.0
"""How long something may take to go away by itself after a test, each thing from where it was first seen."""
MOST_GRACES = 5
"""So long there may be something else each time; a session that is open makes and ends processes now and then."""
POLL_S = 0.02
COLLECT_S = 0.5
"""How often what has been there for longer is looked through for cycles; all that was imported takes a while."""

RUN_MARKER = "FLYTE_NOTEBOOK_TEST_RUN"
"""Environment variable that every process started by this run of the tests inherits."""

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_DEPTH = 8
"""How deep under the root a group of ours is looked for."""

PREFIX = "fnb-"

OWNER = re.compile(rf"{PREFIX}(?:[a-z-]+-)?(?P<pid>\d+)(?:-(?P<start>\d+)-)?")
"""Beginning of a name: the pid of the process that made the thing, and for a session also when that process started."""

KERNEL_THREADS = 2
"""The parent of all threads of the Linux kernel, which have no environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifelong:
    """A thread that a library starts once and keeps until the interpreter ends, and the descriptors it holds."""

    name: re.Pattern[str]
    reason: str
    descriptors: tuple[str, ...] = ()


RUNTIME = "tokio runtime"
"""What stands for the threads of the SDK's HTTP client, which Python knows nothing of."""

LOOP = ("anon_inode:[eventpoll]", "socket", "socket")
LIFELONG = (
    Lifelong(name=re.compile("flyte_syncify|my_syncer"), reason="the SDK's one background loop", descriptors=LOOP),
    Lifelong(name=re.compile(".* : loop-runner"), reason="a loop the SDK's local controller keeps", descriptors=LOOP),
    Lifelong(
        name=re.compile(RUNTIME),
        reason="what the SDK's HTTP client runs on, from its first call on",
        descriptors=("anon_inode:[eventpoll]", "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "pipe", "pipe"),
    ),
    Lifelong(name=re.compile(r"asyncio_\d+"), reason="default executor of a loop that may outlive the test"),
    Lifelong(
        name=re.compile("fsspecIO"), reason="the loop of fsspec, which the SDK copies files with", descriptors=LOOP
    ),
    Lifelong(name=re.compile("IPythonHistorySavingThread"), reason="IPython keeps one for each shell"),
    Lifelong(name=re.compile("pytest_timeout .*"), reason="the clock of the test itself"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is there now, each with words that name it; descriptors are counted by what they point at."""

    processes: dict[tuple[int, str], str] = field(default_factory=dict)
    standing_ready: dict[tuple[int, str], tuple[int, str]] = field(default_factory=dict)
    """Processes without a job that belong to a session, and the supervisor of that."""
    groups: dict[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    """Paths of groups of somebody else, without those in them. What stays of a session that was killed has no owner."""
    descriptors: Counter[str] = field(default_factory=Counter)
    threads: dict[int, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def take(cls) -> Snapshot:
        """Look at the machine and at this process."""
        linux = sys.platform == "linux"
        processes = _processes() if linux else {}
        ours = {str(pid) for pid, _ in processes} | {str(os.getpid())}
        groups, others = _groups(ours) if linux else ({}, frozenset())
        return cls(
            processes=processes,
            standing_ready=_standing_ready(processes) if linux else {},
            groups=groups,
            others=others,
            descriptors=_descriptors() if linux else Counter(),
            threads={
                **{id(thread): thread.name for thread in threading.enumerate() if thread.is_alive()},
                **(_runtimes() if linux else {}),
            },
            files={str(path): str(path) for path in _files(ours)},
        )


def leaked(before: Snapshot, after: Snapshot, *, leave: frozenset[str] = frozenset()) -> list[str]:
    """Return a line for each thing in ``after`` that was not there ``before``; ``leave`` names kinds that may stay."""
    threads = [name for key, name in after.threads.items() if key not in before.threads]
    lifelong = [kept for name in threads for kept in LIFELONG if kept.name.fullmatch(name)]
    threads = [name for name in threads if not any(kept.name.fullmatch(name) for kept in LIFELONG)]
    descriptors = after.descriptors - before.descriptors
    descriptors -= Counter(target for kept in lifelong for target in kept.descriptors)
    # A session that was open before keeps workers ready, and makes new ones; they end with it.
    kept = {key for key, supervisor in after.standing_ready.items() if supervisor in before.processes}
    known = {*before.processes, *kept}
    members = {str(pid) for pid, _ in kept}
    found: dict[Kind, list[str]] = {
        "process": [words for key, words in after.processes.items() if key not in known],
        "group": [
            words
            for key, words in after.groups.items()
            if key not in before.groups and not _is_of(before.others, key) and not only(key, members)
        ],
        "descriptor": [f"{count} x {target}" for target, count in sorted(descriptors.items())],
        "thread": threads,
        "file": [words for key, words in after.files.items() if key not in before.files],
    }
    return [f"{kind}: {words}" for kind, lines in found.items() if kind not in leave for words in lines]


def settle(before: Snapshot, *, leave: frozenset[str] = frozenset(), grace_s: float | None = None) -> list[str]:
    """Return what is leaked for as long as ``grace_s`` (`GRACE_S`); at once when nothing is."""
    return settled(before, leave=leave, grace_s=grace_s)[0]


def settled(
    before: Snapshot, *, leave: frozenset[str] = frozenset(), grace_s: float | None = None
) -> tuple[list[str], Snapshot]:
    """Return what `settle` does, and what is there then."""
    grace_s = GRACE_S if grace_s is None else grace_s
    began_s = time.monotonic()
    since_s: dict[str, float] = {}
    collected_s = began_s
    while True:
        after = Snapshot.take()
        lines = leaked(before, after, leave=leave)
        now_s = time.monotonic()
        names = {line: line.partition(" (")[0] for line in lines}  # a process that ends has no command line any more
        since_s = {name: since_s.get(name, now_s) for name in names.values()}
        stayed = [line for line, name in names.items() if now_s - since_s[name] >= grace_s]
        if not lines or stayed or now_s - began_s >= MOST_GRACES * grace_s:
            return stayed or lines, after
        # A descriptor in a reference cycle is closed late, not never. Most cycles of a test are young.
        old = now_s - collected_s >= COLLECT_S
        collected_s = now_s if old else collected_s
        gc.collect(2 if old else 1)
        time.sleep(POLL_S)


def _processes() -> dict[tuple[int, str], str]:
    """Find processes of this run, by pid and start time; zombies that nobody collected count."""
    marker = f"{RUN_MARKER}={os.environ.get(RUN_MARKER, '')}".encode()
    parents: dict[int, int] = {}
    known: dict[int, tuple[str, str]] = {}
    for pid in _pids():
        # proc(5): the name stands in brackets and may hold any character; 1st field after it: state, 2nd: parent,
        # 20th: start time.
        if stat := _read(f"/proc/{pid}/stat"):  # else it ended while we looked
            after = stat[stat.rindex(b")") + 2 :].split()
            parents[pid] = int(after[1])
            known[pid] = (after[19].decode(), after[0].decode())
    ours = {pid for pid in known if _descends(pid, parents)}
    for pid, (_, state) in known.items():
        mine = pid in ours or state == "Z" or parents[pid] == KERNEL_THREADS
        if not mine and marker in _read(f"/proc/{pid}/environ").split(b"\0"):
            ours.add(pid)
    ours -= {os.getpid(), *_ancestors(os.getpid(), parents)}
    return {(pid, known[pid][0]): _process_words(pid, known[pid][1]) for pid in sorted(ours)}


def _standing_ready(processes: dict[tuple[int, str], str]) -> dict[tuple[int, str], tuple[int, str]]:
    """Return those that wait for a job, or for a word to fork one, with the supervisor they belong to."""
    by_pid = {pid: (pid, start) for pid, start in processes}
    found = {}
    for key in processes:
        if _read(f"/proc/{key[0]}/comm").strip() in {b"fnb-spare", b"fnb-server", b"fnb-launcher"}:
            parent = _parent(key[0])
            if parent in by_pid:
                found[key] = by_pid[parent]
    return found


def only(group: str, members: set[str]) -> bool:
    """Whether a group holds nobody but these, and somebody."""
    inside = set(_read(Path(group, "cgroup.procs")).decode().split())
    return bool(inside) and inside <= members


def _is_of(others: frozenset[str], group: str) -> bool:
    """Whether a group is one of those, or in one of them."""
    return not others.isdisjoint((group, *map(str, Path(group).parents)))


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    found = []
    while (pid := parents.get(pid, 0)) > 0:
        found.append(pid)
    return found


def _descends(pid: int, parents: dict[int, int]) -> bool:
    return os.getpid() in _ancestors(pid, parents)


def _process_words(pid: int, state: str) -> str:
    command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    return f"{pid} ({'zombie, nobody waited for it' if state == 'Z' else command[:160]})"


def _groups(ours: set[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Find groups named as ours, by path, and those that belong to somebody else on this machine."""
    found = {}
    others = set()
    places = _own_places()
    strangers: list[str] | None = None
    for top in _walk(CGROUP_ROOT, CGROUP_DEPTH, until=PREFIX):
        if not top.name.startswith(PREFIX):
            continue
        owner = OWNER.match(top.name)
        # A session of ours is ours whoever is in it: a worker may have been forked after the processes were listed.
        known = owner is not None and owner["pid"] in ours
        if owner is not None and not known and _lives(owner["pid"], owner["start"]):
            others.add(str(top))
            continue
        inside = [top, *_walk(top, CGROUP_DEPTH)]  # not rglob, which fails when a directory goes while it looks
        members = {str(path): set(_read(path / "cgroup.procs").decode().split()) for path in inside}
        everybody = set().union(*members.values())
        of_others = everybody and not everybody & ours and not known
        # Where we live stays: in version 2 a session moves what is beside it to a leaf.
        if of_others or str(os.getpid()) in everybody:
            others.add(str(top))
            continue
        if not everybody and not known:
            if not any(top.is_relative_to(place) for place in places):
                others.add(str(top))  # of another container: what we start makes its groups below our own
                continue
            strangers = _strangers(ours) if strangers is None else strangers
            # The session's name stands in the command line of its supervisor; a test run of somebody else may hold any.
            name = top.name.removeprefix(PREFIX)
            if any(name in command or "pytest" in command for command in strangers):
                others.add(str(top))
                continue
        for path in inside:
            if path.name.startswith(PREFIX):
                count = sum(len(pids) for place, pids in members.items() if f"{place}/".startswith(f"{path}/"))
                found[str(path)] = f"{path} ({count} processes)"
    return found, frozenset(others)


def _own_places() -> list[Path]:
    """Return where our groups can be: below those that this process is in; with version 2 a scope may be elsewhere."""
    # cgroups(7): number:controllers:path, and no controllers where the line is that of version 2.
    lines = [line.split(":", 2) for line in _read("/proc/self/cgroup").decode().splitlines()]
    found = [Path(f"{CGROUP_ROOT / controllers}{path}") for _, controllers, path in lines if controllers]
    return found if (CGROUP_ROOT / "memory").is_dir() else [CGROUP_ROOT]


def _lives(pid: str, start: str | None) -> bool:
    """Whether there is a process with that pid, and with that time of its start if one is given."""
    stat = _read(f"/proc/{pid}/stat")
    return bool(stat) and start in {None, stat[stat.rindex(b")") + 2 :].split()[19].decode()}


def _strangers(ours: set[str]) -> list[str]:
    """Command lines of Python programs on this machine that are neither ours nor started us."""
    parents = {pid: _parent(pid) for pid in _pids()}
    family = ours | {str(pid) for pid in _ancestors(os.getpid(), parents)}
    others = [str(pid) for pid, parent in parents.items() if str(pid) not in family and parent != KERNEL_THREADS]
    commands = [_read(f"/proc/{pid}/cmdline") for pid in others]
    return [command.replace(b"\0", b" ").decode(errors="replace") for command in commands if b"python" in command]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - only the names


def _parent(pid: int) -> int:
    stat = _read(f"/proc/{pid}/stat")
    return int(stat[stat.rindex(b")") + 2 :].split()[1]) if stat else 0


def _walk(top: Path, depth: int, *, until: str | None = None) -> list[Path]:
    """List what is below a directory, and nothing below what has ``until`` at the beginning of its name."""
    try:
        with os.scandir(top) as entries:  # a group has dozens of files: no look at each of them
            below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    further = [path for path in below if depth > 1 and (until is None or not path.name.startswith(until))]
    return below + [path for entry in further for path in _walk(entry, depth - 1, until=until)]


def _descriptors() -> Counter[str]:
    targets: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - only the names
        try:
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - dozens of them for each snapshot
        except OSError:
            continue  # the one that listed them
        # A socket or pipe that was closed and opened again is no leak: its number in the kernel means nothing.
        targets[re.sub(r"^(socket|pipe):\[\d+\]$", r"\1", target)] += 1
    return targets


def _runtimes() -> dict[int, str]:
    """Say once whether there are threads of that kind: how many of them there are changes all the time."""
    names = (_read(f"/proc/self/task/{thread}/comm") for thread in os.listdir("/proc/self/task"))  # noqa: PTH208
    return {0: RUNTIME} if any(name.startswith(b"tokio") for name in names) else {}


def _files(ours: set[str]) -> list[Path]:
    """Find files named as ours, without those of somebody else: all on this machine have one /dev/shm."""
    places = {Path(tempfile.gettempdir()), Path("/dev/shm")}  # noqa: S108 - looked at, not written to
    found = [path for place in places if place.is_dir() for path in place.glob(f"{PREFIX}*")]
    return [path for path in found if not _is_of_another(path.name, ours)]


def _is_of_another(name: str, ours: set[str]) -> bool:
    """Whether the process that made what has that name lives and is not one of ours."""
    owner = OWNER.match(name)
    return owner is not None and owner["pid"] not in ours and _lives(owner["pid"], owner["start"])


def _read(path: Path | str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - hundreds of them for each snapshot
            return file.read()
    except OSError:
        return b""
