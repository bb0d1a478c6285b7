"""The supervisor's side of attempts that get a fresh interpreter, until the interpreter runs."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyte_notebook.core.limits import Limits
from flyte_notebook.worker.process import handover, protocol
from flyte_notebook.worker.process.watched import Watched
from flyte_notebook.worker.stacks.line_attribution import LineAttribution

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.limiters.base import Limiter, TaskGroup
    from flyte_notebook.worker.process.launching import Launch, Launcher, Message
    from flyte_notebook.worker.values.sending import Events


@dataclass(frozen=True, slots=True, eq=False)
class Starting:
    """One interpreter that is being started, its group, and our end of the socket that it has to the supervisor."""

    launch: Launch
    group: TaskGroup
    stacks: socket.socket


class Fresh:
    """The interpreters that are being started.

    ``start`` is called with each attempt whose interpreter runs (its message, the worker), ``leave`` with a group that
    has to become empty, and ``tell`` with each message for the kernel.
    """

    def __init__(  # noqa: PLR0913 - its collaborators, each by name
        self,
        limiter: Limiter,
        events: Events,
        launcher: Launcher,
        *,
        start: Callable[[Message, Watched], None],
        leave: Callable[[Watched], None],
        tell: Callable[[Message], None],
    ) -> None:
        self._limiter = limiter
        self._events = events
        self._launcher = launcher
        self._start = start
        self._leave = leave
        self._tell = tell
        self._starting: dict[int, Starting] = {}

    def ask(self, message: Message, fds: list[int]) -> None:
        """Start an interpreter for an attempt, or refuse it. This function closes the descriptors."""
        number = message["id"]
        if not fds:
            self._refuse(number, "the supervisor has too many files open")
            return
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            for fd in fds:
                theirs.callback(os.close, fd)
            try:
                channel, stdout, stderr = fds
                stacks, stack = socket.socketpair()
                ours.callback(stacks.close)
                theirs.callback(stack.close)
                group = self._limiter.group(message["name"], _limits(message))
                ours.callback(_remove, group)
                order = {key: message[key] for key in ("argv", "environ", "cwd")}
                launch = self._launcher.launch(
                    {**order, "procs_files": group.procs_files, "cpus": sorted(group.cpus)},
                    [stdout, stderr, channel, stack.fileno()],
                    started=lambda launch: self._started(message, launch),
                    failed=lambda why: self._failed(number, why),
                )
            except OSError as error:
                self._refuse(number, str(error))
                return
            ours.pop_all()
        self._starting[number] = Starting(launch, group, stacks)

    def look(self, number: int) -> None:
        """Check whether an interpreter that was being started runs now: a message says so."""
        starting = self._starting.get(number)
        if starting is not None:
            starting.launch.look()

    def give_up(self, number: int) -> bool:
        """Kill an interpreter that is being started; return whether there was one."""
        starting = self._starting.pop(number, None)
        if starting is None:
            return False
        starting.launch.give_up()
        starting.stacks.close()
        leaving = Watched(None, starting.group, Limits())
        leaving.trip("stopped")
        self._leave(leaving)
        return True

    @property
    def awaited(self) -> bool:
        """Whether an interpreter is being started."""
        return bool(self._starting)

    def close(self) -> None:
        """Kill all interpreters that are being started."""
        for number in list(self._starting):
            self.give_up(number)

    def _started(self, message: Message, launch: Launch) -> None:
        starting = self._starting.pop(message["id"])
        assert launch.pid is not None
        if launch.status is None:  # else another process may have its pid already
            starting.group.attach(launch.pid)
        attribution = LineAttribution(launch.pid, why="its memory was not handed over")
        watched = Watched(launch.pid, starting.group, _limits(message), attribution)
        if launch.status is not None:
            watched.died(launch.status)
        self._attend(starting.stacks, watched, attribution)
        self._start(message, watched)

    def _failed(self, number: int, why: str) -> None:
        self.give_up(number)
        self._refuse(number, why)

    def _refuse(self, number: int, why: str) -> None:
        self._tell({"kind": "refused", "id": number, "error": why})

    def _attend(self, sock: socket.socket, watched: Watched, attribution: LineAttribution) -> None:
        """Take the memory that the interpreter hands over for reading stacks, and measure it when it has imported.

        It waits until this end is closed. This ends with the interpreter too.
        """
        reader = protocol.ControlReader(sock)

        def read() -> None:
            try:
                messages = reader.read()
            except protocol.ChannelClosedError:
                messages = [({"kind": "gone"}, [])]
            for message, fds in messages:
                if message["kind"] == "stack":
                    attribution.give(*handover.received(message, fds))
                    continue
                if message["kind"] == "loaded":
                    watched.measure()
                self._events.ignore(sock)
                sock.close()
                return

        self._events.listen(sock, read)


def _limits(message: Message) -> Limits:
    return Limits(memory_bytes=message["memory_bytes"], cpu_cores=message["cpu_cores"])


def _remove(group: TaskGroup) -> None:
    with contextlib.suppress(OSError):
        group.remove()
