"""Programs that hand their memory over, and what reads them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flyte_notebook.worker.process import handover, protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flyte_notebook.worker.stacks.pystack import StackReader

HAND_OVER = "from flyte_notebook.worker.process import handover; handover.hand_over_fresh()\n"


@contextlib.contextmanager
def started(
    program: str, directory: Path, hand_over: str = HAND_OVER
) -> Iterator[tuple[StackReader, subprocess.Popen[bytes], str]]:
    """Start a program that hands its memory over; yield what reads it, the process, and its file."""
    file = directory / "program.py"
    file.write_text(hand_over + program, encoding="utf-8")
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.ExitStack() as at_end:
        os.set_inheritable(theirs.fileno(), True)
        script = f"exec {protocol.STACK_FD}<&{theirs.fileno()}; exec {sys.executable} {file}"
        process = subprocess.Popen(
            ["bash", "-c", script], pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        theirs.close()
        try:
            messages = protocol.ControlReader(ours).read()
            (message, fds) = messages[0]
            reader, why = handover.received(message, fds)
            assert "" == why
            assert reader is not None
            at_end.callback(reader.close)
            assert process.stdout is not None
            assert b"up\n" == process.stdout.readline()
            yield reader, process, str(file)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def eventually(found: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 10
    while not found():
        assert time.monotonic() < until
        time.sleep(0.01)
