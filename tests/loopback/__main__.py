"""Start a plane by hand, in ``tests``: ``python -m loopback``. It prints where it listens, as one line of JSON.

It ends on Ctrl-C, or with ``--until-stdin-ends`` when whoever started it closes its input or is no more.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from .plane import Plane


async def main(place: Path, *, until_stdin_ends: bool) -> None:
    """Serve until told to end."""
    plane = Plane(place)
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)
    if until_stdin_ends:
        loop.add_reader(sys.stdin, end.set)
    await plane.open()
    print(json.dumps(plane.describe()), flush=True)
    await end.wait()
    await plane.close()


if __name__ == "__main__":
    if len(sys.argv) > 2:  # started by `handle.Plane`, which removes the directory
        asyncio.run(main(Path(sys.argv[1]), until_stdin_ends=True))
    else:
        directory = Path(tempfile.mkdtemp(prefix="loopback-"))
        try:
            asyncio.run(main(directory, until_stdin_ends=False))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
