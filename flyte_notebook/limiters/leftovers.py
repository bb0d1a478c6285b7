"""Finds and removes the rest of a session whose notebook kernel and supervisor were both killed.

Processes, groups and files of a session carry its name, and its directory has a lock: `life` checks by the lock that
the session is over, and keeps the lock while this module kills processes and removes groups and files. Sessions of
another container, boot or machine, and sessions that are not provably over, are not touched, but can be counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from flyte_notebook.limiters import cgroup_v1, life
from flyte_notebook.limiters.base import LimiterUnavailableError
from flyte_notebook.limiters.cgroup_v2 import find_base
from flyte_notebook.limiters.control_groups import clear, own
from flyte_notebook.limiters.processes import PROC, listed, marks


def sweep(
    *,
    pids: Iterable[int] | None = None,
    groups: Iterable[str] | None = None,
    own: str = "",
    directory: str | None = None,
) -> tuple[str, ...]:
    """Kill and remove the rest of sessions that are over; return the removed things. Never raises.

    ``pids``, ``groups`` (parent directories of sessions' groups) and ``directory`` (the parent of sessions'
    directories) narrow the search; ``None`` means all that are visible, and the directory for temporary files. ``own``
    is the name of a session that goes on, but has no supervisor: its processes and groups are removed too, its files
    are kept.
    """
    marked = _marked(pids if pids is not None else listed() if PROC else ())
    grouped = _grouped(groups if groups is not None else _places() if PROC else ())
    place = os.path.abspath(tempfile.gettempdir() if directory is None else directory)  # noqa: PTH100 - a text as others
    found = []
    if own:
        found += [*_kill(own, marked), *_clear(own, grouped)]
    for name in sorted({*marked, *grouped, *_names(place)} - {own}):
        with life.proven_over(name, place) as proven:
            if proven is not None:
                found += [*_kill(name, marked), *_clear(name, grouped)]
                life.remove(proven)
                found.append(proven.path)
    return tuple(found)


def left_alone(directory: str, groups: Iterable[str] | None = None) -> int:
    """Count the sessions of this user that have files or groups here, but are from another place or not provably over.

    The arguments narrow the search as those of `sweep`; call it after `sweep`.
    """
    places = [directory, *(groups if groups is not None else _places() if PROC else ())]
    return len({name for place in places for name in _names(place) if _is_ours(f"{place}/{name}") and _unproven(name)})


def _is_ours(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except OSError:
        return False


def _unproven(name: str) -> bool:
    return not life.of_here(name) or life.over(name)


def _marked(pids: Iterable[int]) -> dict[str, list[tuple[int, str]]]:
    """Return processes, with their attempts, by the session that their environment names."""
    found: dict[str, list[tuple[int, str]]] = {}
    for pid in pids:
        marked = marks(pid)
        if marked is not None and _same_namespace(pid):
            found.setdefault(marked[0], []).append((pid, marked[1]))
    return found


def _kill(name: str, marked: Mapping[str, list[tuple[int, str]]]) -> list[str]:
    found = []
    for pid, attempt in marked.get(name, ()):
        with contextlib.suppress(OSError):  # it ended meanwhile
            os.kill(pid, signal.SIGKILL)
            found.append(f"process {pid} of {name}/{attempt}")
    return found


def _grouped(places: Iterable[str]) -> dict[str, list[str]]:
    """Return the groups of sessions, by the name of the session."""
    found: dict[str, list[str]] = {}
    for place in places:
        for name in _names(place):
            found.setdefault(name, []).append(f"{place}/{name}")
    return found


def _clear(name: str, grouped: Mapping[str, list[str]]) -> list[str]:
    found = list(grouped.get(name, ()))
    for directory in found:
        clear(directory)
    return found


def _places() -> set[str]:
    places = {place for controller in ("memory", "cpu", "pids") if (place := cgroup_v1.base_directory(controller))}
    v2 = own("")
    if v2 is not None:
        with contextlib.suppress(LimiterUnavailableError):  # then there can be no groups of ours
            places.add(find_base(*v2, root=os.geteuid() == 0).directory)
    return places


def _names(place: str) -> list[str]:
    """Return the names of sessions that have a directory (not a symbolic link) in a place."""
    try:
        with os.scandir(place) as entries:
            found = [entry for entry in entries if life.NAME.fullmatch(entry.name)]
            return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _same_namespace(pid: int) -> bool:
    """Whether that process is in our pid namespace; a process in a container is not."""
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino == Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return False
