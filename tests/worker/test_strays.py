"""What falls to a process whose children keep their children: who is not known is killed, with all below it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from bounds import under_load

pytestmark = pytest.mark.linux

PROGRAM = """
import json, os, signal, sys, time
from flyte_notebook.worker.process import prctl, strays

def left(leave_running):
    "Start a process that ends at once and leaves a daemon, which leaves another one; return the pids of both."
    read, write = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            below = os.fork()
            if below == 0:
                time.sleep(leave_running)
                os._exit(0)
            os.write(write, f"{os.getpid()} {below}".encode())
            time.sleep(leave_running)
        os._exit(0)
    os.wait()
    return [int(pid) for pid in os.read(read, 100).split()]

def alive(pids):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    return [os.path.exists(f"/proc/{pid}") for pid in pids]

def end(known=(), unborn_since_s=float("inf")):
    "Kill, and say whether somebody is left after a while: who was killed takes a moment to die."
    until_s, again = time.monotonic() + 2, True
    while again and time.monotonic() < until_s:
        again = strays.end(strays.Own(set(known)), strays.Own(set(), unborn_since_s))
        time.sleep(0.01)
    time.sleep(0.05)
    return again

prctl.keep_orphans()
strays.PROC_CHILDREN = sys.argv[1] == "listed by the kernel"
found = {}
pids = left(100)
found["known"] = (end(known=pids[:1]), alive(pids))
found["unknown"] = (end(), alive(pids))
asked_s = time.monotonic()
pids = left(100)
found["began later"] = (end(unborn_since_s=asked_s), alive(pids))
time.sleep(0.05)
found["began before"] = (end(unborn_since_s=time.monotonic()), alive(pids))
print(json.dumps(found))
"""


@pytest.mark.parametrize("how", ["listed by the kernel", "looked for"])
def test_whoever_is_not_known_is_killed_with_all_below_it(how: str) -> None:
    """A daemon and what it started end, unless it is known or may be on its way to become known."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=under_load(30)
    )
    expected = {
        "known": [False, [True, True]],
        "unknown": [False, [False, False]],
        "began later": [True, [True, True]],
        "began before": [False, [False, False]],
    }
    assert expected == json.loads(ran.stdout)
