"""The supervisor: a process of its own that starts workers under their limits, watches them, and reports facts.

Why a process: it outlives a killed kernel and cleans up after it; its clock does not wait for the kernel's interpreter
lock; and for an ordinary user under cgroup v2 only a process inside the delegated scope may put others into groups
there. It is small (no asyncio, no Flyte), single-threaded (so that fork is safe), and decides nothing about meaning.

Workers are forked from a server that has done the imports (`spares`), or else start as fresh interpreters.

From the kernel: ``prefork`` (how to start that server), ``spawn`` (with the worker's channel, stdout and stderr),
``arm`` (the worker is ready: clocks start), ``leave`` (it said that it ends now), ``stop``, ``close``. To the kernel:
``hello``, ``workers`` (whether they are forked), ``refused``, ``usage``, ``ended``. The end of the socket
means that the kernel is gone: everything is killed and removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyte_notebook.limiters import selection
from flyte_notebook.limits import Limits
from flyte_notebook.worker import handover, protocol
from flyte_notebook.worker.spares import Spares
from flyte_notebook.worker.watched import Watched
from flyte_notebook.worker.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.limiters.base import Limiter, TaskGroup

USAGE_EVERY_S = 0.1
CLEANUP_BOUND_S = 5.0
ORPHANS_BOUND_S = 2.0
"""How long whoever is in no group is waited for: it ends by itself, or is nobody that we know of."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOWEST_FREE_FD = 10
OOM_SCORE_ADJ = b"1000"
"""When the machine itself runs short the kernel takes the task, not the notebook (proc(5), oom_score_adj)."""


