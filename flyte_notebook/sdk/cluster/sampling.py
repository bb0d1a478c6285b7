"""Starts the process that samples the memory of a task in a pod.

A thread would starve while C code holds the interpreter's lock, which is when memory grows.
"""

from __future__ import annotations

import os
import subprocess
import sys

from flyte_notebook.sdk.cluster import usage

_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from flyte_notebook.sdk.cluster import usage
usage.sample(int(sys.argv[2]))
"""


def start(pid: int) -> subprocess.Popen[bytes]:
    """Start to sample this process, whose number is given, and those that it starts; it ends with it, or by a kill.

    For a pod, where this package was loaded from an archive that has no imports of its own.
    """
    place = usage.__file__.partition(f"{os.sep}flyte_notebook{os.sep}")[0]
    command = [sys.executable, "-S", "-E", "-c", _PROGRAM, place, str(pid)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
