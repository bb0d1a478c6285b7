"""One worker without a job, and one attempt that waits for a worker; `spares` assigns one to the other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from flyte_notebook.limiters.base import TaskGroup
    from flyte_notebook.worker.process import protocol
    from flyte_notebook.worker.process.launching import Message
    from flyte_notebook.worker.process.watched import Watched


@dataclass(slots=True, eq=False)
class Spare:
    """One worker without a job. ``watched`` is set when it is ready and has sent its pid."""

    sock: socket.socket
    reader: protocol.ControlReader
    group: TaskGroup
    born_s: float = field(default_factory=time.monotonic)
    watched: Watched | None = None


@dataclass(slots=True, eq=False)
class Waiting:
    """An attempt that waits for a worker. ``suits``: a forked worker equals a fresh one for it."""

    message: Message
    fds: list[int]
    suits: bool = False
