"""Workers that stand ready go when nobody asks for them, and when memory is short."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cgroup

BOUND_S = 60

# A supervisor with nothing else to do, in a process of its own: it becomes the parent of what it had forked.
PROGRAM = """
import ctypes, os, select, selectors, sys, time
from dataclasses import asdict
from flyte_notebook.engine.link import _BOOT_SERVER
from flyte_notebook.limiters import machine, selection
from flyte_notebook.sdk.ahead import PREFORK
from flyte_notebook.worker.process import launching, spares

ctypes.CDLL(None).prctl(36, 1)
limiter = selection.choose(session=selection.session_name(os.getpid()))
selector = selectors.DefaultSelector()
told = []

class Events:
    def listen(self, sock, callback, *, write=False):
        selector.register(sock, selectors.EVENT_READ | write * selectors.EVENT_WRITE, callback)
    def ignore(self, sock):
        selector.unregister(sock)

def reap():
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if not launcher.died(*found):
                ready.died(*found)
    except ChildProcessError:
        pass

def until(true):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, (told, len(ready._spares))
        for key, _ in selector.select(0.02):
            if selector.get_map().get(key.fd) == key:
                key.data()
        reap()
        ready.tick(time.monotonic())

def standing():
    return sum(spare.watched is not None for spare in ready._spares)

spares.LOOK_EVERY_S = 0.02
events = Events()
launcher = launching.Launcher(events)
ready = spares.Spares(limiter, events, launcher, start=None, fresh=None, tell=told.append)
own = asdict(PREFORK)
own["modules"] = [*own["modules"], *sys.argv[2:]]
settings = {"argv": [sys.executable, "-c", _BOOT_SERVER], "environ": dict(os.environ), "own": own}
ready.begin(settings)
try:
    exec(sys.argv[1])
finally:
    ready.close()
    launcher.close()
    until(lambda: ready.gone and launcher.gone)
    limiter.close()
"""


def run(what: str, *modules: str) -> str:
    """Run statements in a supervisor of their own and return what they printed."""
    command = [sys.executable, "-c", PROGRAM, what, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND_S, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_idle_spares_go() -> None:
    """Two stand ready; when nobody asked for a while none does, and the server stays."""
    assert "2 0 True" in run(
        "until(lambda: standing() == spares.KEPT); before = standing(); spares.IDLE_S = 0.1; "
        "until(lambda: not ready._spares and not ready._leaving); print(before, standing(), ready._server is not None)"
    )


def test_who_waits_for_the_end_waits_for_the_server_too() -> None:
    """A server that was killed is there until it is collected: on a busy machine it takes its time to go."""
    assert "False True" in run(
        "spares.KEPT = 0; until(lambda: ready._server.fingerprint); pid = ready._server.pid; ready.close(); "
        "before = ready.gone; until(lambda: ready.gone); print(before, not os.path.exists(f'/proc/{pid}'))"
    )


def test_a_server_that_died_is_one_loss_however_many_were_asked_of_it() -> None:
    """Three workers are asked of a server whose end is not known yet: another one is started, and forks them."""
    assert "True 5" in run(
        "until(lambda: standing() == spares.KEPT); pid = ready._server.pid; os.kill(pid, 9); "
        "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT); spares.KEPT = spares.KEPT_IN_DEMAND = 5; ready._serve(); "
        "until(lambda: standing() == 5); print(ready._server.pid != pid, standing())"
    )


def test_the_baseline_is_read_before_the_worker_is_told() -> None:
    """A supervisor that loses the processor finds a short attempt over, and its memory given back: no baseline."""
    assert "True" in run(
        "until(lambda: standing() == spares.KEPT); spare = ready._spares[0]; pid = spare.watched.pid; taken = []\n"
        "def send(*order):\n"
        "    os.kill(pid, 9)\n"
        "    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "spares.Sending = send\n"
        "ready._start = lambda message, watched: taken.append(watched)\n"
        "order = dict.fromkeys(('entry', 'environ', 'cwd', 'sys_path', 'cpu_cores'))\n"
        "ready._hand_over(spare, {'name': 'short', 'memory_bytes': 1 << 30, **order}, [])\n"
        "print(taken[0].facts()['baseline_bytes'] > 10 << 20)\n"
        "ready._leaving.append(taken[0])"
    )


def test_short_memory_sends_spares_away() -> None:
    """With little memory left on the machine nobody stands ready; with more they come back."""
    assert "done" in run(
        "until(lambda: standing() == spares.KEPT); machine.available_bytes = lambda: spares.SHORT_BYTES - 1; "
        "until(lambda: not ready._spares and not ready._leaving); machine.available_bytes = lambda: 1 << 40; "
        "ready._serve(); until(lambda: standing() == spares.KEPT); print('done')"
    )


def test_a_thread_that_an_import_leaves_is_a_reason_not_to_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with more than one thread says so, and forks nobody."""
    place = tmp_path / "site-packages"
    place.mkdir()
    (place / "fnb_threads.py").write_text("import threading\nthreading.Thread(target=threading.Event().wait).start()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")])))
    assert "leaves a thread running" in run("until(lambda: told); print(told)", "fnb_threads")


