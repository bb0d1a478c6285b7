"""What a worker can still say and do when it has no memory left: prepared before the body of its job.

A body may take from its process what an answer needs, with ``setrlimit`` for example. So the messages that say how far
the worker is once the body has ended are whole before it begins, and sending one allocates nothing. Soft limits that
the body has set are taken back: they were for the body.
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
"""How long another thread may take to send its own message."""
KILL_BOUND_S = 2.0
"""How long the kernel may take to have this process killed, after which it ends itself."""
EXIT_UNANSWERED = 71

LIMITS = ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_STACK")
_steps: tuple[Step, ...] = get_args(Step)


class LastWords:
    """Sends prepared messages through the worker's channel, between those of others, whose ``lock`` it takes."""

    def __init__(self, sock: socket.socket, lock: threading.Lock) -> None:
        self._fd = sock.fileno()
        self._lock = lock
        self._at = {step: protocol.frame({"kind": "step", "step": step}) for step in _steps}
        self._failed = {step: protocol.frame({"kind": "unanswered", "step": step}) for step in _steps}
        self.at: Step | None = None
        """What was said last; ``None`` while the user's code is not over."""
        kinds = [getattr(resource, name) for name in LIMITS if hasattr(resource, name)]
        self._limits = [(kind, resource.getrlimit(kind)) for kind in kinds]

    def step(self, step: Step) -> None:
        """Say what is done next, once. Never raises: where it cannot be said, the next step may be."""
        if step == self.at:
            return
        with contextlib.suppress(MemoryError):
            if self.at is None:
                self._take_back()
            if self._write(self._at[step]):
                self.at = step

    def fail(self) -> None:
        """Say that the step could not be done, and be killed."""
        with contextlib.suppress(BaseException):
            self._write(self._failed[self.at or "handing over"])
            sleep_s(KILL_BOUND_S)
        os._exit(EXIT_UNANSWERED)

    def _write(self, frame: bytes) -> bool:
        if not self._lock.acquire(timeout=LOCK_BOUND_S):
            return False
        try:
            return os.write(self._fd, frame) == len(frame)  # a few bytes: a socket takes all of them or none
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
