"""The kernel's side of the supervisor: starts it, asks it for workers, receives reports about them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from subprocess import Popen  # bound here: a program may replace it in its module
from typing import TYPE_CHECKING, Any

from flyte_notebook.core import private
from flyte_notebook.core.bound import to_json
from flyte_notebook.core.limits import Enforcement
from flyte_notebook.engine import around
from flyte_notebook.engine.request import above_standard
from flyte_notebook.limiters import cgroup_v2, processes, selection
from flyte_notebook.limiters.base import ATTEMPT_VARIABLE, SESSION_VARIABLE
from flyte_notebook.limiters.life import LOG, Life
from flyte_notebook.worker.process import protocol
from flyte_notebook.worker.process.fingerprint import ATTEMPT_NAME_BYTES

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from flyte_notebook.core.limits import Limits

HELLO_BOUND_S = 30.0
SEND_BOUND_S = 5.0
"""How long the supervisor may take to read a message: it reads all the time, unless it was stopped."""

CLOSE_BOUND_S = 6.0
WORKERS_BOUND_S = 35.0
"""How long the check may take whether workers can be forked; the supervisor itself gives up sooner."""

WORKERS_VARIABLE = "FLYTE_NOTEBOOK_WORKERS"
"""Environment variable: ``fresh`` gives each attempt an interpreter of its own, where workers could be forked."""

LOOK_EVERY_S = 0.5
STOPPED_LOOKS = 2
SILENT_LOOKS = 60
"""While attempts run the supervisor sends ten messages a second; after this many checks without one it counts as lost.

A supervisor that was stopped (SIGSTOP) enforces no limits, and counts as lost after `STOPPED_LOOKS`. Checks are
counted, not seconds: the supervisor did not fail if the machine slept or all our processes were frozen together.
"""

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(''.join(sys.argv[2:]))['sys_path']; "
    "from flyte_notebook.worker.process.supervisor import main; main(sys.argv[1:])"
)


_BOOT_SERVER = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from flyte_notebook.worker.process.prefork import main; main(sys.argv[1:])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefork:
    """The setup of the server that workers are forked from.

    It imports ``modules``, and those of ``if_installed`` that exist, and calls ``before_fork``; a worker calls
    ``after_fork`` when it gets its job. Functions are named as ``module:function``.
    """

    modules: tuple[str, ...]
    if_installed: tuple[str, ...] = ()
    before_fork: tuple[str, ...] = ()
    after_fork: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How workers are started: ``forked``, or the reason why not. ``why`` with ``forked``: why the last one was not."""

    forked: bool
    why: str = ""


class SupervisorError(RuntimeError):
    """The supervisor process did not start or has ended; the text has its last output."""


class Handle:
    """One attempt as the supervisor knows it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.usage_bytes = 0
        self.ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """No further message about this attempt will arrive."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # the waiting task may have been cancelled