class Supervisor:
    """The loop of the supervisor process."""

    def __init__(self, control: socket.socket, limiter: Limiter, session_dir: str) -> None:
        self._control = control
        self._reader = protocol.ControlReader(control)
        self._limiter = limiter
        self._session_dir = session_dir
        self._watched: dict[int, Watched] = {}
        self._leaving: list[Watched] = []
        self._selector = selectors.DefaultSelector()
        self._spares = Spares(limiter, self, start=self._watch, fresh=self._spawn, tell=self._tell)
        self._closing = False
        self._usage_due_s = 0.0
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def run(self) -> None:
        """Serve until the kernel closes or is gone; then kill and remove everything."""
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if self._libc is not None:
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # a forked worker falls to us; and no orphan escapes unseen
        self.listen(self._control, self._read_control)
        self.listen(wake_read, lambda: _drain(wake_read))
        try:
            self._tell({"kind": "hello", "enforcement": _enforcement(self._limiter)})
            while not self._closing:
                for key, _ in self._selector.select(self._wait_s()):
                    if self._selector.get_map().get(key.fd) == key:  # what was read before it may have ended it
                        key.data()
                self._tick()
        finally:
            self._clean_up()

    def listen(self, sock: socket.socket | int, callback: Callable[[], None]) -> None:
        """Call when there is something to read on a socket or descriptor."""
        self._selector.register(sock, selectors.EVENT_READ, callback)

    def ignore(self, sock: socket.socket | int) -> None:
        """Call no more."""
        self._selector.unregister(sock)

    def _on_sigterm(self, *_: object) -> None:
        self._closing = True

    def _wait_s(self) -> float | None:
        dues = [watched.due_s for watched in self._watched.values()]
        leaving = [watched.due_s for watched in self._leaving]
        telling = [self._usage_due_s] if dues or self._spares.awaited else []
        due_s = min([self._spares.due_s, *leaving, *dues, *telling])
        return None if due_s == float("inf") else max(0.0, due_s - time.monotonic())

    def _read_control(self) -> None:
        try:
            messages = self._reader.read()
        except protocol.ChannelClosedError:
            self._closing = True
            return
        for message, fds in messages:
            self._handle(message, fds)

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        kind = message["kind"]
        watched = self._watched.get(message.get("id", -1))
        if kind == "spawn":
            self._limiter.keep_room()
            self._spares.ask(message, fds)
        elif kind == "prefork":
            self._spares.begin(message)
        elif kind == "close":
            self._closing = True
        elif kind == "stop" and self._spares.give_up(message["id"]):
            self._tell({"kind": "ended", "id": message["id"], "tripped": "stopped"})
        elif watched is None:
            return  # it ended while the message was on its way
        elif kind == "arm":
            watched.arm(message["max_runtime_s"], message["deadline_in_s"])
        elif kind == "leave":
            self._let_go(message["id"], message["status"])
        elif kind == "stop":
            watched.trip("stopped")

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> None:
        limits = Limits(memory_bytes=message["memory_bytes"], cpu_cores=message["cpu_cores"])
        group: TaskGroup | None = None
        stacks = theirs = None
        try:
            stacks, theirs = socket.socketpair()
            group = self._limiter.group(message["name"], limits)
            pid = self._fork(message, [*fds, theirs.fileno()] if fds else [], group)
        except OSError as error:
            if stacks is not None:
                stacks.close()
            if group is not None:
                with contextlib.suppress(OSError):
                    group.remove()
            self._tell({"kind": "refused", "id": message["id"], "error": str(error)})
            return
        finally:
            for fd in fds:
                os.close(fd)
            if theirs is not None:
                theirs.close()
        group.attach(pid)
        witness = Witness(pid, why="its memory was not handed over")
        self._watch(message, Watched(pid, group, limits, witness))
        self._expect_stacks(stacks, witness)

    def _expect_stacks(self, sock: socket.socket, witness: Witness) -> None:
        """Wait for a fresh interpreter to hand over what its stacks are read through; its end ends that, too."""
        reader = protocol.ControlReader(sock)

        def read() -> None:
            try:
                messages = reader.read()
            except protocol.ChannelClosedError:
                messages = []
            else:
                if not messages:
                    return  # not whole yet
            for message, fds in messages:
                witness.give(*handover.received(message, fds))
            self.ignore(sock)
            sock.close()

        self.listen(sock, read)

    def _watch(self, message: dict[str, Any], watched: Watched) -> None:
        self._watched[message["id"]] = watched
        if watched.alarm is not None:
            self.listen(watched.alarm, lambda: _alarmed(watched))

    def _fork(self, message: dict[str, Any], fds: list[int], group: TaskGroup) -> int:
        """Fork and exec a worker; it joins its group before exec, so that interpreter and imports count."""
        if not fds:
            raise OSError(errno.EMFILE, "the supervisor has too many files open")
        with contextlib.ExitStack() as opened:
            null = os.open(os.devnull, os.O_RDONLY)
            opened.callback(os.close, null)
            error_read, error_write = os.pipe()
            opened.callback(os.close, error_read)
            opened.callback(os.close, error_write)
            pid = os.fork()
            opened.pop_all()
        if pid == 0:
            try:
                self._become_worker(message, [null, fds[1], fds[2], fds[0], fds[3]], group)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    os.write(error_write, str(error).encode(errors="replace")[:4096])
            os._exit(127)
        os.close(null)
        os.close(error_write)
        # The write end closes on exec, so this ends either at once or with the reason.
        with open(error_read, "rb") as pipe:
            reason = pipe.read()
        if reason:
            os.waitpid(pid, 0)
            raise OSError(reason.decode(errors="replace"))
        return pid

    def _become_worker(self, message: dict[str, Any], fds: list[int], group: TaskGroup) -> None:
        parent = os.getppid()
        os.setsid()  # an interrupt of the notebook's process group must not reach it
        if self._libc is not None:
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(127)
            with contextlib.suppress(OSError):
                _write("/proc/self/oom_score_adj", OOM_SCORE_ADJ)
        group.enter()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # Out of the way of 0..4 first, so that no dup2 overwrites a descriptor that is still needed.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_FREE_FD) for fd in fds]
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.chdir(message["cwd"])
        environ = {os.fsencode(key): os.fsencode(value) for key, value in message["environ"].items()}
        os.execve(message["argv"][0], message["argv"], environ)  # noqa: S606 - exactly the interpreter we run in

    def _let_go(self, number: int, status: int) -> None:
        """Report an attempt whose worker ends by itself; the end of the process is nobody's time."""
        watched = self._watched[number]
        if watched.leave(status):
            del self._watched[number]
            self._leaving.append(watched)
            self._tell({"kind": "ended", "id": number, **watched.facts()})

    def _tick(self) -> None:
        self._reap()
        now = time.monotonic()
        telling = now >= self._usage_due_s
        for number, watched in list(self._watched.items()):
            if telling or watched.due_s <= now:  # awake anyway: what rests is looked at then, and wakes nobody itself
                watched.look(now)
            if watched.over:
                del self._watched[number]
                self._tell({"kind": "ended", "id": number, **watched.facts()})
                self._release(watched)
        self._look_at_leaving(now)
        if self._spares.due_s <= now:
            self._spares.tick(now)
        if telling and (self._watched or self._spares.awaited):  # who waits for a worker must not take us for dead
            self._usage_due_s = now + USAGE_EVERY_S
            self._limiter.keep_room()
            usage = {str(number): watched.usage_bytes for number, watched in self._watched.items()}
            self._tell({"kind": "usage", "usage": usage})

    def _release(self, watched: Watched) -> None:
        if watched.alarm is not None:
            self.ignore(watched.alarm)
        watched.release()

    def _look_at_leaving(self, now: float) -> None:
        for watched in [watched for watched in self._leaving if watched.due_s <= now]:
            watched.look(now)
            if watched.over:
                self._leaving.remove(watched)
                self._release(watched)

    def _reap(self) -> bool:
        """Collect the dead: workers, spares, the server, orphans that fell to us. Return whether any child lives."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                for watched in (*self._watched.values(), *self._leaving):
                    if watched.pid == pid:
                        watched.died(status)
                        break
                else:
                    self._spares.died(pid, status)
        except ChildProcessError:
            return False
        return True

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            protocol.send_control(self._control, message)
        except OSError:
            self._closing = True

    def _clean_up(self) -> None:
        self._spares.close()
        for watched in self._watched.values():
            watched.trip("stopped")
        until = time.monotonic() + CLEANUP_BOUND_S
        while (self._watched or self._leaving or not self._spares.gone) and time.monotonic() < until:
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
            time.sleep(0.002)
        self._limiter.close()
        shutil.rmtree(self._session_dir, ignore_errors=True)


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


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def main(arguments: list[str]) -> None:
    """Entry of the supervisor process: control descriptor, session name, session directory."""
    fd, settings = int(arguments[0]), json.loads("".join(arguments[1:]))
    # The end of the socket says that the kernel is gone, unless a process that it forked holds a copy: then this does.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != settings["kernel_pid"]:
            return
    control = socket.socket(fileno=fd)
    log = Path(settings["session_dir"]) / "supervisor.log"
    error_log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(error_log, 2)
    os.close(error_log)
    # Of our own session too: a supervisor before us may have been killed, and left what its workers had started.
    selection.sweep(own=settings["session"])
    limiter = selection.choose(session=settings["session"])
    Supervisor(control, limiter, settings["session_dir"]).run()
