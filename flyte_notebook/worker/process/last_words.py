"""Messages and steps that a worker can still send and do without free memory: prepared before the body of its job.

A body may use up resources that an answer needs, or limit them, for example with ``setrlimit``. So the messages for the
steps after the body are complete before it begins, and sending one allocates nothing. Soft limits that the body has set
are reset afterwards: they were meant for the body.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING, get_args

from flyte_notebook.core.bound import sleep_s
from flyte_notebook.core.endings import Step
from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    import socket
    import threading

LOCK_BOUND_S = 1.0
"""How long another thread may take to send its message."""
KILL_BOUND_S = 2.0
"""How long the kernel may take to have this process killed, after which it ends itself."""
EXIT_UNANSWERED = 71

LIMITS = ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_STACK")
_steps: tuple[Step, ...] = get_args(Step)


class LastWords:
    """Sends prepared messages through the worker's channel, under the same ``lock`` as all other messages."""

    def __init__(self, sock: socket.socket, lock: threading.Lock) -> None:
        self._fd = sock.fileno()
        self._lock = lock
        self._at = {step: protocol.frame({"kind": "step", "step": step}) for step in _steps}
        self._failed = {step: protocol.frame({"kind": "unanswered", "step": step}) for step in _steps}
        self.at: Step | None = None
        """The last reported step; ``None`` before the end of the user's code."""
        kinds = [getattr(resource, name) for name in LIMITS if hasattr(resource, name)]
        self._limits = [(kind, resource.getrlimit(kind)) for kind in kinds]

    def step(self, step: Step) -> None:
        """Report the next step, once. Never raises: if this report fails, the one for the next step may succeed."""
        if step == self.at:
            return
        with contextlib.suppress(MemoryError):
            if self.at is None:
                self._take_back()
            if self._write(self._at[step]):
                self.at = step

    def fail(self) -> None:
        """Report that the step failed, and wait to be killed."""
        with contextlib.suppress(BaseException):
            self._write(self._failed[self.at or "handing over"])
            sleep_s(KILL_BOUND_S)
        os._exit(EXIT_UNANSWERED)

    def _write(self, frame: bytes) -> bool:
        if not self._lock.acquire(timeout=LOCK_BOUND_S):
            return False
        try:
            return os.write(self._fd, frame) == len(frame)  # a few bytes: a socket accepts all of them or none
        except OSError:
            return False
        finally:
            self._lock.release()

    def _take_back(self) -> None:
        """Set the limits of this process as they were before the body, unless the hard ones were lowered."""
        for kind, before in self._limits:
            try:
                resource.setrlimit(kind, before)
            except (ValueError, OSError):
                with contextlib.suppress(ValueError, OSError):
                    hard = resource.getrlimit(kind)[1]
                    resource.setrlimit(kind, (hard, hard))
