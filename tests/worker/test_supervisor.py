"""The supervisor process by itself: each of the ways to end it is enough, and it takes everything with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import leaks
import pytest
from bounds import under_load

from flyte_notebook.limiters.life import Life, session_name
from flyte_notebook.limiters.processes import stat
from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.cgroup, pytest.mark.slow]

BOUND_S = 30
GONE_S = 2.0
END_BOUND_S = 10
OURS = frozenset({"descriptor", "thread"})
"""Of the process that tests."""

BOOT = "import sys; from flyte_notebook.worker.process.supervisor import main; main(sys.argv[1:])"
LAUNCH_BOUND_S = 3.0
BOOT_HELD = f"""
import sys
from flyte_notebook.limiters import selection
from flyte_notebook.worker.process import launching, supervisor

def choosing(*, session, choose=selection.choose):
    limiter = choose(session=session)
    make = limiter.group

    def group(name, limits):
        made = make(name, limits)
        if name.startswith("held"):
            made.procs_files = (*made.procs_files, sys.argv[3])
        return made

    limiter.group = group
    return limiter

selection.choose = choosing
launching.LAUNCH_BOUND_S = {LAUNCH_BOUND_S}
supervisor.main(sys.argv[1:3])
"""
"""Groups with such a name have one more door, which is named last: whoever writes to a pipe without a reader waits."""
BOOT_ELSEWHERE = """
import sys, types
from flyte_notebook.worker.process import launching, supervisor
launching.sys = types.SimpleNamespace(platform="elsewhere")
supervisor.main(sys.argv[1:])
"""
WORKER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.write(1, b"up")
    time.sleep(120)
time.sleep(120)
"""


@dataclass
class Kernel:
    """What a notebook's kernel has of its supervisor: the process and the socket."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    before: leaks.Snapshot
    life: Life

    def __post_init__(self) -> None:
        self._reader = protocol.ControlReader(self.control)
        self._heard: list[dict[str, Any]] = []

    def hear(self, kind: str) -> dict[str, Any]:
        """Wait for a message of a kind; what came before it is dropped."""
        while True:
            while self._heard:
                message = self._heard.pop(0)
                if message["kind"] == kind:
                    return message
            self._heard += [message for message, _ in self._reader.read()]

    def hear_next(self) -> dict[str, Any]:
        """Wait for a message, whatever it is."""
        while not self._heard:
            self._heard += [message for message, _ in self._reader.read()]
        return self._heard.pop(0)

    def heard_within(self, seconds: float) -> list[dict[str, Any]]:
        """Return all that is said in that time."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self.control.settimeout(left_s)
            with contextlib.suppress(protocol.ChannelClosedError):  # nothing more was said
                self._heard += [message for message, _ in self._reader.read()]
        self.control.settimeout(BOUND_S)
        heard, self._heard = self._heard, []
        return heard

    @contextlib.contextmanager
    def asked(self, number: int, *, name: str = "", program: str = "", **changed: Any) -> Iterator[int]:
        """Ask for a worker that ignores everybody, with a child that left its family; give what it writes to."""
        channel, theirs = socket.socketpair()
        read, write = os.pipe()
        request = {
            "kind": "spawn",
            "id": number,
            "name": name or f"w{number}",
            "memory_bytes": 100 << 20,
            "cpu_cores": None,
            "argv": [sys.executable, "-c", program or WORKER],
            "cwd": "/",
            "environ": dict(os.environ),
            **changed,
        }
        try:
            protocol.send_control(self.control, request, [theirs.fileno(), write, write])
            os.close(write)
            yield read
        finally:
            channel.close()
            theirs.close()
            os.close(read)

    def spawn(self, number: int) -> None:
        """Start such a worker; return when its child runs."""
        with self.asked(number) as read:
            assert b"up" == os.read(read, 2)

    def all_gone(self) -> None:
        """Hold the supervisor to its promise: it ends, and so does everything that it started and made."""
        self.process.wait(under_load(END_BOUND_S))
        assert [] == leaks.settle(self.before, leave=OURS, grace_s=under_load(GONE_S))


