"""What a session leaves when its notebook kernel and its supervisor are both killed, and how to remove it.

Everything of a session carries its name, ``fnb-<pid>-<start ticks>-<8 hex digits>`` with pid and start time of the
notebook's kernel: control groups, temporary directories, and the environment of workers. When no process with that pid
and start time is there any more, the session is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.limiters import cgroup_v1
from flyte_notebook.limiters.base import LimiterUnavailableError
from flyte_notebook.limiters.cgroup_v2 import find_base
from flyte_notebook.limiters.control_groups import clear, own
from flyte_notebook.limiters.processes import PROC, listed, marks, stat

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = re.compile(r"fnb-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}")


def session_name(pid: int) -> str:
    """Return a new name for the session of the notebook kernel with that pid. Raises ProcessLookupError."""
    start = _start(pid)
    if start is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return f"fnb-{pid}-{start}-{os.urandom(4).hex()}"


def over(name: str) -> bool:
    """Whether a name is that of a session whose notebook kernel is gone."""
    match = NAME.fullmatch(name)
    return match is not None and _start(int(match["pid"])) != int(match["start"])


def sweep(*, pids: Iterable[int] | None = None, groups: Iterable[str] | None = None, own: str = "") -> tuple[str, ...]:
    """Kill and remove what sessions that are over left behind; returns what was removed. Never raises.

    Only our own groups' surroundings and our own user's files: names of another container's sessions would not mean
    what they mean here. ``pids`` and ``groups`` (directories in which sessions stand) narrow the search; ``None`` means
    all that can be seen. ``own`` is the name of a session that goes on, but has no supervisor: its processes and groups
    go too, its files stay.
    """
    candidates = pids if pids is not None else listed() if PROC else ()
    places = groups if groups is not None else _places() if PROC else ()
    return (*_sweep_processes(candidates, own), *_sweep_groups(places, own), *_sweep_files())


def _sweep_processes(pids: Iterable[int], own: str) -> list[str]:
    found = []
    for pid in pids:
        marked = marks(pid)
        if marked is not None and (marked[0] == own or over(marked[0])) and _same_namespace(pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # it ended meanwhile
            found.append(f"process {pid} of {'/'.join(marked)}")
    return found


def _places() -> set[str]:
    places = {place for controller in ("memory", "cpu", "pids") if (place := cgroup_v1.base_directory(controller))}
    v2 = own("")
    if v2 is not None:
        with contextlib.suppress(LimiterUnavailableError):  # then nothing of ours can be there
            places.add(find_base(*v2, root=os.geteuid() == 0).directory)
    return places


def _sweep_groups(places: Iterable[str], session: str) -> list[str]:
    found = [str(path) for place in places for path in _named(place, session)]
    for directory in found:
        clear(directory)
    return found


def _sweep_files() -> list[str]:
    found = []
    for path in _named(tempfile.gettempdir()):
        if path.stat(follow_symlinks=False).st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)
            found.append(str(path))
    return found


def _named(place: str, session: str = "") -> list[Path]:
    """Return the directories in a place, no symbolic links, that belong to sessions that are over, or to this one."""
    try:
        with os.scandir(place) as entries:
            found = [entry for entry in entries if entry.name == session or over(entry.name)]
            return [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _same_namespace(pid: int) -> bool:
    """Whether pids mean to that process what they mean to us; in a container they do not."""
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino == Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return False


def _start(pid: int) -> int | None:
    """Return when a process started, in ticks since boot (hundredths of a second of the day's clock on macOS)."""
    if PROC:
        found = stat(pid)
        return None if found is None else found.start_ticks
    import psutil  # noqa: PLC0415 - only where there is no /proc

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.Error:
        return None
