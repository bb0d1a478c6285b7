"""Workers that are forked from a server: honest about memory, like fresh interpreters, and gone with their session."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import flyte
import flyte.errors
import pytest

import flyte_notebook as fn
from flyte_notebook.engine import link
from flyte_notebook.engine.link import WORKERS_VARIABLE
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.cgroup

LIMIT_BYTES = 100 << 20
STEP_BYTES = 1 << 19
BAR_BYTES = 2 << 20
BOUND_S = 30.0
BASELINES = 5
LOADED = "flyte_notebook.worker.process.prefork"
"""Loaded in the server, and so in what was forked from it; a fresh interpreter never loads it."""

LATE_LOOKS = """import time
from flyte_notebook.limiters.attempt_group import AttemptGroup
look = AttemptGroup.sample
AttemptGroup.sample = lambda self: (time.sleep(0.03), look(self))[1]
main(sys"""

env = flyte.TaskEnvironment(name="forked", resources=flyte.Resources(cpu=1, memory="250Mi"))


def open_descriptors() -> list[str]:
    targets = []
    for name in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            targets.append(str(name.readlink()))
    return targets


@env.task
def look() -> dict[str, Any]:
    return {
        "forked": LOADED in sys.modules,
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "session": os.getsid(0),
        "cwd": str(Path.cwd()),
        "path": list(dict.fromkeys(sys.path)),
        "argv": sys.argv,
        "environ": dict(os.environ),
        "main": sorted(name for name in vars(sys.modules["__main__"]) if not name.startswith("_")),
        "random": random.random(),  # noqa: S311 - what is tested
        "threads": len(threading.enumerate()),
        "descriptors": sorted(target.partition(":")[0] for target in open_descriptors()),
        "encoding": sys.stdout.encoding,
        "seekable": sys.stdout.seekable(),
        "hour": time.localtime(0).tm_hour,
        "name": Path("/proc/self/comm").read_text(),
    }


@env.task
def allocate(size: int) -> int:
    return len(bytearray(size))


@env.task
def hold(size: int) -> int:
    held = bytearray(size)
    time.sleep(0.2)
    return len(held)


@env.task
def version() -> int:
    import fnb_edited  # noqa: PLC0415 - it is there in the worker only

    return int(fnb_edited.VERSION)


@contextlib.contextmanager
def opened(monkeypatch: pytest.MonkeyPatch, *, workers: str = "") -> Iterator[Any]:
    """Open a session, with fresh interpreters when asked to, and wait until it knows how workers start."""
    monkeypatch.setenv(WORKERS_VARIABLE, workers)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    flyte.init()
    with fn.enable():
        session = enforcement.current()
        assert session is not None
        session.engine.wait_until_proven()
        assert (not workers) == session.engine.workers().forked, session.engine.workers().why
        yield session
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    """Return a session whose workers are forked."""
    with pytest.MonkeyPatch.context() as monkeypatch, opened(monkeypatch) as found:
        yield found


def seen() -> dict[str, Any]:
    found: dict[str, Any] = flyte.run(look).outputs()[0]
    return found


def standing(session: Any) -> dict[str, list[int]]:
    """Return the pids of the supervisor's children by the name that the kernel has for them."""
    found: dict[str, list[int]] = {}
    supervisor = session.engine.supervisor_pid
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with contextlib.suppress(OSError):
            found.setdefault(Path(f"/proc/{pid}/comm").read_text().strip(), []).append(int(pid))
    return found


def ready(session: Any) -> list[int]:
    """Return the pids of the spares that have said so, and wait for an attempt; before that they nap."""
    found = []
    for pid in standing(session).get("fnb-spare", ()):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "S" and "nanosleep" not in Path(f"/proc/{pid}/wchan").read_text():
                found.append(pid)
    return found


def until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def largest() -> int:
    """Return the largest bytearray that survives 100Mi, to half a MiB."""
    limited = allocate.override(resources=flyte.Resources(cpu=1, memory="100Mi"))
    low, high = LIMIT_BYTES // 2, LIMIT_BYTES
    while high - low > STEP_BYTES:
        middle = (low + high) // 2
        try:
            assert middle == flyte.run(limited, middle).outputs()[0]
            low = middle
        except flyte.errors.OOMError:
            high = middle
    return low


def baseline(*, forked: bool) -> int:
    """Return the least of several."""
    found = []
    for _ in range(BASELINES):
        assert forked == seen()["forked"]
        assert fn.last_run is not None
        found.append(fn.last_run.actions[0].attempts[0].trace.baseline_bytes or 0)
    return min(found)


@pytest.mark.parametrize("workers", ["", "fresh"])
def test_the_baseline_is_the_worker_s_when_every_look_at_it_comes_late(
    monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """A supervisor that loses the processor before each look sees what the task took, and does not call it Python's."""
    monkeypatch.setattr(link, "_BOOT", link._BOOT.replace("main(sys", LATE_LOOKS))
    with opened(monkeypatch, workers=workers):
        for _ in range(BASELINES):
            assert 100 << 20 == flyte.run(hold, 100 << 20).outputs()[0]
            assert fn.last_run is not None
            trace = fn.last_run.actions[0].attempts[0].trace
            assert trace.baseline_bytes is not None
            assert trace.peak_bytes is not None
            assert 20 << 20 < trace.baseline_bytes < trace.peak_bytes - (90 << 20)


def test_a_forked_worker_has_no_memory_for_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baseline and largest allocation under 100Mi are those of a fresh interpreter, to 2 MiB."""
    with opened(monkeypatch):
        forked = (baseline(forked=True), largest())
    with opened(monkeypatch, workers="fresh"):
        fresh = (baseline(forked=False), largest())
    assert fresh[1] == pytest.approx(forked[1], abs=BAR_BYTES)
    # A forked worker has done imports at its baseline that a fresh one does a moment later: more, and not much more.
    assert -BAR_BYTES / 4 <= forked[0] - fresh[0] <= BAR_BYTES


def test_a_forked_worker_is_like_a_fresh_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has the notebook's directory, environment and search path of now, and nothing of the server's."""
    found = {}
    for workers in ("", "fresh"):
        with opened(monkeypatch, workers=workers) as session, monkeypatch.context() as now:
            now.chdir(tmp_path)
            now.setenv("FRESHLY_SET", "1")
            now.setenv("TZ", "XYZ-7")
            now.syspath_prepend(str(tmp_path))
            found[workers] = seen()
            assert session.engine.supervisor_pid == found[workers]["ppid"]
            assert found[workers]["pid"] == found[workers]["session"]
    forked, fresh = found[""], found["fresh"]
    assert (True, False) == (forked["forked"], fresh["forked"])
    assert str(tmp_path) == forked["cwd"]
    assert 7 == forked["hour"]
    for key in ("cwd", "path", "argv", "main", "threads", "descriptors", "encoding", "seekable", "hour", "name"):
        assert fresh[key] == forked[key], key
    of_an_attempt = ("FLYTE_NOTEBOOK_SESSION", "FLYTE_NOTEBOOK_ATTEMPT", WORKERS_VARIABLE)
    for environ in (forked["environ"], fresh["environ"]):
        for name in of_an_attempt:
            environ.pop(name)
    assert fresh["environ"] == forked["environ"]


@pytest.mark.parametrize("workers", ["", "fresh"])
def test_the_doctor_says_which_it_is(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """The doctor has a line on how workers start, and why not in the faster way."""
    with opened(monkeypatch, workers=workers):
        report = str(fn.doctor())
    assert ("forked from a server" in report) == (not workers)
    assert (WORKERS_VARIABLE in report) == bool(workers)


# All below share one session, which begins with the first of them.


@pytest.mark.usefixtures("session")
def test_two_workers_draw_other_numbers() -> None:
    """Random numbers do not repeat from worker to worker."""
    assert len({seen()["random"] for _ in range(4)}) == 4


@pytest.mark.usefixtures("session")
def test_an_edited_module_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker imports a local module as it is now: spares have loaded nothing of the user's."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for number in (1, 22, 333):
        (tmp_path / "fnb_edited.py").write_text(f"VERSION = {number}\n")
        assert number == flyte.run(version).outputs()[0]


@pytest.mark.usefixtures("session")
def test_what_an_import_would_have_read_gives_a_fresh_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the SDK reads when it is imported is honoured, and the doctor says what that costs."""
    assert seen()["forked"]
    with monkeypatch.context() as changed:
        changed.setenv("FLYTE_IO_BATCH_SIZE", "7")
        found = seen()
        assert not found["forked"]
        assert "7" == found["environ"]["FLYTE_IO_BATCH_SIZE"]
    assert "FLYTE_IO_BATCH_SIZE" in str(fn.doctor())
    assert seen()["forked"]


def test_what_stands_ready_is_replaced(session: Any) -> None:
    """Two workers stand ready; after one was taken, or was killed, there are two again."""
    until(lambda: len(ready(session)) == 2)  # else one that is forked later may be ready sooner
    before = standing(session)["fnb-spare"]
    assert seen()["pid"] in before
    until(lambda: len(standing(session).get("fnb-spare", ())) == 2)
    victim = standing(session)["fnb-spare"][0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in standing(session).get("fnb-spare", [victim]))
    assert seen()["forked"]


def test_a_killed_server_costs_nothing_but_itself(session: Any) -> None:
    """After a SIGKILL of the server another one is started, and the next task runs, forked, as before."""
    until(lambda: "fnb-server" in standing(session))
    (server,) = standing(session)["fnb-server"]
    os.kill(server, signal.SIGKILL)
    assert 5 == flyte.run(allocate, 5).outputs()[0]
    until(lambda: standing(session).get("fnb-server", [server]) != [server])
    assert all(seen()["forked"] for _ in range(4))


def test_a_limit_below_an_idle_worker_is_out_of_memory(session: Any) -> None:
    """A limit that not even an interpreter fits under ends with the same error as it does without spares."""
    assert session.engine.workers().forked
    with pytest.raises(flyte.errors.OOMError):
        flyte.run(allocate.override(resources=flyte.Resources(cpu=1, memory="20Mi")), 1)