@contextlib.contextmanager
def supervised(boot: str, *arguments: str, room_bytes: int = 0) -> Iterator[Kernel]:
    """Start a supervisor as a notebook's kernel does; the test is its kernel. It may have so much unread only."""
    life = Life.begin(session_name(os.getpid()))
    before = leaks.Snapshot.take()
    ours, theirs = socket.socketpair()
    ours.settimeout(BOUND_S)
    if room_bytes:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room_bytes)
    settings = {"session": life.name, "directory": life.directory.to_dict(), "kernel_pid": os.getpid()}
    process = subprocess.Popen(
        [sys.executable, "-c", boot, str(theirs.fileno()), json.dumps(settings), *arguments],
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    kernel = Kernel(process, ours, before, life)
    try:
        kernel.hear("hello")
        yield kernel
    finally:
        ours.close()
        if process.poll() is None:
            process.terminate()
            process.wait()
        life.end()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Give a supervisor."""
    with supervised(BOOT) as found:
        yield found


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[Kernel]:
    """Give a supervisor whose workers wait for ever where they join a group whose name begins with "held"."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with supervised(BOOT_HELD, str(pipe)) as found:
        yield found


def children(pid: int) -> dict[str, list[int]]:
    """Return the pids of a process's children by the name that the kernel has for them."""
    found: dict[str, list[int]] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                found.setdefault(Path(f"/proc/{child}/comm").read_text().strip(), []).append(int(child))
    return found


def until(true: Callable[[], object], bound_s: float = BOUND_S) -> None:
    """Wait until something is true."""
    until_s = time.monotonic() + bound_s
    while not true():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.005)


ENDS: dict[str, Callable[[Kernel], object]] = {
    "the socket ends": lambda kernel: kernel.control.close(),
    "a signal": lambda kernel: kernel.process.send_signal(signal.SIGTERM),
    "a word": lambda kernel: protocol.send_control(kernel.control, {"kind": "close"}),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("end", ENDS)
def test_each_end_alone_is_the_end_of_everything(kernel: Kernel, end: str, workers: int) -> None:
    """The end of the socket, the signal that the kernel's death sends, the word to close: none needs another one.

    With workers a report of their usage that cannot be sent would do as well; an idle supervisor sends nothing. Files
    are the kernel's: while it lives they go at its word only.
    """
    for number in range(workers):
        kernel.spawn(number)
    assert [line for line in leaks.leaked(kernel.before, leaks.Snapshot.take()) if line.startswith("group")]
    ENDS[end](kernel)
    kernel.all_gone()
    assert ("a word" == end) != os.path.exists(kernel.life.directory.path)  # noqa: PTH110 - a text


def test_it_is_heard_while_attempts_only_wait(kernel: Kernel) -> None:
    """A server that takes long to start is no silence: while an attempt waits for a worker, it says that it lives."""
    server = [sys.executable, "-c", "import time; time.sleep(120)"]
    message = {"kind": "prefork", "argv": server, "environ": dict(os.environ), "own": {}}
    protocol.send_control(kernel.control, message)
    with kernel.asked(1):
        assert [{"kind": "usage", "usage": {}}] * 3 == [kernel.hear_next() for _ in range(3)]
        protocol.send_control(kernel.control, {"kind": "stop", "id": 1})
        assert "stopped" == kernel.hear("ended")["tripped"]


def test_who_is_held_on_the_way_fails_alone(holding: Kernel) -> None:
    """A worker that the kernel holds before it runs is refused within a bound; before, during and after others run."""
    holding.spawn(1)
    began_s = time.monotonic()
    with holding.asked(2, name="held") as read:
        holding.spawn(3)  # while the other one is held
        assert time.monotonic() - began_s < LAUNCH_BOUND_S
        refused = holding.hear("refused")
        took_s = time.monotonic() - began_s
        assert b"" == os.read(read, 1)  # it is gone, and did not run
    assert (2, "its process took more than 3 s to start, and was killed") == (refused["id"], refused["error"])
    assert LAUNCH_BOUND_S <= took_s < 2 * LAUNCH_BOUND_S
    holding.spawn(4)
    told = [message for message in holding.heard_within(0.5) if message["kind"] != "workers"]
    assert {"usage"} == {message["kind"] for message in told}
    assert {"1", "3", "4"} == set(told[-1]["usage"])
    holding.control.close()
    holding.all_gone()


def test_all_that_can_be_said_is_heard_while_somebody_is_held(holding: Kernel) -> None:
    """Usage is told ten times a second, a running attempt is stopped, and so is the one that is held."""
    holding.spawn(1)
    with holding.asked(2, name="held"):
        told = holding.heard_within(0.6)
        assert 4 <= sum("1" in message.get("usage", {}) for message in told)
        for number in (1, 2):
            protocol.send_control(holding.control, {"kind": "stop", "id": number})
        ended = [holding.hear("ended") for _ in range(2)]
    assert {1: "stopped", 2: "stopped"} == {message["id"]: message["tripped"] for message in ended}
    assert [] == [message for message in holding.heard_within(1.5 * LAUNCH_BOUND_S) if message["kind"] != "usage"]
    holding.control.close()
    holding.all_gone()


@pytest.mark.parametrize("end", ENDS)
def test_the_end_waits_for_nobody_who_is_held(holding: Kernel, end: str) -> None:
    """Each of the ways to end it ends those as well that are on the way."""
    holding.spawn(1)
    with holding.asked(2, name="held"), holding.asked(3, name="held-too"):
        until(lambda: 3 == len(children(holding.process.pid).get("fnb-launcher", ())))  # itself, and two
        ENDS[end](holding)
        holding.all_gone()


def test_many_who_are_held_are_refused_each(holding: Kernel) -> None:
    """Six at a time cost no more time than one; whoever comes between them runs."""
    began_s = time.monotonic()
    with contextlib.ExitStack() as held:
        for number in range(6):
            held.enter_context(holding.asked(number, name=f"held-{number}"))
        holding.spawn(6)
        refused = {holding.hear("refused")["id"] for _ in range(6)}
    assert set(range(6)) == refused
    assert time.monotonic() - began_s < 2 * LAUNCH_BOUND_S
    holding.control.close()
    holding.all_gone()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"argv": ["/nowhere/python"]}, "No such file or directory: '/nowhere/python'"),
        ({"cwd": "/nowhere"}, "No such file or directory: '/nowhere'"),
        ({"environ": {"A": "x" * (1 << 18)}}, "Argument list too long"),
    ],
)
def test_what_cannot_run_is_refused_with_the_words_of_the_kernel(
    kernel: Kernel, changed: dict[str, Any], words: str
) -> None:
    """No interpreter, no directory, an environment that is too large: the next one runs."""
    with kernel.asked(1, **changed) as read:
        assert words in kernel.hear("refused")["error"]
        assert b"" == os.read(read, 1)
    kernel.spawn(2)


