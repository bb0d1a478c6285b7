"""A group of our own that stands for a machine, or for the container around us, and programs inside of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bounds
from hand_made import HandMade, hand_made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOUND_S = bounds.under_load(60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallMachine:
    """A limited group; everything that a program inside of it starts is inside as well."""

    group: HandMade
    memory_bytes: int

    def facts_of(self, program: str, script: Path, *, bound_s: float = BOUND_S) -> Any:
        """Run a program, written to ``script``, inside; return what stands after its word FACTS, as JSON."""
        script.write_text(program)
        done = subprocess.run(
            [*self.group.words, sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=bound_s,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        return json.loads(done.stdout.partition("FACTS ")[2])


@contextlib.contextmanager
def small_machine(memory_bytes: int) -> Iterator[SmallMachine]:
    """Make one, and remove it; nothing may be left inside by then."""
    with hand_made(memory_bytes) as group:
        yield SmallMachine(group=group, memory_bytes=memory_bytes)
