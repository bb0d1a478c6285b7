"""The launcher: a process that forks and executes the supervisor's programs, and does nothing else.

It is exec'd by the supervisor and has one thread, so it may fork; the supervisor has more (`stack_sample`), and never
forks. The parents of the processes::

    supervisor ──exec──> launcher ──fork──> go-between ──fork──> the program's process
        ^                                    ends at once                  │
        └──────────── becomes its parent when that one has ended ──────────┘

as it is the subreaper of its children (prctl(2)). Each process has a socket to the supervisor: it sends its pid there,
waits for its order, joins its group, and executes the program, which closes the socket: if it closes without a message
about a failure, the start succeeded. So the supervisor does not wait for a process that the operating system's kernel
holds up. A process that has sent its pid can be killed; one that has not finds its socket closed, and ends.

From the supervisor: ``fork`` with a socket for a new process. On that socket: ``born``, ``failed`` to the supervisor,
``order`` from it, with the program's descriptors from 1 on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from flyte_notebook.limiters import affinity, kernel_files
from flyte_notebook.worker.process import prctl, protocol

CONTROL_FD = 3
LOWEST_FREE_FD = 10
NAME = b"fnb-launcher"
"""Its name in the operating system; ``ps -o comm`` shows it."""
OOM_SCORE_ADJ = "1000"
"""If the machine runs out of memory the kernel kills the task, not the notebook (proc(5), oom_score_adj)."""


def main(arguments: list[str]) -> NoReturn:
    """Entry of the launcher process: the pid of the supervisor."""
    supervisor_pid = int(arguments[0])
    prctl.depend_on(supervisor_pid)
    prctl.set_name(NAME)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # go-betweens end without leaving a zombie
    os.set_inheritable(CONTROL_FD, False)
    reader = protocol.ControlReader(socket.socket(fileno=CONTROL_FD))
    while True:
        try:
            messages = reader.read()
        except protocol.ChannelClosedError:
            os._exit(0)
        for _, fds in messages:
            for fd in fds:
                _begin(fd, supervisor_pid)
                os.close(fd)


def _begin(word: int, supervisor_pid: int) -> None:
    """Fork a go-between, which forks the process; returns at once."""
    try:
        if os.fork() == 0:
            _go_between(word, supervisor_pid)
    except OSError as error:
        _say_why(word, error)


def _go_between(word: int, supervisor_pid: int) -> NoReturn:
    own_pid = os.getpid()
    try:
        if os.fork() == 0:
            become(word, supervisor_pid, after=own_pid)
    except OSError as error:
        _say_why(word, error)
    os._exit(0)


def become(word: int, supervisor_pid: int, *, after: int | None = None) -> NoReturn:
    """Send this process's pid on that socket, wait for a program, and execute it."""
    try:
        # Above the program's descriptors, so that no dup2 replaces a descriptor that is still needed.
        word = fcntl.fcntl(word, fcntl.F_DUPFD_CLOEXEC, LOWEST_FREE_FD)
        sock = socket.socket(fileno=word)
        prctl.depend_on(supervisor_pid, after=after)
        protocol.send_control(sock, {"kind": "born", "pid": os.getpid()})
        order, fds = _order(sock)
        _prepare(order, [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_FREE_FD) for fd in fds])
        if not _given_up(sock):
            environ = {os.fsencode(key): os.fsencode(value) for key, value in order["environ"].items()}
            os.execve(order["argv"][0], order["argv"], environ)  # noqa: S606 - exactly the interpreter we run in
    except (protocol.ChannelClosedError, BrokenPipeError):
        pass  # the supervisor no longer waits for it
    except BaseException as error:
        _say_why(word, error)
    finally:
        os._exit(127)


def _order(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    reader = protocol.ControlReader(sock)
    while not (orders := reader.read()):
        pass
    return orders[0]


def _prepare(order: dict[str, Any], fds: Sequence[int]) -> None:
    """Join the group, and set up the program's surroundings."""
    os.setsid()  # an interrupt of the notebook's process group must not reach it
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            kernel_files.write("/proc/self/oom_score_adj", OOM_SCORE_ADJ)
    affinity.join(order["procs_files"], order["cpus"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, fd in enumerate((null, *fds)):
        os.dup2(fd, target)
    if order["cwd"] is not None:
        os.chdir(order["cwd"])


def _given_up(sock: socket.socket) -> bool:
    """Whether the supervisor no longer waits for this process; without its pid the supervisor cannot have killed it."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _say_why(fd: int, error: BaseException) -> None:
    """Tell the supervisor why no program was started."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        protocol.send_control(sock, {"kind": "failed", "why": str(error) or repr(error)})
