"""Whatever a task leaves in the background ends with its attempt, however it was begun, and with either limiter."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
from bounds import under_load
from programs import facts_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.cgroup, pytest.mark.slow]

GONE_S = 2.0
"""How soon after the end of a run nobody is there any more."""

SESSIONS = ("of the task", "of its own", "of its own and not its leader", "group of its own")
HOPS = (0, 1, 4)
"""How often it forks and its parent ends, so that it has another parent and another pid."""
ENDS = ("python", "program", "program without environment")
ALL_WAYS = list(itertools.product(SESSIONS, HOPS, ENDS, (False, True), (False, True)))
"""The last two: whether it ignores signals, and whether it closes all descriptors."""
WAYS = ALL_WAYS[:: int(os.environ.get("FLYTE_NOTEBOOK_TEST_DAEMONS", "7"))]
"""One of so many, which is no divisor of any choice: each choice is there, in many combinations."""
ENDINGS = ("returns", "raises", "exits", "is killed", "takes too much", "takes too long")
RESTLESS = 2
"""So many more fork for ever: each lives for ten milliseconds only."""

PROGRAM = """
import itertools, os, signal, time
from datetime import timedelta

WAYS, RESTLESS, PLACE, GONE_S = {ways!r}, {restless!r}, {place!r}, {gone_s!r}

def in_place():
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{{name}}/cwd") == PLACE:
                stat = open(f"/proc/{{name}}/stat").read().rpartition(")")[2].split()
                if stat[0] != "Z":
                    found.append(int(name))
        except OSError:
            pass
    return found

def hop():
    if os.fork():
        os._exit(0)

def daemon(session, hops, end, deaf, closed):
    pid = os.fork()
    if pid:
        return
    if deaf:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
    if session == "group of its own":
        os.setpgid(0, 0)
    elif session != "of the task":
        os.setsid()
        if session == "of its own and not its leader":
            hop()
    for _ in range(hops):
        hop()
    if closed:
        os.closerange(0, 1024)
    os.chdir(PLACE)
    if end == "program":
        os.execv("/bin/sleep", ["sleep", "100"])
    if end == "program without environment":
        os.execve("/bin/sleep", ["sleep", "100"], {{}})
    time.sleep(100)
    os._exit(0)

def restless():
    if os.fork():
        return
    os.setsid()
    os.chdir(PLACE)
    while True:
        hop()
        time.sleep(0.01)

def begin_all():
    for way in WAYS:
        daemon(*way)
    for _ in range(RESTLESS):
        restless()
    while len(in_place()) < len(WAYS):
        time.sleep(0.05)

@env.task
def ends(how: str) -> int:
    begin_all()
    if how == "raises":
        raise ValueError(how)
    if how == "exits":
        os._exit(3)
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "takes too much":
        held = b"x" * (4 << 30)
        time.sleep(100)  # a watchdog on a busy machine may need a while to be certain, among so many processes
    if how == "takes too long":
        time.sleep(100)
    return 0

def left():
    until_s = time.monotonic() + GONE_S
    while (found := in_place()) and time.monotonic() < until_s:
        time.sleep(0.01)
    # One that forks for ever may be between two looks: it is seen by many of them.
    for _ in range(20):
        found += in_place()
        time.sleep(0.002)
    for pid in set(found):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return len(set(found))

limits = flyte.Resources(cpu=1, memory="1500Mi")
with fn.enable():
    found = {{}}
    for how in {endings!r}:
        longest = timedelta(seconds=2 if how == "takes too long" else 60)
        task = ends.override(resources=limits, timeout=flyte.Timeout(max_runtime=longest))
        ended = facts_of(task, how)
        found[how] = (ended.get("error", "passed"), left())
facts(found=found)
"""


@pytest.mark.parametrize("limiter", ["", "watchdog"])
def test_nobody_outlives_the_attempt(tmp_path: Path, limiter: str) -> None:
    """Dozens of kinds of daemons at a time are gone after each way in which a task ends."""
    place = tmp_path / "place"
    place.mkdir()
    program = PROGRAM.format(ways=WAYS, endings=ENDINGS, restless=RESTLESS, place=str(place), gone_s=under_load(GONE_S))
    found = facts_of(program, tmp_path, environ={"FLYTE_NOTEBOOK_LIMITER": limiter} if limiter else None)["found"]
    # How a SIGKILL is told depends on what the machine's kernel killed meanwhile, for other programs too.
    assert {"returns"} == {how for how, (ended, _) in found.items() if "passed" == ended}
    assert dict.fromkeys(ENDINGS, 0) == {how: left for how, (_, left) in found.items()}


COMMANDS = """
@env.task
def begins(count: int) -> int:
    "Have a shell begin so many commands that end at once, after it; return how many zombies are below this process."
    subprocess.run(["sh", "-c", f"for i in $(seq {count}); do true & done"], check=True)
    time.sleep(0.5)
    zombies = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        zombies += stat[0] == "Z" and int(stat[1]) == os.getpid()
    return zombies

with fn.enable():
    facts(zombies=facts_of(begins, 100))
"""


def test_commands_in_the_background_leave_no_zombie_in_a_control_group(tmp_path: Path) -> None:
    """Each would count against the number of processes that the task may have."""
    assert {"zombies": {"outputs": ["0"]}} == facts_of(COMMANDS, tmp_path)
