"""The memory and CPUs of the machine, or of the container around us, as seen from the notebook's kernel.

A container's limit is a control group above us; it counts as much as the machine's own memory. Read again at every
call, in about 100 us, because other programs use memory too. On macOS psutil is used.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from flyte_notebook.limiters.control_groups import membership, own, upwards
from flyte_notebook.limiters.kernel_files import parse_counts, read, read_number

V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")
V2_FILES = ("memory.max", "memory.current", "inactive_file", "active_file")
UNLIMITED_BYTES = 1 << 60
"""Version 1 has no value for "no limit", only a number above this."""


class Memory(NamedTuple):
    """Total and available memory in bytes: of the machine, or of a limited group above us."""

    capacity_bytes: int
    available_bytes: int


def memory() -> Memory:
    """Return both from one reading."""
    total, available = _machine()
    groups = list(_limited_groups())
    capacity = min([total, *(limit for limit, _, _ in groups)])
    return Memory(capacity, max(0, min([available, *(_left(*found) for found in groups)])))


def capacity_bytes() -> int:
    """Return the most memory that tasks can have: the machine's, or less where a group above us is limited."""
    return min([_total_bytes(), *(limit for limit, _, _ in _limited_groups())])


def available_bytes() -> int:
    """Return the memory available now without swapping; page cache that can be dropped counts as available."""
    return memory().available_bytes


def left_above_bytes() -> int | None:
    """Return the memory left in the limited groups above us, ``None`` where no group above is limited."""
    return min((_left(*found) for found in _limited_groups()), default=None)


def cpu_count() -> float:
    """Return the cores this process may use: its CPU affinity, or less where a group above us has a quota."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min([float(cpus), *_quotas()])


@functools.cache
def _total_bytes() -> int:
    return _machine()[0]


def _machine() -> tuple[int, int]:
    """Return physical and available memory, in bytes."""
    text = read("/proc/meminfo")
    if text is None:
        import psutil  # noqa: PLC0415 - only where there is no /proc: it would cost the supervisor memory

        memory = psutil.virtual_memory()
        return memory.total, memory.available
    found = {}
    for line in text.splitlines()[:8]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found["MemTotal"], found.get("MemAvailable", found["MemFree"])


def _limited_groups() -> Iterator[tuple[int, str, tuple[str, str, str, str]]]:
    """Yield limit, directory and file names of each group above us that limits memory, our own included."""
    groups = membership()
    for controller, files in (("memory", V1_FILES), ("", V2_FILES)):
        found = own(controller, groups)
        for directory in upwards(*found) if found else ():
            limit_bytes = read_number(f"{directory}/{files[0]}")
            if limit_bytes is not None and limit_bytes < UNLIMITED_BYTES:
                yield limit_bytes, directory, files


def _left(limit_bytes: int, directory: str, files: tuple[str, str, str, str]) -> int:
    usage_bytes = read_number(f"{directory}/{files[1]}") or 0
    stat = parse_counts(read(directory + "/memory.stat") or "")
    return limit_bytes - usage_bytes + stat.get(files[2], 0) + stat.get(files[3], 0)


def _quotas() -> Iterator[float]:
    """Yield the cores that each group above us allows."""
    found = own("cpu")
    for directory in upwards(*found) if found else ():
        quota_us = read_number(directory + "/cpu.cfs_quota_us")
        period_us = read_number(directory + "/cpu.cfs_period_us")
        if quota_us is not None and quota_us > 0 and period_us:
            yield quota_us / period_us
    found = own("")
    for directory in upwards(*found) if found else ():
        quota, _, period = (read(directory + "/cpu.max") or "").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            yield int(quota) / int(period)