def test_a_module_of_the_user_is_a_reason_not_to_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is never loaded before a task starts: it may be edited."""
    (tmp_path / "fnb_local.py").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    assert "fnb_local.py is not installed" in run("until(lambda: told); print(told)", "fnb_local")


def test_an_import_that_fails_is_a_reason_not_to_fork() -> None:
    """The reason is what the import said."""
    assert "no_such_module" in run("until(lambda: told); print(told)", "no_such_module")


def test_a_spare_that_reads_nothing_holds_up_nobody() -> None:
    """Its order, with an environment that is more than a socket holds, is sent as it reads; the caller goes on."""
    assert "True True ready" in run(
        "import signal, socket; from flyte_notebook.worker.process import protocol; "
        "until(lambda: standing() == spares.KEPT); spare = ready._spares[0]; pid = spare.watched.pid; "
        "os.kill(pid, signal.SIGSTOP); began = time.monotonic(); started = []; "
        "ready._start = lambda message, watched: started.append(watched); "
        "channel, its = socket.socketpair(); channel.settimeout(0); "
        "environ = {**os.environ, **{f'V{number}': 'x' * (1 << 16) for number in range(16)}}; "
        "message = dict(id=1, name='a', memory_bytes=None, cpu_cores=None, entry='flyte_notebook.sdk.inside:canary', "
        "environ=environ, cwd='/', sys_path=sys.path); "
        "ready._hand_over(spare, message, [its.detach(), os.open(os.devnull, 1), os.open(os.devnull, 1)]); "
        "print(time.monotonic() - began < 5, len(started) == 1, end=' '); os.kill(pid, signal.SIGCONT); "
        "until(lambda: select.select([channel], [], [], 0)[0]); channel.settimeout(5); "
        "print(protocol.receive(channel)['kind']); started[0].trip('stopped'); "
        "until(lambda: not os.path.exists(f'/proc/{pid}')); started[0].release()"
    )


def test_a_server_that_cannot_be_started_is_a_reason_not_to_fork() -> None:
    """After three times no more are started, and the reason is that of the kernel."""
    assert "cannot be started: [Errno 2] No such file or directory: '/nowhere/python'" in run(
        "ready.close(); until(lambda: ready.gone); ready.begin({**settings, 'argv': ['/nowhere/python']}); "
        "until(lambda: [said for said in told if not said['forked']]); print(told)"
    )


LETS_GO = """
import os, types
from pathlib import Path
from flyte_notebook.worker.process import prefork

class OverError(Exception):
    pass

def let_go(fd, close=os.close):
    if fd != hold:
        return close(fd)
    print(Path("/proc/self/comm").read_text(), end="")
    raise OverError

read, hold = os.pipe()
os.dup2(read, prefork.CONTROL_FD)
prefork.protocol = types.SimpleNamespace(taken=lambda fd: None, send_control=lambda *_: None)
prefork._prepare = lambda settings: ((), {})
prefork._serve = lambda control: (None, hold)
prefork.own_pages.make_own = lambda runs: None
os.close = let_go
try:
    prefork.main(['{"supervisor_pid": 1}'])
except OverError:
    pass
"""


def test_a_worker_has_its_name_before_it_is_a_child_of_the_supervisor() -> None:
    """Among the children of the supervisor only the server is called so: a worker lets its go-between end later."""
    run = subprocess.run([sys.executable, "-c", LETS_GO], capture_output=True, text=True, check=True)
    assert "fnb-spare\n" == run.stdout