def test_a_large_environment_arrives_whole(kernel: Kernel) -> None:
    """A MiB of it is more than a socket holds at a time."""
    large = {f"V{number}": "x" * (1 << 16) for number in range(16)}
    program = "import os; os.write(1, str(sum(len(os.environ[f'V{i}']) for i in range(16))).encode())"
    with kernel.asked(1, program=program, environ=large) as read:
        assert str(1 << 20).encode() == os.read(read, 16)


def test_elsewhere_there_is_no_launcher() -> None:
    """Where nobody takes on orphans, and no thread is there, the supervisor forks itself; all else is the same."""
    with supervised(BOOT_ELSEWHERE) as kernel:
        kernel.spawn(1)
        assert [] == children(kernel.process.pid).get("fnb-launcher", [])
        with kernel.asked(2, cwd="/nowhere"):
            assert "No such file or directory: '/nowhere'" in kernel.hear("refused")["error"]
        kernel.spawn(3)
        assert {"1", "3"} == set(kernel.heard_within(0.5)[-1]["usage"])
        kernel.control.close()
        kernel.all_gone()


def launchers(kernel: Kernel) -> list[int]:
    """Return the pids of the launcher, the first, and of the process that stands ready, once both wait to be asked.

    One that has not said its pid yet cannot be killed by it.
    """

    def waiting() -> list[int]:
        pids = children(kernel.process.pid).get("fnb-launcher", ())
        return sorted(pid for pid in pids if (found := stat(pid)) is not None and found.state == "S")

    until(lambda: 2 == len(waiting()))
    return waiting()


