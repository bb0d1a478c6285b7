"""Limited groups that a test makes by hand, beside what the package makes, in either version of control groups.

In version 2 only root may make a group where the tests are; an ordinary user asks systemd for a slice.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.limiters.control_groups import own
from flyte_notebook.limiters.kernel_files import parse_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

JOIN = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
IN_SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandMade:
    """A limited group. ``words`` before a command start it inside, and inside is what it starts."""

    directory: Path
    words: tuple[str, ...]

    @property
    def peak_bytes(self) -> int:
        """The most that was ever in use inside."""
        names = ("memory.max_usage_in_bytes", "memory.peak")
        return int(next(path for name in names if (path := self.directory / name).exists()).read_text())

    @property
    def refusals(self) -> int:
        """How often the kernel had to refuse memory for this limit, and look for some that it could drop."""
        if (count := self.directory / "memory.failcnt").exists():
            return int(count.read_text())
        return parse_counts((self.directory / "memory.events.local").read_text())["max"]

    def limit(self, memory_bytes: int) -> None:
        """Set the limit, without swap."""
        for name, value in (("memory.swappiness", 0), ("memory.swap.max", 0)):
            if (self.directory / name).exists():
                (self.directory / name).write_text(str(value))
        limit_file(self.directory).write_text(str(memory_bytes))


def limit_file(group: Path) -> Path:
    """Return the file that holds the memory limit of a group."""
    v2 = group / "memory.max"
    return v2 if v2.exists() else group / "memory.limit_in_bytes"


@contextlib.contextmanager
def hand_made(memory_bytes: int) -> Iterator[HandMade]:
    """Make a group, and remove it; nothing may be left inside by then."""
    v1, v2 = own("memory"), own("")
    if v1 is None and os.geteuid() != 0:
        with _slice(memory_bytes) as group:
            yield group
        return
    above = v1 or (v2 and (v2[1], ""))
    assert above
    directory = Path(above[0], f"fnb-hand-made-{os.getpid()}")
    directory.mkdir()
    try:
        if (directory / "memory.use_hierarchy").exists():
            (directory / "memory.use_hierarchy").write_text("1")
        group = HandMade(directory=directory, words=("/bin/sh", "-c", JOIN, str(directory)))
        group.limit(memory_bytes)
        yield group
    finally:
        # In version 2 what lives in a group moves to a leaf, which stays when the session goes.
        for leaf in directory.glob("fnb-main"):
            leaf.rmdir()
        directory.rmdir()


@contextlib.contextmanager
def _slice(memory_bytes: int) -> Iterator[HandMade]:
    """Have systemd make one for this user; a dash in the name would be a slice inside another."""
    name = f"fnbhandmade{os.getpid()}.slice"

    def systemctl(*words: str) -> str:
        command = ["systemctl", "--user", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    systemctl("set-property", "--runtime", name, f"MemoryMax={memory_bytes}", "MemorySwapMax=0")
    systemctl("start", name)
    try:
        mounted = own("")
        assert mounted is not None
        directory = Path(mounted[1] + systemctl("show", "--property=ControlGroup", "--value", name))
        yield HandMade(directory=directory, words=(*IN_SCOPE, f"--slice={name}"))
    finally:
        systemctl("stop", name)
        systemctl("revert", name)
