"""How a process joins the group of an attempt: it does so itself, with the settings of the group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyte_notebook.limiters import affinity, kernel_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def join(procs_files: Sequence[str], cpus: Iterable[int]) -> None:
    """Put the calling process into a group, given its ``procs_files`` and ``cpus``; see `limiters.base.TaskGroup`.

    For a process between fork and exec: system calls only. Raises OSError when the kernel refuses.
    """
    for door in procs_files:
        kernel_files.write(door, "0")  # "0" means itself
    affinity.bind(frozenset(cpus))