@pytest.mark.parametrize("which", [0, 1])
def test_another_one_takes_the_place_of_a_launcher_that_was_killed(kernel: Kernel, which: int) -> None:
    """The launcher, or the process that it made to stand ready: what runs goes on, and the next worker starts."""
    kernel.spawn(1)
    killed = launchers(kernel)[which]
    os.kill(killed, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{killed}").exists())  # one that is killed with an order is a worker that was killed
    kernel.spawn(2)
    kernel.spawn(3)
    assert {"1", "2", "3"} == set(kernel.heard_within(0.5)[-1]["usage"])
    kernel.control.close()
    kernel.all_gone()


@pytest.mark.parametrize(("which", "waited"), [(0, 3), (1, 2)])
def test_a_launcher_that_stands_still_is_given_up(holding: Kernel, which: int, waited: int) -> None:
    """Stopped by SIGSTOP it is replaced within a bound; who waited for it is refused, and the next ones run.

    While it is the launcher that stands still, the process that stands ready serves one more.
    """
    holding.spawn(1)
    stopped = launchers(holding)[which]
    os.kill(stopped, signal.SIGSTOP)
    with contextlib.ExitStack() as asked:
        for number in (2, 3):
            asked.enter_context(holding.asked(number))
        refused = holding.hear("refused")
        assert (waited, "its process took more than 3 s to start, and was killed") == (refused["id"], refused["error"])
    until(lambda: not Path(f"/proc/{stopped}").exists())
    holding.spawn(4)
    holding.spawn(5)
    holding.control.close()
    holding.all_gone()


def test_a_kernel_that_died_before_the_supervisor_began_is_noticed() -> None:
    """The signal of the kernel's death cannot come any more: the supervisor sees another parent and ends at once."""
    ours, theirs = socket.socketpair()
    settings = {"session": session_name(os.getpid()), "directory": {}, "kernel_pid": os.getpid() + 1}
    with ours, theirs:
        command = [sys.executable, "-c", BOOT, str(theirs.fileno()), json.dumps(settings)]
        assert 0 == subprocess.run(command, pass_fds=[theirs.fileno()], timeout=BOUND_S, check=False).returncode
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)  # not even a hello


CLEANS_UP = """
import os, socket, sys, time, types
from flyte_notebook.worker.process.supervisor import Supervisor

pid = os.fork()
if pid == 0:
    time.sleep(float(sys.argv[2]))
    os._exit(0)
life = types.SimpleNamespace(leave=lambda: None)
limiter = types.SimpleNamespace(close=lambda: None, enforcement=types.SimpleNamespace(memory=sys.argv[1]))
Supervisor(socket.socketpair()[0], limiter, life, os.getppid())._clean_up()
print(os.path.exists(f"/proc/{pid}"))
"""


@pytest.mark.parametrize(("limiter", "lives_s"), [("cgroup_v1", "0.1"), ("watchdog", "100")])
def test_who_is_in_no_group_ends_before_the_supervisor(limiter: str, lives_s: str) -> None:
    """One that a killed server was just forking is waited for; without groups whoever nobody knows is killed."""
    command = [sys.executable, "-c", CLEANS_UP, limiter, lives_s]
    assert "False\n" == subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_kernel_that_reads_nothing_holds_up_nobody() -> None:
    """A kernel that was stopped leaves its socket full: the clocks go on, and later it hears all that counts."""
    with supervised(BOOT, room_bytes=1) as kernel, kernel.asked(1) as read:
        assert b"up" == os.read(read, 2)
        time.sleep(1)  # ten times the usage are told, and the socket is full
        arm = {"kind": "arm", "id": 1, "max_runtime_s": 0.1, "deadline_in_s": None}
        protocol.send_control(kernel.control, arm)
        began_s = time.monotonic()
        assert b"" == os.read(read, 1)  # it and its child are gone
        assert time.monotonic() - began_s < END_BOUND_S / 2
        assert "max_runtime" == kernel.hear("ended")["tripped"]
        with kernel.asked(2) as another:
            assert b"up" == os.read(another, 2)
            until(lambda: {"2"} == set(kernel.hear("usage")["usage"]))


