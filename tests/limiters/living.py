"""Processes that stand for a notebook's kernel with a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = """
import os, sys, time
from flyte_notebook.limiters.life import Life, session_name

life = Life.begin(session_name(os.getpid()))
exec(sys.argv[1])
print(life.directory.path, flush=True)
time.sleep(60)
"""


class Kernel:
    """One of them; ``prefix`` are words before its command, ``then`` is code that it runs with its ``life``."""

    def __init__(self, prefix: Sequence[str] = (), then: str = "") -> None:
        command = [*prefix, sys.executable, "-c", PROGRAM, then]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.directory = Path(self.process.stdout.readline().strip())
        self.session = self.directory.name

    def die(self) -> None:
        """Be killed, and be collected."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
