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
from sessions import give_supervisors, opened_for

import flyte_notebook as fn
from flyte_notebook.limiters.control_groups import own
from flyte_notebook.worker.process import spares

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

TASKS = 24
MORE_THAN_READY = spares.KEPT_IN_DEMAND + spares.MOST_UNBORN + 1
MOST = spares.MOST_FAILURES - 1
"""So many may be lost one after the other, without one that stood ready in between."""
EVERY_S = 0.1
LIMIT_BYTES = 250 << 20
LOADED = "flyte_notebook.worker.process.prefork"
"""Loaded in what was forked, and never in a fresh interpreter."""

env = flyte.TaskEnvironment(name="lost_server", resources=flyte.Resources(cpu=1, memory="250Mi"))


@pytest.fixture
def session() -> Iterator[Session]:
    """Return a session of the test's own: a server or spares that were lost before count."""
    with opened_for(sys.modules[__name__]) as opened:
        yield opened


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
    return until(lambda: children(session, "fnb-server"))[0]


def spare_groups(session: Session) -> list[Path]:
    """Return the groups of memory that were made for spares."""
    own_group = own("memory")
    assert own_group is not None
    return list(Path(own_group[0], session.engine._link.session).glob("fnb-spare-*"))


def members(group: Path) -> set[int]:
    """Return the pids in a group; none when it is gone."""
    with contextlib.suppress(OSError):
        return {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    return set()


def taken(session: Session) -> set[int]:
    """Return the pids of those that were given an attempt: their group has its limit."""
    found: set[int] = set()
    for group in spare_groups(session):
        with contextlib.suppress(OSError):
            if int((group / "memory.limit_in_bytes").read_text()) == LIMIT_BYTES:
                found |= members(group)
    return found


def asleep(session: Session) -> dict[int, str]:
    """Return all spares, with how often each has slept, when all of them sleep and none is in the making."""
    found = {}
    for pid in children(session, "fnb-spare"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if said["State"].startswith("S"):
                found[pid] = said["voluntary_ctxt_switches"]
    return found if sorted(map(sorted, map(members, spare_groups(session)))) == [[pid] for pid in sorted(found)] else {}


def standing_ready(session: Session) -> list[int]:
    """Return all spares when each waits for an order, for which it sleeps longer than for anything before."""
    found = asleep(session)
    time.sleep(0.02)
    return list(found) if found == asleep(session) else []


@contextlib.contextmanager
def hunted(session: Session, name: str) -> Iterator[list[int]]:
    """Kill a child of that name every now and then, `MOST` in all; give the list of those that were killed."""
    over = threading.Event()
    killed: list[int] = []

    def hunt() -> None:
        while len(killed) < MOST and not over.wait(EVERY_S):
            while not (found := children(session, name)) and not over.wait(0.001):
                pass  # none may stand ready at the moment of a look
            for pid in found[:1]:
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


def all_get_a_worker(count: int) -> None:
    """Run a gather, and hold each task to its value at its first attempt."""
    assert [2 * number for number in range(count)] == flyte.run(all_doubled, count).outputs()[0]
    assert fn.last_run is not None
    assert all(len(action.attempts) == 1 for action in fn.last_run.actions)


@pytest.mark.parametrize("name", ["fnb-server", "fnb-spare"])
def test_those_that_are_killed_in_the_middle_of_a_gather_cost_no_task(session: Session, name: str) -> None:
    """SIGKILL of the server, or of who stands ready, while tasks wait for workers: each gets one, at its first attempt.

    One whose worker was hit before it began gets another. The gathers in between take all who stood ready, and more:
    what was lost before does not count any more, and workers are forked to the end.
    """
    assert session.engine.workers().forked
    hits = 0
    while hits <= MOST:
        with hunted(session, name) as killed:
            all_get_a_worker(TASKS)
        hits += len(killed)
        all_get_a_worker(MORE_THAN_READY)
    assert session.engine.workers().forked
    assert flyte.run(forked).outputs()[0] is True


@pytest.mark.cgroup_v1
def test_a_spare_killed_when_it_was_taken_is_replaced(session: Session) -> None:
    """Between the order and its first word nothing of the task has run: the attempt is given a fresh interpreter."""
    stopped = until(lambda: standing_ready(session))
    for pid in stopped:
        with contextlib.suppress(OSError):  # more than are kept go, last ones first
            os.kill(pid, signal.SIGSTOP)  # so that it takes its order and says nothing
    found: list[bool] = []
    run = threading.Thread(target=lambda: found.append(flyte.run(forked).outputs()[0]))
    run.start()
    (hit,) = until(lambda: taken(session))
    os.kill(hit, signal.SIGKILL)
    run.join(60)
    for pid in set(stopped) - {hit}:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGCONT)
    assert [False] == found
    assert fn.last_run is not None
    assert 1 == len(fn.last_run.actions[0].attempts)
    assert flyte.run(doubled, 4).outputs()[0] == 8


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    give_supervisors(monkeypatch, spares__BIRTH_BOUND_S=2.0)


@pytest.mark.usefixtures("_impatient")  # before the session, whose supervisor it is for
def test_a_server_that_stands_still_is_given_up(session: Session) -> None:
    """Stopped by SIGSTOP it forks nobody: within a bound tasks get fresh interpreters, and the doctor says why.

    What is ten seconds elsewhere is two here.
    """
    assert session.engine.workers().forked
    pid = server(session)
    os.kill(pid, signal.SIGSTOP)
    began_s = time.monotonic()
    # The spares that stood ready are forked ones still; those that come after them are not.
    assert [2 * number for number in range(6)] == flyte.run(all_doubled, 6).outputs()[0]
    assert time.monotonic() - began_s < 60
    assert flyte.run(forked).outputs()[0] is False
    assert not session.engine.workers().forked
    assert "took more than 2 s to be forked" in str(fn.doctor())
