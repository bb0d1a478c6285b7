"""One worker without a job, and one attempt that waits for a worker: what `spares` brings together."""

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
    """One worker without a job. ``watched`` is there once it is ready and said which process it is."""

    sock: socket.socket
    reader: protocol.ControlReader
    group: TaskGroup
    born_s: float = field(default_factory=time.monotonic)
    watched: Watched | None = None


@dataclass(slots=True, eq=False)
class Waiting:
    """An attempt that waits for a worker. ``suits``: a forked one was found to be like a fresh one for it."""

    message: Message
    fds: list[int]
    suits: bool = False
