"""The supervisor: a separate process that starts workers under their limits, watches them, and reports facts.

Reasons for a process: it outlives a killed kernel and cleans up after it; it does not have to wait for the kernel's
interpreter lock; and for an ordinary user under cgroup v2 only a process inside the delegated scope may put others into
groups there. It is small (no asyncio, no Flyte), and does not interpret the facts. It waits only in its loop, and never
forks, as it has threads that read stacks (`stack_sample`): the launcher forks all its programs (`launching`).

Workers are forked from a server that has done the imports (`spares`), or else start as fresh interpreters (`fresh`).

From the kernel: ``prefork`` (how to start that server), ``spawn`` (with the worker's channel, stdout and stderr),
``arm`` (the worker is ready: time limits start), ``leave`` (it reported that it ends now), ``stop``, ``close``. To the
kernel: ``hello``, ``workers`` (whether they are forked), ``refused``, ``usage``, ``ended``. When the socket closes, the
kernel has ended: all processes are killed and all files removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from flyte_notebook.core import private
from flyte_notebook.limiters import selection
from flyte_notebook.limiters.life import Life
from flyte_notebook.limiters.processes import ending
from flyte_notebook.worker.process import prctl, protocol, strays
from flyte_notebook.worker.process.fresh import Fresh
from flyte_notebook.worker.process.launching import Launcher
from flyte_notebook.worker.process.spares import Spares

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.limiters.base import Limiter
    from flyte_notebook.worker.process.watched import Watched

USAGE_EVERY_S = 0.1
CLEANUP_BOUND_S = 5.0
NOTICE_BOUND_S = 0.05
EOF_BOUND_S = 1.0
"""How long after the signal of its end, and the end of its socket, a kernel may still look like a running one."""
KERNEL_END_BOUND_S = 5.0
"""How long an ending kernel may still exist: releasing its memory takes a while."""
STRAYS_AGAIN_S = 0.01
ORPHANS_BOUND_S = 2.0
"""How long to wait for processes in no group: they end by themselves, or are not known to us."""


class Supervisor:
    """The loop of the supervisor process."""

    def __init__(self, control: socket.socket, limiter: Limiter, life: Life, kernel_pid: int) -> None:
        control.setblocking(False)
        self._control = control
        self._unsent = bytearray()
        self._reader = protocol.ControlReader(control)
        self._limiter = limiter
        self._life = life
        self._kernel_pid = kernel_pid
        self._watched: dict[int, Watched] = {}
        self._leaving: list[Watched] = []
        self._selector = selectors.DefaultSelector()
        self._launcher = Launcher(self)
        self._fresh = Fresh(
            limiter, self, self._launcher, start=self._watch, leave=self._leaving.append, tell=self._tell
        )
        self._spares = Spares(limiter, self, self._launcher, start=self._watch, fresh=self._fresh.ask, tell=self._tell)
        self._closing = False
        self._asked_to_close = False
        self._lost_kernel = False
        self._usage_due_s = 0.0
        self._strays_due_s = float("inf")

    def run(self) -> None:
        """Serve until the kernel closes the session or ends; then kill and remove everything."""
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        prctl.keep_orphans()  # we become the parent of forked workers and of all orphans
        self.listen(self._control, self._on_control)
        self.listen(wake_read, lambda: _drain(wake_read))
        try:
            left_alone = selection.left_alone(os.path.dirname(self._life.directory.path))
            self._tell({"kind": "hello", "enforcement": _enforcement(self._limiter), "left_alone": left_alone})
            with contextlib.suppress(OSError):  # tried again when it is needed
                self._launcher.begin()
            while not self._closing:
                for key, _ in self._selector.select(self._wait_s()):
                    if self._selector.get_map().get(key.fd) == key:  # an event handled before may have removed it
                        key.data()
                self._tick()
        finally:
            self._clean_up()

    def listen(self, sock: socket.socket | int, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call a function when a socket or descriptor can be read, or with ``write`` also when it can be written."""
        self._selector.register(sock, selectors.EVENT_READ | write * selectors.EVENT_WRITE, callback)

    def ignore(self, sock: socket.socket | int) -> None:
        """Stop calling it."""
        self._selector.unregister(sock)

    def _on_sigterm(self, *_: object) -> None:
        self._closing = True

    def _wait_s(self) -> float | None:
        dues = [watched.due_s for watched in self._watched.values()]
        leaving = [watched.due_s for watched in self._leaving]
        telling = [self._usage_due_s] if dues or self._awaited else []
        due_s = min([self._spares.due_s, self._launcher.due_s, self._strays_due_s, *leaving, *dues, *telling])
        return None if due_s == float("inf") else max(0.0, due_s - time.monotonic())

    def _on_control(self) -> None:
        if self._unsent:
            self._send()
        try:
            messages = self._reader.read()
        except protocol.ChannelClosedError:
            self._closing = self._lost_kernel = True
            return
        for message, fds in messages:
            self._handle(message, fds)

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        kind, number = message["kind"], message.get("id", -1)
        self._fresh.look(number)  # the kernel may have had a message from the worker before us
        watched = self._watched.get(number)
        if kind == "spawn":
            self._limiter.keep_room()
            self._spares.ask(message, fds)
        elif kind == "prefork":
            self._spares.begin(message)
        elif kind == "close":
            self._closing = self._asked_to_close = True
        elif kind == "stop" and (self._spares.give_up(number) or self._fresh.give_up(number)):
            self._tell({"kind": "ended", "id": number, "tripped": "stopped"})
        elif watched is None:
            return  # it ended before the message arrived
        elif kind == "arm":
            watched.arm(message["max_runtime_s"], message["deadline_in_s"])
        elif kind == "leave":
            self._let_go(number, message["status"])
        elif kind == "stop":
            watched.trip("stopped")

    @property
    def _awaited(self) -> bool:
        """Whether an attempt waits for its worker: then the kernel needs messages, so that it does not give us up."""
        return self._spares.awaited or self._fresh.awaited

    def _watch(self, message: dict[str, Any], watched: Watched) -> None:
        self._watched[message["id"]] = watched
        if watched.alarm is not None:
            self.listen(watched.alarm, lambda: _alarmed(watched))

    def _let_go(self, number: int, status: int) -> None:
        """Report an attempt whose worker ends by itself; process teardown is not counted in the duration."""
        watched = self._watched[number]
        if watched.leave(status):
            del self._watched[number]
            self._leaving.append(watched)
            self._tell({"kind": "ended", "id": number, **watched.facts()})

    def _tick(self) -> None:
        self._reap()
        now = time.monotonic()
        if self._strays_due_s <= now:
            self._end_strays()
        telling = now >= self._usage_due_s
        for number, watched in list(self._watched.items()):
            if telling or watched.due_s <= now:  # the loop is awake now, so idle attempts need no extra wake-up
                watched.look(now)
            if watched.over:
                del self._watched[number]
                self._end_strays()
                self._tell({"kind": "ended", "id": number, **watched.facts()})
                self._release(watched)
        self._look_at_leaving(now)
        self._launcher.tick(now)
        if self._spares.due_s <= now:
            self._spares.tick(now)
        if telling and (self._watched or self._awaited):
            self._usage_due_s = now + USAGE_EVERY_S
            self._limiter.keep_room()
            usage = {str(number): watched.usage_bytes for number, watched in self._watched.items()}
            self._tell({"kind": "usage", "usage": usage})

    def _release(self, watched: Watched) -> None:
        if watched.alarm is not None and watched.alarm in self._selector.get_map():  # else it was never started
            self.ignore(watched.alarm)
        watched.release()

    def _look_at_leaving(self, now: float) -> None:
        for watched in [watched for watched in self._leaving if watched.due_s <= now]:
            watched.look(now)
            if watched.over:
                self._leaving.remove(watched)
                self._end_strays()
                self._release(watched)

    def _reap(self) -> bool:
        """Collect ended children: workers, spares, servers, adopted orphans. Return whether any child runs."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                if self._launcher.died(pid, status):
                    continue
                for watched in (*self._watched.values(), *self._leaving):
                    if watched.pid == pid:
                        watched.died(status)
                        break
                else:
                    self._spares.died(pid, status)
        except ChildProcessError:
            return False
        return True

    def _end_strays(self) -> None:
        """Kill processes that ended attempts have left, if they are known to be theirs by now.

        No process can leave a control group, and the worker keeps none: there the orphans of attempts that go on
        are our children too.
        """
        if self._limiter.enforcement.memory != "watchdog":
            return
        workers = strays.Own({watched.pid for watched in (*self._watched.values(), *self._leaving)})
        again = strays.end(workers, self._launcher.own, self._spares.own)
        self._strays_due_s = time.monotonic() + STRAYS_AGAIN_S if again else float("inf")

    def _tell(self, message: dict[str, Any]) -> None:
        """Send a message to the kernel when the socket accepts it: a stopped kernel reads nothing."""
        waiting = bool(self._unsent)
        if waiting and message["kind"] == "usage":
            return  # the next message of this kind replaces it
        self._unsent += protocol.control_frame(message)
        if not waiting:
            self._send()

    def _send(self) -> None:
        try:
            del self._unsent[: self._control.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._closing = self._lost_kernel = True
        write = selectors.EVENT_WRITE if self._unsent else 0
        if self._control in self._selector.get_map():
            self._selector.modify(self._control, selectors.EVENT_READ | write, self._on_control)

    def _clean_up(self) -> None:
        self._spares.close()
        self._fresh.close()
        self._launcher.close()
        for watched in self._watched.values():
            watched.trip("stopped")
        until = time.monotonic() + CLEANUP_BOUND_S
        while self._goes_on and time.monotonic() < until:
            self._reap()
            now = time.monotonic()
            self._spares.tick(now)
            for number, watched in list(self._watched.items()):
                watched.look(now)
                if watched.over:
                    del self._watched[number]
                    self._release(watched)
            self._look_at_leaving(now)
            time.sleep(0.002)
        until = min(until, time.monotonic() + ORPHANS_BOUND_S)
        while self._reap() and time.monotonic() < until:
            self._end_strays()
            time.sleep(0.002)
        self._limiter.close()
        self._give_up_files()

    def _give_up_files(self) -> None:
        """Remove the session's files if it is over; as long as the kernel runs they belong to it, whatever ended us.

        The signal of the kernel's end comes when its first thread has ended, before its socket closes, which is before
        the process has ended: so this waits for an ending process.
        """
        ends = False
        until = time.monotonic() + (EOF_BOUND_S if self._lost_kernel else NOTICE_BOUND_S)
        while os.getppid() == self._kernel_pid and not self._asked_to_close and time.monotonic() < until:
            if not ends and sys.platform == "linux" and ending(self._kernel_pid):
                ends, until = True, time.monotonic() + KERNEL_END_BOUND_S
            time.sleep(0.002)
        if self._asked_to_close or os.getppid() != self._kernel_pid:
            self._life.end()
        self._life.leave()

    @property
    def _goes_on(self) -> bool:
        """Whether there are processes whose end has to be waited for."""
        gone = self._spares.gone and self._launcher.gone
        return bool(self._watched or self._leaving or not gone)


def _alarmed(watched: Watched) -> None:
    if watched.alarm is not None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(watched.alarm)
        watched.due_s = 0.0


def _drain(wake: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        wake.recv(4096)


def _enforcement(limiter: Limiter) -> dict[str, Any]:
    enforcement = limiter.enforcement
    return {"memory": enforcement.memory, "cpu": enforcement.cpu, "hints": list(enforcement.hints)}


def main(arguments: list[str]) -> None:
    """Entry of the supervisor process: control descriptor; session, its directory and the kernel's pid."""
    fd, settings = int(arguments[0]), json.loads("".join(arguments[1:]))
    # The socket closes when the kernel ends, unless a process that it forked holds a copy: then this signal reports it.
    if sys.platform == "linux":
        prctl.end_with_parent(signal.SIGTERM)
        if os.getppid() != settings["kernel_pid"]:
            return
    control = socket.socket(fileno=fd)
    control.set_inheritable(False)  # it closes when we end: no other process may hold it
    life = Life.join(settings["session"], private.Directory(**settings["directory"]))
    error_log = life.log()
    os.dup2(error_log, 2)
    os.close(error_log)
    # Of our own session too: an earlier supervisor may have been killed, and left processes of its workers.
    selection.sweep(own=settings["session"], directory=os.path.dirname(life.directory.path))
    limiter = selection.choose(session=settings["session"])
    Supervisor(control, limiter, life, settings["kernel_pid"]).run()
