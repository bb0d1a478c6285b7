"""A group of our own that stands for a machine, or for the container around us, and programs inside of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyte_notebook.limiters.control_groups import own

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallMachine:
    """A limited memory group (cgroup v1); everything that a program inside of it starts is inside as well."""

    group: Path
    memory_bytes: int

    def facts_of(self, program: str, script: Path, *, bound_s: float = BOUND_S) -> Any:
        """Run a program, written to ``script``, inside; return what stands after its word FACTS, as JSON."""
        script.write_text(program)
        join = f'echo $$ > "{self.group}/cgroup.procs"; exec "$@"'
        done = subprocess.run(
            ["/bin/sh", "-c", join, "sh", sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=bound_s,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        return json.loads(done.stdout.partition("FACTS ")[2])

    @property
    def peak_bytes(self) -> int:
        """The most that was ever in use inside."""
        return self._number("memory.max_usage_in_bytes")

    @property
    def refusals(self) -> int:
        """How often the kernel had to refuse memory, and look for some that it could drop."""
        return self._number("memory.failcnt")

    def _number(self, name: str) -> int:
        return int((self.group / name).read_text())


@contextlib.contextmanager
def small_machine(memory_bytes: int) -> Iterator[SmallMachine]:
    """Make one, and remove it; nothing may be left inside by then."""
    found = own("memory")
    assert found is not None
    group = Path(found[0], f"fnb-machine-{os.getpid()}")
    group.mkdir()
    if (group / "memory.use_hierarchy").read_text().strip() == "0":
        (group / "memory.use_hierarchy").write_text("1")
    (group / "memory.swappiness").write_text("0")
    (group / "memory.limit_in_bytes").write_text(str(memory_bytes))
    yield SmallMachine(group=group, memory_bytes=memory_bytes)
    group.rmdir()
