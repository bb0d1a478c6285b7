"""The server that workers are forked from may be lost at any time: who waits for a worker gets one all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import flyte
import pytest
from programs import until

import flyte_notebook as fn
from flyte_notebook.limiters.control_groups import own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.usefixtures("session"),
    pytest.mark.leaves(
        "process", "group", reason="a server that takes over serves the whole module, whose end is proven"
    ),
]

TASKS = 24
LIMIT_BYTES = 250 << 20
LOADED = "flyte_notebook.worker.prefork"
"""Loaded in what was forked, and never in a fresh interpreter."""

env = flyte.TaskEnvironment(name="lost_server", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
async def doubled(number: int) -> int:
    return 2 * number


@env.task
async def forked() -> bool:
    return LOADED in sys.modules


@env.task
async def all_doubled(count: int) -> list[int]:
    return list(await asyncio.gather(*(doubled(number) for number in range(count))))


def children(session: Session, name: str) -> list[int]:
    """Return the pids of the supervisor's children of that name."""
    supervisor = session.engine.supervisor_pid
    found = []
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with contextlib.suppress(OSError):
            if name == Path(f"/proc/{pid}/comm").read_text().strip():
                found.append(int(pid))
    return found


def server(session: Session) -> int:
    """Return the pid of the server, when it is there."""
    until(lambda: len(children(session, "fnb-server")) == 1)
    return children(session, "fnb-server")[0]


def taken(session: Session) -> set[int]:
    """Return the pids of those that were given an attempt: their group has its limit."""
    own_group = own("memory")
    assert own_group is not None
    found: set[int] = set()
    for group in Path(own_group[0], session.engine._link.session).glob("fnb-spare-*"):
        with contextlib.suppress(OSError):
            if int((group / "memory.limit_in_bytes").read_text()) == LIMIT_BYTES:
                found |= {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    return found


@contextlib.contextmanager
def hunted(session: Session, name: str, *, every_s: float, most: int) -> Iterator[list[int]]:
    """Kill a child of that name every now and then, so many at most; give the list of those that were."""
    over = threading.Event()
    killed: list[int] = []

    def hunt() -> None:
        while len(killed) < most and not over.wait(every_s):
            for pid in children(session, name)[:1]:
                with contextlib.suppress(OSError):
                    # Stopped first, and looked at again: it may have begun with its task since it was listed.
                    os.kill(pid, signal.SIGSTOP)
                    if pid in children(session, name):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                    else:
                        os.kill(pid, signal.SIGCONT)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield killed
    finally:
        over.set()
        hunter.join()


@pytest.mark.parametrize(("name", "every_s", "most"), [("fnb-server", 0.25, 2), ("fnb-spare", 0.1, 20)])
def test_those_that_are_killed_in_the_middle_of_a_gather_cost_no_task(
    session: Session, name: str, every_s: float, most: int
) -> None:
    """SIGKILL of the server, or of who stands ready, while tasks wait for workers: each gets one, at its first attempt.

    One whose worker was hit before it began gets another.
    """
    assert session.engine.workers().forked
    with hunted(session, name, every_s=every_s, most=most) as killed:
        for _ in range(20):  # none may stand ready at the moment of a look
            assert [2 * number for number in range(TASKS)] == flyte.run(all_doubled, TASKS).outputs()[0]
            assert fn.last_run is not None
            assert all(len(action.attempts) == 1 for action in fn.last_run.actions)
            if killed:
                break
    assert killed
    assert flyte.run(doubled, 4).outputs()[0] == 8


@pytest.mark.cgroup_v1
def test_a_spare_killed_when_it_was_taken_is_replaced(session: Session) -> None:
    """Between the order and its first word nothing of the task has run: the attempt is given a fresh interpreter."""
    until(lambda: len(children(session, "fnb-spare")) >= 2)
    time.sleep(0.2)
    spares = children(session, "fnb-spare")
    for pid in spares:
        os.kill(pid, signal.SIGSTOP)  # so that it takes its order and says nothing
    found: list[bool] = []
    run = threading.Thread(target=lambda: found.append(flyte.run(forked).outputs()[0]))
    run.start()
    until(lambda: taken(session))
    (hit,) = taken(session)
    os.kill(hit, signal.SIGKILL)
    run.join(30)
    for pid in spares:
        if pid != hit:
            os.kill(pid, signal.SIGCONT)
    assert [False] == found
    assert fn.last_run is not None
    assert 1 == len(fn.last_run.actions[0].attempts)
    assert flyte.run(doubled, 4).outputs()[0] == 8


def test_a_server_that_stands_still_is_given_up(session: Session) -> None:
    """Stopped by SIGSTOP it forks nobody: within a bound tasks get fresh interpreters, and the doctor says why."""
    pid = server(session)
    os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    # The spares that stood ready are forked ones still; those that come after them are not.
    assert [2 * number for number in range(6)] == flyte.run(all_doubled, 6).outputs()[0]
    assert time.monotonic() - began_s < 30
    assert flyte.run(forked).outputs()[0] is False
    assert not session.engine.workers().forked
    assert "took more than 10 s to be forked" in str(fn.doctor())
