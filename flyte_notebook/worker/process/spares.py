"""The supervisor's side of workers that are ready and have no job.

A spare is a forked worker without a job: it has its own group, still without limits, and its memory is charged there.
An attempt that needs a worker gets the oldest spare; if there is none, attempts wait in order for the next ones, which
takes about 20 ms each. If workers cannot be forked, or not for this attempt, the attempt gets a fresh interpreter, and
the kernel a sentence that says why. An error of one spare affects only that spare.

The spares end `IDLE_S` after the last attempt, and when little memory is free; the server stays.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters import machine
from flyte_notebook.worker.process import handover, protocol, strays
from flyte_notebook.worker.process.forkserver import ENDED, Server
from flyte_notebook.worker.process.spare import Spare, Waiting
from flyte_notebook.worker.process.watched import Watched
from flyte_notebook.worker.stacks.line_attribution import LineAttribution
from flyte_notebook.worker.values.sending import Sending

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.limiters.base import Limiter
    from flyte_notebook.worker.process.launching import Launcher, Message
    from flyte_notebook.worker.values.sending import Events

KEPT = 2
"""How many spares are kept."""
KEPT_IN_DEMAND = 4
IN_DEMAND_S = 2.0
"""How many are kept, and for how long, after an attempt had to wait: more attempts will probably follow it."""
MOST_UNBORN = 3
"""How many are forked at one time: enough for two busy cores, as each of them sometimes waits for the system."""
REPLACE_AFTER_S = 0.02
"""How long a used spare is not replaced, unless an attempt waits: the running attempt needs the processor now."""
IDLE_S = 60.0
SHORT_BYTES = 512 << 20
"""With less available memory than this, beyond the needs of an attempt, no spare is kept."""
LOOK_EVERY_S = 1.0
MISSED_LOOK_S = 0.1
"""How long after the end of a worker the end of the server that was forking it may be noticed."""
START_BOUND_S = 30.0
BIRTH_BOUND_S = 10.0
MOST_FAILURES = 3
"""How many spares or servers may be lost one after the other before no more are made."""
HEADROOM_BYTES = 4 << 20
"""The margin that a limit must leave above an idle worker; below it, a fresh interpreter fails with the right error."""


class Spares:
    """The spares, the server that they are forked from, and the attempts that wait for one.

    ``start`` is called with each attempt that gets a worker (its message, the worker), ``fresh`` with each that needs
    an interpreter of its own (its message, its descriptors), and ``tell`` with each message for the kernel.
    """

    def __init__(  # noqa: PLR0913 - its collaborators, each by name
        self,
        limiter: Limiter,
        events: Events,
        launcher: Launcher,
        *,
        start: Callable[[Message, Watched], None],
        fresh: Callable[[Message, list[int]], None],
        tell: Callable[[Message], None],
    ) -> None:
        self._limiter = limiter
        self._events = events
        self._launcher = launcher
        self._start = start
        self._fresh = fresh
        self._tell = tell
        self._settings: Message | None = None
        self._server: Server | None = None
        self._ended_servers: set[int] = set()
        """The pids of killed processes whose exit status is not collected yet."""
        self._spares: list[Spare] = []
        self._leaving: list[Watched] = []
        self._waiting: deque[Waiting] = deque()
        self._short_s = -IN_DEMAND_S
        self._numbers = 0
        self._failures = 0
        self._missed: Server | None = None
        """The server of a spare that ended before it was ready; it may have ended itself."""
        self._proven = False
        self._used_s = self._look_due_s = self._replace_due_s = 0.0

    def begin(self, settings: Message) -> None:
        """Start the server; the message has its program, environment, imports and preparations."""
        self._settings = settings
        self._begin()

    def ask(self, message: Message, fds: list[int]) -> None:
        """Give an attempt a worker: at once, when one is ready, or a fresh one. Takes over the descriptors."""
        self._used_s = time.monotonic()
        if message.get("fresh") or self._server is None or not fds:  # without descriptors it is refused there
            self._fresh(message, fds)
            return
        self._waiting.append(Waiting(message, fds))
        self._serve()

    def give_up(self, number: int) -> bool:
        """Forget an attempt that waits for a worker; return whether there was one."""
        for waiting in self._waiting:
            if waiting.message["id"] == number:
                self._waiting.remove(waiting)
                _close(waiting.fds)
                return True
        return False

    def died(self, pid: int, status: int) -> None:
        """Handle the end of a child process, if it was one of ours."""
        if self._server is not None and pid == self._server.pid:
            self._server.collected(status)
            self._lose_server()
        self._ended_servers.discard(pid)
        for spare in list(self._spares):
            if spare.watched is not None and spare.watched.pid == pid:
                spare.watched.died(status)
                self._lose(spare, "a worker that stood ready ended")
        for watched in self._leaving:
            if watched.pid == pid:
                watched.died(status)

    @property
    def own(self) -> strays.Own:
        """The processes that are ours."""
        said = (self._server, *(spare.watched for spare in self._spares), *self._leaving)
        unborn = [spare.born_s for spare in self._spares if spare.watched is None]
        return strays.Own({one.pid for one in said if one is not None}, min(unborn, default=float("inf")))

    @property
    def awaited(self) -> bool:
        """Whether an attempt waits for a worker."""
        return bool(self._waiting)

    @property
    def due_s(self) -> float:
        """The monotonic time of the next call of `tick`."""
        dues = [watched.due_s for watched in self._leaving]
        dues += [self._replace_due_s] if self._replace_due_s else []
        starting = self._server is not None and self._server.fingerprint is None
        if self._waiting or self._spares or self._missed is not None or starting:
            dues.append(self._look_due_s)
        return min(dues, default=float("inf"))

    def tick(self, now: float) -> None:
        """Do the work that is due: time limits, idle spares, low memory, and the removal of ended groups."""
        for watched in [watched for watched in self._leaving if watched.due_s <= now]:
            watched.look(now)
            if watched.over:
                self._leaving.remove(watched)
                watched.release()
        if self._replace_due_s and self._replace_due_s <= now:
            self._replace_due_s = 0.0
            self._serve()
        if self._look_due_s <= now:
            self._look_due_s = now + LOOK_EVERY_S
            self._look(now)

    def close(self) -> None:
        """Kill the server and all spares; `tick` until `gone`."""
        self._settings = None
        while self._waiting:
            _close(self._waiting.popleft().fds)
        self._end_server()
        for spare in list(self._spares):
            self._dismiss(spare)

    @property
    def gone(self) -> bool:
        """Whether no spare and no server is left."""
        return not self._leaving and not self._spares and not self._ended_servers

    def _begin(self) -> None:
        assert self._settings is not None
        self._used_s = time.monotonic()
        try:
            self._server = Server(
                self._settings,
                self._events,
                self._launcher,
                fit=self._serve,
                unfit=self._settle,
                lost=self._lose_server,
            )
        except OSError as error:
            self._settle(f"the server that workers are forked from cannot be started: {error}")

    def _begin_anew(self) -> None:
        """Start another server, which imports the packages installed now; waiting attempts go on waiting."""
        self._end_server()
        for spare in list(self._spares):
            self._dismiss(spare)
        self._begin()

    def _look(self, now: float) -> None:
        missed, self._missed = self._missed, None
        if missed is not None and missed is self._server:
            self._fail("a worker ended before it was ready")
        server = self._server
        if server is not None and server.fingerprint is None and now - server.begun_s > START_BOUND_S:
            self._settle(f"the server that workers are forked from took more than {START_BOUND_S:.0f} s to start")
        for spare in [spare for spare in self._spares if spare.watched is None and now - spare.born_s > BIRTH_BOUND_S]:
            self._lose(spare, f"a worker took more than {BIRTH_BOUND_S:.0f} s to be forked")
        if not self._waiting:
            for spare in self._spares[self._wanted() :]:
                self._dismiss(spare)
        self._serve()

    def _serve(self) -> None:
        """Give workers to waiting attempts, and fork more as needed."""
        server = self._server
        if server is None or server.fingerprint is None:
            return
        if self._waiting and server.fingerprint.outdated:
            self._begin_anew()
            return
        for waiting in [waiting for waiting in self._waiting if not waiting.suits]:
            why = server.difference(waiting.message)
            waiting.suits = not why
            if why:
                self._waiting.remove(waiting)
                self._tell({"kind": "workers", "forked": True, "why": why})
                self._fresh(waiting.message, waiting.fds)
        for spare in [spare for spare in self._spares if spare.watched is not None][: len(self._waiting)]:
            waiting = self._waiting.popleft()
            self._hand_over(spare, waiting.message, waiting.fds)
        if self._waiting and self._proven:  # else they wait for the server, and more may not follow
            self._short_s = time.monotonic()
        unborn = sum(spare.watched is None for spare in self._spares)
        wanted = len(self._waiting) - unborn
        if not self._replace_due_s:
            wanted = max(wanted, len(self._waiting) + self._wanted() - len(self._spares))
        for _ in range(min(wanted, MOST_UNBORN - unborn)):
            if self._server is server:  # it may have ended meanwhile
                self._make()

    def _wanted(self) -> int:
        """Return how many spares to keep now."""
        if self._server is None or time.monotonic() - self._used_s > IDLE_S:
            return 0
        asked = max((waiting.message["memory_bytes"] or 0 for waiting in self._waiting), default=0)
        try:
            available_bytes = machine.available_bytes()
        except (OSError, ImportError):  # no descriptor is free to read this, and none would be for a spare
            return 0
        if available_bytes - asked <= SHORT_BYTES:
            return 0
        return KEPT_IN_DEMAND if self._in_demand else KEPT

    @property
    def _in_demand(self) -> bool:
        return time.monotonic() - self._short_s < IN_DEMAND_S

    def _make(self) -> None:
        """Request one more spare."""
        if self._server is None:
            return
        self._numbers += 1
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._fail(str(error))
            return
        try:
            ours.setblocking(False)
            group = self._limiter.group(f"spare-{self._numbers}", Limits())
            spare = Spare(ours, protocol.ControlReader(ours), group)
            self._spares.append(spare)
            self._events.listen(ours, lambda: self._read(spare))
            self._server.fork(group.procs_files, theirs)
        except (BrokenPipeError, ConnectionResetError):
            self._lose_server()  # one loss, however many spares were requested before its end is noticed
        except OSError as error:
            self._fail(str(error))
        finally:
            theirs.close()

    def _read(self, spare: Spare) -> None:
        try:
            messages = spare.reader.read()
        except protocol.ChannelClosedError:
            if spare.watched is None:
                self._miss(spare)
            else:
                self._lose(spare, "a worker that stood ready ended")
            return
        for message, fds in messages:
            reader, why = handover.received(message, fds)
            if message["kind"] == "ready":
                spare.watched = Watched(
                    message["pid"], spare.group, Limits(), LineAttribution(message["pid"], reader, why)
                )
                spare.group.attach(message["pid"])
                self._failures = 0
                if not self._proven:
                    self._proven = True
                    self._tell({"kind": "workers", "forked": True, "why": ""})
                self._serve()
            else:
                self._lose(spare, message["why"])

    def _hand_over(self, spare: Spare, message: Message, fds: list[int]) -> None:
        watched = spare.watched
        assert watched is not None
        limits = Limits(memory_bytes=message["memory_bytes"], cpu_cores=message["cpu_cores"])
        order = {"kind": "begin", **{key: message[key] for key in ("name", "entry", "environ", "cwd", "sys_path")}}
        fits = limits.memory_bytes is None or spare.group.sample() + HEADROOM_BYTES < limits.memory_bytes
        try:
            if fits:
                spare.group.assign(message["name"], limits)
                watched.take(limits)  # before the order is sent: the attempt may end before this continues
                Sending(spare.sock, order, fds, self._events)
        except OSError:
            fits = False
        if not fits:
            self._dismiss(spare)
            self._fresh(message, fds)
            return
        self._forget(spare)
        _close(fds)
        self._replace_due_s = 0.0 if self._in_demand else time.monotonic() + REPLACE_AFTER_S
        self._start(message, watched)

    def _miss(self, spare: Spare) -> None:
        """Give up a spare that ended silently before it was ready. If its server ended too, the server is the loss.

        Either of the two ends may be noticed first.
        """
        self._dismiss(spare)
        self._missed = self._server
        self._look_due_s = min(self._look_due_s, time.monotonic() + MISSED_LOOK_S)
        self._serve()

    def _lose(self, spare: Spare, why: str) -> None:
        self._dismiss(spare)
        self._fail(why)
        self._serve()

    def _lose_server(self, why: str = ENDED) -> None:
        """Start another server: workers that the old one forked go on running."""
        if self._server is None:
            return
        self._end_server()
        for spare in [spare for spare in self._spares if spare.watched is None]:
            self._dismiss(spare)
        self._fail(why)
        if self._failures < MOST_FAILURES and self._settings is not None:
            self._begin()

    def _end_server(self) -> None:
        """Kill the server, if there is one; `died` is called when it has ended."""
        server, self._server = self._server, None
        if server is not None:
            if server.pid is not None:
                self._ended_servers.add(server.pid)
            server.end()

    def _fail(self, why: str) -> None:
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self._settle(why)

    def _settle(self, why: str) -> None:
        """Fork no more workers, and report why."""
        self._end_server()
        self._tell({"kind": "workers", "forked": False, "why": why})
        for spare in list(self._spares):
            self._dismiss(spare)
        while self._waiting:
            waiting = self._waiting.popleft()
            self._fresh(waiting.message, waiting.fds)

    def _dismiss(self, spare: Spare) -> None:
        """End a spare; its group is removed when it is empty."""
        self._forget(spare)
        watched = spare.watched or Watched(None, spare.group, Limits())
        watched.trip("stopped")
        self._leaving.append(watched)

    def _forget(self, spare: Spare) -> None:
        if spare in self._spares:
            self._spares.remove(spare)
            self._events.ignore(spare.sock)
            spare.sock.close()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