HEARS_LATE = """
import ctypes, json, os, socket, sys, time, types
from flyte_notebook.limiters import selection
from flyte_notebook.worker.process import protocol
from flyte_notebook.worker.process.supervisor import Supervisor

ctypes.CDLL(None).prctl(36, 1)
ours, theirs = socket.socketpair()
limiter = selection.choose(session=selection.session_name(os.getpid()))
life = types.SimpleNamespace(leave=lambda: None)
supervisor = Supervisor(theirs, limiter, life, os.getppid())
channel, its = socket.socketpair()
out, write = os.pipe()
program = "import os, time; os.write(1, b'up'); time.sleep(60)"
spawn = {"kind": "spawn", "id": 1, "name": "a", "memory_bytes": 100 << 20, "cpu_cores": None, "cwd": "/", "environ": {}}
supervisor._handle({**spawn, "argv": [sys.executable, "-c", program]}, [its.detach(), write, os.dup(write)])
assert b"up" == os.read(out, 2)
message = json.loads(sys.argv[1])
supervisor._handle({"id": 1, **message}, [])
ended, until_s, reader = [], time.monotonic() + 10, protocol.ControlReader(ours)
ours.setblocking(False)
while not ended and time.monotonic() < until_s:
    for key, _ in supervisor._selector.select(0.02):
        key.data()
    supervisor._tick()
    ended = [told for told, _ in reader.read() if told["kind"] == "ended"]
supervisor._clean_up()
print(ended[0]["tripped"])
"""


ENDS_AT_ONCE = """
import ctypes, os, socket, sys, time, types
from flyte_notebook.limiters import selection
from flyte_notebook.worker.process import protocol
from flyte_notebook.worker.process.supervisor import Supervisor

ctypes.CDLL(None).prctl(36, 1)
ours, theirs = socket.socketpair()
limiter = selection.choose(session=selection.session_name(os.getpid()))
attached, make = [], limiter.group

def group(name, limits):
    made = make(name, limits)
    made.attach = attached.append
    return made

limiter.group = group
supervisor = Supervisor(theirs, limiter, types.SimpleNamespace(leave=lambda: None), os.getppid())
channel, its = socket.socketpair()
spawn = {"kind": "spawn", "id": 1, "name": "a", "memory_bytes": None, "cpu_cores": None, "cwd": "/", "environ": {}}
supervisor._handle({**spawn, "argv": ["/bin/true"]}, [its.detach(), os.open("/dev/null", 1), os.open("/dev/null", 1)])
(launch,) = supervisor._launcher._launches
while "heard" == sys.argv[1] and launch.pid is None:
    launch.hear()
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
supervisor._reap()
reader, ended, until_s = protocol.ControlReader(ours), [], time.monotonic() + 10
while not ended and time.monotonic() < until_s:
    for key, _ in supervisor._selector.select(0.02):
        key.data()
    supervisor._tick()
    ours.setblocking(False)
    ended = [told for told, _ in reader.read() if told["kind"] == "ended"]
supervisor._clean_up()
print(ended[0]["exit_status"], attached)
"""


@pytest.mark.parametrize("pid", ["heard", "unheard"])
def test_a_worker_that_was_collected_is_looked_for_no_more(pid: str) -> None:
    """It may end before its start, or even its pid, is heard of: its status is told, and no group takes that pid."""
    command = [sys.executable, "-c", ENDS_AT_ONCE, pid]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND_S)
    assert "0 []\n" == done.stdout, done.stderr


@pytest.mark.parametrize(
    ("message", "tripped"),
    [
        ({"kind": "arm", "max_runtime_s": 0.1, "deadline_in_s": None}, "max_runtime"),
        ({"kind": "leave", "status": 0}, None),
        ({"kind": "stop"}, "stopped"),
    ],
)
def test_what_the_kernel_says_of_a_worker_may_come_before_its_start_is_heard_of(
    message: dict[str, Any], tripped: str | None
) -> None:
    """A worker is heard of by the kernel first, where the supervisor is busy: its clocks start all the same."""
    command = [sys.executable, "-c", HEARS_LATE, json.dumps(message)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND_S)
    assert f"{tripped}\n" == done.stdout, done.stderr
