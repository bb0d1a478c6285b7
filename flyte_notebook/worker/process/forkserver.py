"""The supervisor's side of the server that workers are forked from: starts it, requests workers, ends it."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import TYPE_CHECKING

from flyte_notebook.worker.process import protocol
from flyte_notebook.worker.process.fingerprint import EnvironmentFingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flyte_notebook.worker.process.launching import Launch, Launcher, Message
    from flyte_notebook.worker.values.sending import Events


ENDED = "the server that workers are forked from ended"


class Server:
    """One server process. Its program, environment, imports and preparations are in ``settings``.

    One of ``fit``, ``unfit`` and ``lost`` is called (the last two with the reason); ``lost`` may follow ``fit``.
    """

    def __init__(  # noqa: PLR0913 - its collaborators, each by name
        self,
        settings: Message,
        events: Events,
        launcher: Launcher,
        *,
        fit: Callable[[], None],
        unfit: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        """Start it. Raises OSError."""
        self.begun_s = time.monotonic()
        self.fingerprint: EnvironmentFingerprint | None = None
        self._settings = settings
        self._events = events
        self._fit = fit
        self._unfit = unfit
        self._lost = lost
        self._sock, theirs = socket.socketpair()
        # A pipe, as for the output of a worker; output of an import is not read.
        self._output, output = os.pipe()
        own = json.dumps({**settings["own"], "supervisor_pid": os.getpid()})
        order = {
            "argv": [*settings["argv"], own],
            "environ": settings["environ"],
            "procs_files": (),
            "cpus": (),
            "cwd": None,
        }
        try:
            self._launch = launcher.launch(
                order,
                [output, output, theirs.fileno()],
                started=self._started,
                failed=lambda why: self._lost(f"the server that workers are forked from cannot be started: {why}"),
            )
        except OSError:
            self._sock.close()
            os.close(self._output)
            raise
        finally:
            theirs.close()
            os.close(output)
        self._reader = protocol.ControlReader(self._sock)
        self._open, self._listens = True, False

    @property
    def pid(self) -> int | None:
        """The pid of its process; ``None`` before it exists, and after its exit status was collected."""
        return self._launch.pid if self._launch.status is None else None

    def collected(self, status: int) -> None:
        """Note that its process has ended and was waited for."""
        self._launch.status = status

    def difference(self, message: Message) -> str:
        """Return the difference that a fresh interpreter would have for this attempt; empty if there is none."""
        assert self.fingerprint is not None
        return self.fingerprint.difference(
            executable=message["argv"][0],
            environ=message["environ"],
            sys_path=message["sys_path"],
            cwd=message["cwd"],
        )

    def fork(self, procs_files: Sequence[str], sock: socket.socket) -> None:
        """Request a worker that joins a group by these ``procs_files`` and holds this socket. Raises OSError."""
        protocol.send_control(self._sock, {"kind": "fork", "procs_files": procs_files}, [sock.fileno()])

    def end(self) -> None:
        """Kill it; the supervisor's loop collects its exit status. Idempotent."""
        if self._open:
            self._open = False
            if self._listens:
                self._events.ignore(self._sock)
            self._sock.close()
            os.close(self._output)
            self._launch.give_up()

    def _started(self, _launch: Launch) -> None:
        self._listens = True
        self._events.listen(self._sock, self._read)

    def _read(self) -> None:
        try:
            messages = self._reader.read()
        except protocol.ChannelClosedError:
            self._lost(ENDED)
            return
        for message, _ in messages:
            if message["kind"] == "unfit":
                self._unfit(message["why"])
                return
            self.fingerprint = EnvironmentFingerprint(
                executable=self._settings["argv"][0],
                environ=self._settings["environ"],
                sys_path=message["sys_path"],
                modules=message["modules"],
                namespaces=message["namespaces"],
            )
            self._fit()
