"""Whoever forks has one thread, and what is forked and executed gets no more than what was meant for it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import flyte
import pytest

import flyte_notebook as fn
from flyte_notebook.engine import link
from flyte_notebook.engine.link import WORKERS_VARIABLE
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = pytest.mark.cgroup

BOUND_S = 30.0
NOTES_FORKS = """
import os, sys

def note(event, _arguments):
    if event == "os.fork":
        threads = len(os.listdir("/proc/self/task"))
        with open("/proc/self/comm") as file:
            name = file.read().strip()
        forks = os.open({place!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(forks, f"{{os.getpid()}} {{threads}} {{name}}\\n".encode())
        os.close(forks)

sys.addaudithook(note)
"""
"""Loaded by each interpreter that starts; what is forked from one goes on noting."""

HAS_THE_LAUNCHER_NOTE = """
from flyte_notebook.worker.process import launching
launching._BOOT = {first!r} + launching._BOOT
from flyte_notebook.worker.process.supervisor"""
"""The launcher starts without what is installed for each interpreter."""

env = flyte.TaskEnvironment(name="forks", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
def grow() -> bool:
    """Take so long, and use so much, that the supervisor looks where it stands; whether a fork was not enough."""
    blocks = []
    until_s = time.monotonic() + 0.3
    while time.monotonic() < until_s:
        blocks.append(bytearray(1 << 20))
        time.sleep(0.005)
    return "flyte_notebook.worker.process.prefork" not in sys.modules


@env.task
def sockets() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            found.append(str(entry.readlink()))
    return [target for target in found if target.startswith("socket:")]


@contextlib.contextmanager
def opened(workers: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv(WORKERS_VARIABLE, workers)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    flyte.init()
    with fn.enable():
        session = enforcement.current()
        assert session is not None
        session.engine.wait_until_proven()
        yield session
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def children(session: Session, name: str) -> list[int]:
    """Return the pids of the supervisor's children of that name."""
    found = []
    for task in Path(f"/proc/{session.engine.supervisor_pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                if name == Path(f"/proc/{pid}/comm").read_text().strip():
                    found.append(int(pid))
    return found


def until(true: Callable[[], Any]) -> Any:
    until_s = time.monotonic() + BOUND_S
    while not (found := true()):
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.01)
    return found


def test_whoever_forks_has_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While threads of the supervisor read stacks, workers of both kinds and another server are started.

    At the moment of each fork the process that forks has one thread, and it is never the supervisor.
    """
    notes, place = (
        tmp_path / "forks",
        tmp_path / "site-packages",
    )  # what is installed does not keep a server from forking
    place.mkdir()
    hook = place / "sitecustomize.py"
    hook.write_text(NOTES_FORKS.format(place=str(notes)))
    boot = HAS_THE_LAUNCHER_NOTE.format(first=f"exec(open({str(hook)!r}).read());")
    monkeypatch.setattr(link, "_BOOT", link._BOOT.replace("from flyte_notebook.worker.process.supervisor", boot))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")])))
    monkeypatch.syspath_prepend(str(place))  # as it is for who was started with that
    with opened("", monkeypatch) as session:
        supervisor = session.engine.supervisor_pid
        assert not flyte.run(grow).outputs()[0], session.engine.workers()
        assert 1 < len(list(Path(f"/proc/{supervisor}/task").iterdir())), "its threads are there"
        with monkeypatch.context() as changed:
            changed.setenv("FLYTE_IO_BATCH_SIZE", "7")  # read at import, so a fork would not do
            assert flyte.run(grow).outputs()[0]
        (server,) = until(lambda: children(session, "fnb-server"))
        os.kill(server, signal.SIGKILL)
        until(lambda: [pid for pid in children(session, "fnb-server") if pid != server])
        assert not flyte.run(grow).outputs()[0], session.engine.workers()
    forks = [(int(pid), int(threads), name) for pid, threads, name in map(str.split, notes.read_text().splitlines())]
    assert {1} == {threads for _, threads, _ in forks}
    assert supervisor not in {pid for pid, _, _ in forks}
    assert {"fnb-launcher", "fnb-server"} == {name for _, _, name in forks}


@pytest.mark.parametrize("workers", ["", "fresh"])
def test_a_worker_holds_nothing_of_the_supervisors(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """Above all not its socket to the kernel, whose end says that it is gone."""
    with opened(workers, monkeypatch) as session:
        theirs = flyte.run(sockets).outputs()[0]
        ours = set()
        for entry in Path(f"/proc/{session.engine.supervisor_pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                ours.add(str(entry.readlink()))
    assert theirs
    assert [] == [target for target in theirs if target in ours]
