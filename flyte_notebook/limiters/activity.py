"""Checks whether a process is active, and which of its own limits it has reached (setrlimit(2), proc(5))."""

from __future__ import annotations

import contextlib
import mmap

from flyte_notebook.limiters.kernel_files import read
from flyte_notebook.limiters.processes import PROC

NEARLY = 0.9
"""A process that has used this part of a limit may be refused the next allocation: these are often several MiB."""

_NAMES = {"Max address space": ("RLIMIT_AS", 0), "Max data size": ("RLIMIT_DATA", 5)}
"""Lines of ``/proc/PID/limits``, with the field of ``/proc/PID/statm`` that counts against each."""


def activity(pid: int) -> tuple[int, ...] | None:
    """Return numbers that stay the same while a process does nothing; ``None`` when they are not meaningful now.

    This is so for a process that waits for a disk, or that was stopped.
    """
    if not PROC:
        import psutil  # noqa: PLC0415 - only where there is no /proc

        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            return ()
        return (int(times.user * 1000), int(times.system * 1000))
    text = read(f"/proc/{pid}/stat")
    if not text:
        return ()
    fields = text[text.rindex(")") + 2 :].split()
    # Minor and major page faults, and time in user and system mode, of all threads.
    return None if fields[0] in "DTt" else tuple(map(int, (fields[7], fields[9], fields[11], fields[12])))


def stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP), as far as this is known; a debugger does not count."""
    text = read(f"/proc/{pid}/stat") if PROC else None
    return text is not None and text[text.rindex(")") + 2 :].startswith("T")


def reached(pid: int) -> tuple[str, int, int] | None:
    """Return a limit that a process has (nearly) reached, its bytes, and those in use; ``None`` if there is none."""
    used = (read(f"/proc/{pid}/statm") or "").split()
    for line in (read(f"/proc/{pid}/limits") or "").splitlines():
        for words, (name, field) in _NAMES.items():
            with contextlib.suppress(ValueError, IndexError):  # unlimited, or the process has ended
                limit_bytes = int(line.removeprefix(words).split()[0]) if line.startswith(words) else None
                used_bytes = int(used[field]) * mmap.PAGESIZE
                if limit_bytes is not None and used_bytes >= NEARLY * limit_bytes:
                    return name, limit_bytes, used_bytes
    return None
