"""The server that workers are forked from, as the supervisor sees it: started, asked for workers, and ended."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from flyte_notebook.worker import protocol
from flyte_notebook.worker.likeness import Likeness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOWEST_FREE_FD = 10
PR_SET_PDEATHSIG = 1

Message = dict[str, Any]


class Events(Protocol):
    """What calls back when something can be read."""

    def listen(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Call when there is something to read."""

    def ignore(self, sock: socket.socket) -> None:
        """Call no more."""


class Server:
    """One server process. Its program, environment, imports and preparations stand in ``settings``.

    Of ``fit``, ``unfit`` (with the reason) and ``lost`` one is called, the last one perhaps after the first.
    """

    def __init__(
        self,
        settings: Message,
        events: Events,
        *,
        fit: Callable[[], None],
        unfit: Callable[[str], None],
        lost: Callable[[], None],
    ) -> None:
        """Start it. Raises OSError."""
        self.begun_s = time.monotonic()
        self.likeness: Likeness | None = None
        self._settings = settings
        self._events = events
        self._fit = fit
        self._unfit = unfit
        self._lost = lost
        self._sock, theirs = socket.socketpair()
        # A pipe, as the output of a worker is; nobody reads what an import may say.
        self._output, output = os.pipe()
        try:
            self.pid = _launch(settings, theirs.fileno(), output)
        except OSError:
            self._sock.close()
            os.close(self._output)
            raise
        finally:
            theirs.close()
            os.close(output)
        self._reader = protocol.ControlReader(self._sock)
        self._open = True
        events.listen(self._sock, self._read)

    def difference(self, message: Message) -> str:
        """Return what would make a fresh interpreter another one for this attempt; empty when nothing would."""
        assert self.likeness is not None
        return self.likeness.difference(
            executable=message["argv"][0],
            environ=message["environ"],
            sys_path=message["sys_path"],
            cwd=message["cwd"],
        )

    def fork(self, doors: Sequence[str], sock: socket.socket) -> None:
        """Ask for a worker that joins a group by these doors and holds this socket. Raises OSError."""
        protocol.send_control(self._sock, {"kind": "fork", "doors": doors}, [sock.fileno()])

    def end(self) -> None:
        """Kill it; whoever waits for children collects it. Idempotent."""
        if self._open:
            self._open = False
            self._events.ignore(self._sock)
            self._sock.close()
            os.close(self._output)
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _read(self) -> None:
        try:
            messages = self._reader.read()
        except protocol.ChannelClosedError:
            self._lost()
            return
        for message, _ in messages:
            if message["kind"] == "unfit":
                self._unfit(message["why"])
                return
            self.likeness = Likeness(
                executable=self._settings["argv"][0],
                environ=self._settings["environ"],
                sys_path=message["sys_path"],
                modules=message["modules"],
                namespaces=message["namespaces"],
            )
            self._fit()


def _launch(settings: Message, control: int, output: int) -> int:
    """Start the server's program and return its pid. Raises OSError."""
    supervisor = os.getpid()
    arguments = [*settings["argv"], json.dumps({**settings["own"], "supervisor_pid": supervisor})]
    pid = os.fork()
    if pid:
        return pid
    try:
        # Before the program begins, which takes a while: it must not be left behind when the supervisor is killed now.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            null = os.open(os.devnull, os.O_RDONLY)
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_FREE_FD) for fd in (null, output, output, control)]
            for target, fd in enumerate(high):
                os.dup2(fd, target)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.execve(arguments[0], arguments, settings["environ"])  # noqa: S606 - exactly the interpreter we run in
    finally:
        os._exit(127)
