"""The supervisor's side of starting programs: it requests processes from the launcher, and never waits for one.

One process is kept ready, so that a program starts as fast as with a direct fork. A process that the operating system
holds up before its program runs (on a dead file system or while joining its group) is given up after `LAUNCH_BOUND_S`;
others are not affected. If no process is forked at all, the launcher itself is held up, and is replaced by a new one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from flyte_notebook.worker.process import launcher, protocol, strays
from flyte_notebook.worker.values.sending import Sending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flyte_notebook.worker.values.sending import Events

LAUNCH_BOUND_S = 10.0
"""How long the start of a program may take; usually it is one or two milliseconds."""

_BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from flyte_notebook.worker.process.launcher import main; main(sys.argv[1:2])"
)

Message = dict[str, Any]


class Launch:
    """A process that executes a program when it gets the order.

    ``pid`` is set when it was forked, ``status`` when its exit status was collected. It is ``over`` when its program
    runs, or never will.
    """

    def __init__(self, sock: socket.socket, events: Events) -> None:
        self.pid: int | None = None
        self.status: int | None = None
        self.over = False
        self.asked_s = time.monotonic()
        self.due_s = float("inf")
        self._sock = sock
        self._reader = protocol.ControlReader(sock)
        self._order: Sending | None = None
        self._events = events
        self._started: Callable[[Launch], None] = lambda _launch: None
        self._failed: Callable[[str], None] = lambda _why: None
        self._why = ""
        sock.setblocking(False)
        events.listen(sock, self.look)

    def begin(
        self,
        order: Message,
        fds: Sequence[int],
        *,
        started: Callable[[Launch], None],
        failed: Callable[[str], None],
    ) -> None:
        """Send the order. Then ``started`` or ``failed`` (with the reason) is called, unless it is given up before.

        Raises OSError when the process has ended.
        """
        self._order = Sending(self._sock, {"kind": "order", **order}, fds, self._events)
        self._started, self._failed = started, failed
        self.due_s = time.monotonic() + LAUNCH_BOUND_S

    def look(self) -> None:
        """Check its progress."""
        try:
            self._hear()
        except protocol.ChannelClosedError:
            if self._why or self.pid is None:
                self.fail(self._why or "the process that starts others ended")
            else:
                self._close()
                self._started(self)

    def hear(self) -> None:
        """Read its pid, if it was forked meanwhile; `look` handles its end."""
        if not self.over and self.pid is None:
            with contextlib.suppress(protocol.ChannelClosedError):
                self._hear()

    def fail(self, why: str) -> None:
        """Give it up, and report why."""
        self.give_up()
        self._failed(why)

    def give_up(self) -> None:
        """Kill it, whether its program runs or not; without a message. Idempotent.

        A process that is forked later finds its socket closed, and ends.
        """
        self.hear()
        self._close()
        if self.pid is not None and self.status is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _hear(self) -> None:
        """Read messages. Raises `ChannelClosedError` when no more will follow."""
        while messages := self._reader.read():
            for message, _ in messages:
                if message["kind"] == "born":
                    self.pid = message["pid"]
                else:
                    self._why = message["why"]

    def _close(self) -> None:
        if not self.over:
            self.over = True
            if self._order is not None:
                self._order.give_up()
            self._events.ignore(self._sock)
            self._sock.close()


class Launcher:
    """The launcher process and its forks until they run a program. It is started when needed, or by `begin`."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._sock: socket.socket | None = None
        self._pid: int | None = None
        self._ended: set[int] = set()
        """The pids of killed processes whose exit status is not collected yet."""
        self._ready: Launch | None = None
        self._launches: list[Launch] = []

    def begin(self) -> None:
        """Start the process, if it does not run. Raises OSError."""
        if self._sock is not None or sys.platform != "linux":
            return
        ours, theirs = socket.socketpair()
        # Without site: installed packages may run code at each start of an interpreter, and leave a thread.
        argv = [sys.executable, "-S", "-c", _BOOT, str(os.getpid()), *sys.path]
        try:
            with theirs:
                as_control = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), launcher.CONTROL_FD)]
                self._pid = os.posix_spawn(sys.executable, argv, os.environ, file_actions=as_control)
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        self._sock = ours

    def launch(
        self,
        order: Message,
        fds: Sequence[int],
        *,
        started: Callable[[Launch], None],
        failed: Callable[[str], None],
    ) -> Launch:
        """Start a program, whose descriptors from 1 on are copies of ``fds``; see `Launch.begin`. Raises OSError.

        ``order`` holds ``argv``, ``environ``, the ``procs_files`` and ``cpus`` of its group, and ``cwd`` or ``None``.
        """
        ready, self._ready = self._ready, None
        if ready is not None and not ready.over:
            with contextlib.suppress(OSError):  # it was killed: another one is started
                ready.begin(order, fds, started=started, failed=failed)
                return self._known(ready)
            ready.give_up()
        made = self._make()
        try:
            made.begin(order, fds, started=started, failed=failed)
        except OSError:
            made.give_up()
            raise
        return self._known(made)

    def died(self, pid: int, status: int) -> bool:
        """Handle the end of a child process; return whether it was one of ours."""
        self._ended.discard(pid)
        if pid == self._pid:
            self._pid = None
            self._end()
            return True
        for launch in self._pending:
            launch.hear()  # a program that fails at once may have ended before we read its pid
            if launch.pid == pid:
                launch.status = status
                return True
        return False

    @property
    def own(self) -> strays.Own:
        """The processes that are ours."""
        unborn = [launch.asked_s for launch in self._pending if launch.pid is None]
        return strays.Own({self._pid, *(launch.pid for launch in self._pending)}, min(unborn, default=float("inf")))

    @property
    def _pending(self) -> list[Launch]:
        return [launch for launch in (*self._launches, self._ready) if launch is not None and not launch.over]

    @property
    def due_s(self) -> float:
        """The monotonic time of the next call of `tick`."""
        return min((launch.due_s for launch in self._launches if not launch.over), default=float("inf"))

    def tick(self, now: float) -> None:
        """Give up launches that take too long, and a launcher that does not fork; keep one process ready."""
        for launch in [launch for launch in self._launches if not launch.over and launch.due_s <= now]:
            launch.fail(f"its process took more than {LAUNCH_BOUND_S:g} s to start, and was killed")
            if launch.pid is None:
                self._end()
        if self._sock is not None and (self._ready is None or self._ready.over) and self.due_s == float("inf"):
            with contextlib.suppress(OSError):  # one is started when it is needed, or the error is reported then
                self._ready = self._make()

    def close(self) -> None:
        """Kill the launcher, and all processes without a program; then wait until `gone`."""
        for launch in self._launches:
            if not launch.over:
                launch.give_up()
        self._end()

    @property
    def gone(self) -> bool:
        """Whether all launchers have ended."""
        return not self._ended

    def _known(self, launch: Launch) -> Launch:
        self._launches = [*(known for known in self._launches if not known.over), launch]
        return launch

    def _make(self) -> Launch:
        """Have a process forked. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                if sys.platform == "linux":
                    self._ask(theirs)
                # Other systems have no subreaper; and no stacks are read there, so this process has no thread when it
                # forks.
                elif os.fork() == 0:
                    ours.close()
                    launcher.become(theirs.fileno(), os.getppid())
        except OSError:
            ours.close()
            raise
        return Launch(ours, self._events)

    def _ask(self, theirs: socket.socket) -> None:
        self.begin()
        assert self._sock is not None
        try:
            protocol.send_control(self._sock, {"kind": "fork"}, [theirs.fileno()])
        except (BrokenPipeError, ConnectionResetError):  # it was killed, and its end is not noticed yet
            self._end()
            self.begin()
            protocol.send_control(self._sock, {"kind": "fork"}, [theirs.fileno()])

    def _end(self) -> None:
        """Kill the launcher, if it runs, and the ready process: processes that it forked for a program go on."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.give_up()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._pid is not None:
            self._ended.add(self._pid)
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
            self._pid = None
