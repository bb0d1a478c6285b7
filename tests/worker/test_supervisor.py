"""The supervisor process by itself: each of the ways to end it is enough, and it takes everything with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import leaks
import pytest

from flyte_notebook.limiters.life import Life, session_name
from flyte_notebook.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.cgroup

BOUND_S = 30
GONE_S = 2.0
END_BOUND_S = 10
OURS = frozenset({"descriptor", "thread"})
"""Of the process that tests."""

BOOT = "import sys; from flyte_notebook.worker.supervisor import main; main(sys.argv[1:])"
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

    @contextlib.contextmanager
    def asked(self, number: int) -> Iterator[int]:
        """Ask for a worker that ignores everybody, with a child that left its family; give what it writes to."""
        channel, theirs = socket.socketpair()
        read, write = os.pipe()
        request = {
            "kind": "spawn",
            "id": number,
            "name": f"w{number}",
            "memory_bytes": 100 << 20,
            "cpu_cores": None,
            "argv": [sys.executable, "-c", WORKER],
            "cwd": "/",
            "environ": dict(os.environ),
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
        self.process.wait(END_BOUND_S)
        assert [] == leaks.settle(self.before, leave=OURS, grace_s=GONE_S)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Start a supervisor as a notebook's kernel does; the test is its kernel."""
    life = Life.begin(session_name(os.getpid()))
    before = leaks.Snapshot.take()
    ours, theirs = socket.socketpair()
    ours.settimeout(BOUND_S)
    settings = {"session": life.name, "directory": life.directory.to_dict(), "kernel_pid": os.getpid()}
    process = subprocess.Popen(
        [sys.executable, "-c", BOOT, str(theirs.fileno()), json.dumps(settings)],
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
import os, socket, time, types
from flyte_notebook.worker.supervisor import Supervisor

pid = os.fork()
if pid == 0:
    time.sleep(0.1)
    os._exit(0)
life = types.SimpleNamespace(leave=lambda: None)
Supervisor(socket.socketpair()[0], types.SimpleNamespace(close=lambda: None), life, os.getppid())._clean_up()
print(os.path.exists(f"/proc/{pid}"))
"""


def test_who_is_about_to_end_is_waited_for() -> None:
    """A process that a killed server was just forking is in no group yet: it ends by itself, and before we do."""
    command = [sys.executable, "-c", CLEANS_UP]
    assert "False\n" == subprocess.run(command, capture_output=True, text=True, check=True).stdout