class SupervisorLink:
    """Owns the supervisor process of a session. Everything runs on the engine's loop."""

    def __init__(
        self, on_usage: Callable[[], None], on_loss: Callable[[], None], prefork: Prefork | None = None
    ) -> None:
        """``on_loss`` is called when the supervisor ended while its attempts ran."""
        self.enforcement = Enforcement()
        self._on_loss = on_loss
        self.workers: asyncio.Future[Workers] = asyncio.get_running_loop().create_future()
        self._prefork = prefork
        self.session = selection.session_name(os.getpid())
        self._life: Life | None = None
        self.left_alone = 0
        """How many sessions have files or groups here, and are from another machine or not provably over."""
        self._on_usage = on_usage
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reader: protocol.ControlReader | None = None
        self._handles: dict[int, Handle] = {}
        self._numbers = 0
        self._hello: asyncio.Future[dict[str, Any]] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._silent_looks = 0

    @property
    def directory(self) -> private.Directory:
        """The directory for files of the session."""
        assert self._life is not None
        return self._life.directory

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._control is not None

    @property
    def pid(self) -> int | None:
        """The pid of the supervisor process."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the supervisor and wait for its first message. Raises `SupervisorError`."""
        prefix = cgroup_v2.systemd_scope_command()
        try:
            await self._start(prefix or [])
        except SupervisorError:
            if prefix is None:
                raise
            await self._start([])  # continue if a user manager refuses a scope; the doctor reports the loss

    async def _start(self, prefix: list[str]) -> None:
        loop = asyncio.get_running_loop()
        if self._life is None:
            self._life = Life.begin(self.session)
            private.know(self.directory)
        else:
            os.close(self.directory.hold())  # a wrong directory is refused, and not made again
        with above_standard():
            ours, theirs = protocol.pair()
        own = around.snapshot(local=False)
        settings = {
            "session": self.session,
            "directory": self.directory.to_dict(),
            "sys_path": own.sys_path,
            "kernel_pid": os.getpid(),
        }
        # Cautious: a bad value of an interpreter's variable may end a worker, but not the supervisor that reports it.
        program = [around.interpreter(), "-c", _BOOT, str(theirs.fileno())]
        self._process = Popen(  # noqa: ASYNC220 - the engine's loop has nothing else to do yet
            [*prefix, *program, *around.pieces(to_json(settings))],
            env=around.at_start(own.environ, cautious=True)[0],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._reader = protocol.ControlReader(ours)
        self._hello = loop.create_future()
        loop.add_reader(ours.fileno(), self._read)
        try:
            hello = await asyncio.wait_for(self._hello, HELLO_BOUND_S)
        except (TimeoutError, SupervisorError) as error:
            text = self._last_words()
            self._lost(SupervisorError("it did not start"))
            await self.reap()
            msg = f"the supervisor process did not start: {str(error) or 'no word from it'} {text}".strip()
            raise SupervisorError(msg) from error
        self.left_alone = hello["left_alone"]
        found = hello["enforcement"]
        self.enforcement = Enforcement(memory=found["memory"], cpu=found["cpu"], hints=tuple(found["hints"]))

    def begin_server(self) -> None:
        """Start the server that workers are forked from, unless the user does not want it."""
        prefork, why = self._prefork, ""
        if os.environ.get(WORKERS_VARIABLE) == "fresh":
            why = f"{WORKERS_VARIABLE}=fresh"
        elif sys.platform != "linux":
            why = "workers are forked on Linux only"
        if prefork is None or why:
            self._heard_of_workers(Workers(forked=False, why=why))
            return
        environ, _ = around.at_start(around.snapshot(local=False).environ)
        own = {
            SESSION_VARIABLE: self.session,
            ATTEMPT_VARIABLE: "-" * ATTEMPT_NAME_BYTES,
            "FLYTE_DISABLE_TELEMETRY": "1",
        }
        argv = [around.interpreter(), "-c", _BOOT_SERVER]
        self._send({"kind": "prefork", "argv": argv, "environ": {**environ, **own}, "own": asdict(prefork)})

    async def known_workers(self) -> Workers:
        """Return how workers are started; wait until that is known."""
        await asyncio.wait({self.workers}, timeout=WORKERS_BOUND_S)
        if self.workers.done():
            return self.workers.result()
        return Workers(forked=False, why="the supervisor does not tell whether workers can be forked")

    def _heard_of_workers(self, workers: Workers) -> None:
        if self.workers.done():
            self.workers = asyncio.get_running_loop().create_future()
        self.workers.set_result(workers)

    def spawn(self, *, limits: Limits, request: dict[str, Any], fds: list[int]) -> Handle:
        """Ask for a worker. ``fds`` are its channel, stdout and stderr; the caller closes its copies afterwards."""
        if self._control is None:
            raise SupervisorError("the supervisor process is gone")
        self._numbers += 1
        handle = Handle(self._numbers)
        self._handles[handle.number] = handle
        if self._look is None:
            self._look_again()
        bounds = {"memory_bytes": limits.memory_bytes, "cpu_cores": limits.cpu_cores}
        self._send({"kind": "spawn", "id": handle.number, **bounds, **request}, fds)
        return handle

    def arm(self, handle: Handle, *, max_runtime_s: float | None, deadline_in_s: float | None) -> None:
        """Report that the worker is ready: its time limits start."""
        times = {"max_runtime_s": max_runtime_s, "deadline_in_s": deadline_in_s}
        self._send({"kind": "arm", "id": handle.number, **times})

    def leave(self, handle: Handle, status: int) -> None:
        """Report that a worker ends now, with this exit status: no code of its task runs any more."""
        self._send({"kind": "leave", "id": handle.number, "status": status})

    def stop(self, handle: Handle) -> None:
        """Have an attempt killed."""
        self._send({"kind": "stop", "id": handle.number})

    async def close(self) -> None:
        """End the supervisor; it kills all remaining processes and removes its files. Idempotent."""
        with contextlib.suppress(SupervisorError):
            self._send({"kind": "close"})
        self._lost(SupervisorError("the engine was closed"))
        process = self._process
        await self.reap()
        if self._life is not None:
            if process is None or process.returncode != 0:  # it ended before it had cleared up
                selection.sweep(own=self.session)
            self._life.end()

    async def reap(self) -> None:
        """Wait for the end of the supervisor process, kill it when it takes too long."""
        process, self._process = self._process, None
        if process is not None:
            for _ in range(int(CLOSE_BOUND_S / 0.01)):
                if process.poll() is not None:
                    break
                await asyncio.sleep(0.01)
            else:
                process.kill()
                process.wait()

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        if self._control is None:
            raise SupervisorError("the supervisor process is gone")
        self._control.settimeout(SEND_BOUND_S)
        try:
            protocol.send_control(self._control, message, fds or [])
        except OSError as error:
            self._lost_unasked(SupervisorError(f"the supervisor process is gone: {error}"))
            raise SupervisorError("the supervisor process is gone") from error
        finally:
            if self._control is not None:
                self._control.setblocking(False)

    def _look_again(self) -> None:
        self._silent_looks = 0
        self._look = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_for_life)

    def _look_for_life(self) -> None:
        self._silent_looks += 1
        if not self._handles:
            self._look = None
        elif self._silent_looks > STOPPED_LOOKS and self._process is not None and processes.stopped(self._process.pid):
            self._process.kill()
            self._lost_unasked(SupervisorError("the supervisor process was stopped (SIGSTOP), and holds no limits"))
        elif self._silent_looks > SILENT_LOOKS:
            said_s = SILENT_LOOKS * LOOK_EVERY_S
            self._lost_unasked(SupervisorError(f"the supervisor process has said nothing for {said_s:g} s"))
        else:
            self._look = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_for_life)

    def _read(self) -> None:
        assert self._reader is not None
        self._silent_looks = 0
        try:
            messages = self._reader.read()
            for message, _ in messages:
                self._handle(message)
        except protocol.BrokenMessageError as error:
            self._lost_unasked(SupervisorError(f"the supervisor process sent {error}"))
        except protocol.ChannelClosedError:
            self._lost_unasked(SupervisorError(f"the supervisor process is gone {self._last_words()}".strip()))
        except (LookupError, TypeError, ValueError, AttributeError, asyncio.InvalidStateError) as error:
            self._lost_unasked(SupervisorError(f"the supervisor process sent what cannot be: {error!r}"))

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "hello":
            if self._hello is not None and not self._hello.done():
                self._hello.set_result(message)
        elif kind == "usage":
            for number, usage_bytes in message["usage"].items():
                handle = self._handles.get(int(number))
                if handle is not None:
                    handle.usage_bytes = usage_bytes
            self._on_usage()
        elif kind == "workers":
            self._heard_of_workers(Workers(forked=message["forked"], why=message["why"]))
        elif kind == "refused":
            self._handles.pop(message["id"]).fail(SupervisorError(f"no worker could be started: {message['error']}"))
        elif kind == "ended":
            self._handles.pop(message["id"]).ended.set_result(message)

    def _lost_unasked(self, error: SupervisorError) -> None:
        running = bool(self._handles)
        self._lost(error)
        if running:
            self._on_loss()

    def _lost(self, error: SupervisorError) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(error)
        handles, self._handles = self._handles, {}
        for handle in handles.values():
            handle.fail(error)

    def _last_words(self) -> str:
        try:
            with private.read(f"{self.directory.path}/{LOG}") as file:
                return file.read()[-2000:].decode(errors="replace").strip()
        except OSError:
            return ""
