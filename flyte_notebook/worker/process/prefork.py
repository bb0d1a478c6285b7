"""The server that workers are forked from: it imports the modules that every worker needs, once, and then only forks.

It is exec'd by the launcher, holds no user data, and has one thread when it forks. The parents of the processes::

    supervisor ── ... ──> server ──fork──> go-between ──fork──> worker
        ^                                 joins the group,       │
        └──────────── becomes its parent when that one ends ─────┘

The go-between joins the attempt's group before the worker exists, so that all pages the worker touches are charged
there; and it stays, without touching memory, until the worker has made the inherited pages its own (`own_pages`): while
it shares them, they are copied, even those charged to this group. Then it ends, and the supervisor becomes the worker's
parent, as the subreaper of its children (prctl(2)): it gets the worker's exit status itself, and the worker does not
depend on the server any more. The worker is now a *spare* until the supervisor sends it an attempt: channel, stdout and
stderr, environment, current directory and search path. From then on it runs like a worker with a fresh interpreter.

From the supervisor: ``fork`` with a socket for the new worker. To it: ``fit`` or ``unfit``, once. On the socket of a
spare: ``ready``, ``failed`` to the supervisor, ``begin`` from it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyte_notebook.core.userfiles import is_user_file
from flyte_notebook.limiters import kernel_files
from flyte_notebook.limiters.base import ATTEMPT_VARIABLE
from flyte_notebook.worker.process import child, handover, own_pages, prctl, protocol
from flyte_notebook.worker.process.fingerprint import ATTEMPT_NAME_BYTES

if TYPE_CHECKING:
    import socket

CONTROL_FD = 3
LOWEST_FREE_FD = 10
SPARE_NAME = b"fnb-spare"
"""The name of a worker that has no job yet; ``ps -o comm`` shows it."""
SERVER_NAME = b"fnb-server"
ONE_THREAD_BOUND_S = 2.0


class UnfitError(Exception):
    """Workers must not be forked from this process; the text says why."""


def main(arguments: list[str]) -> None:
    """Entry of the server process; never returns, neither in the server nor in the workers."""
    settings = json.loads(arguments[0])
    control = protocol.taken(CONTROL_FD)
    os.set_inheritable(CONTROL_FD, False)
    was_called = prctl.name()
    prctl.set_name(SERVER_NAME)
    try:
        runs, layout = _prepare(settings)
    except Exception as error:  # on any error each worker gets an interpreter of its own
        protocol.send_control(control, {"kind": "unfit", "why": str(error) or repr(error)})
        os._exit(0)
    modules = sorted({name.partition(".")[0] for name in sys.modules} - {"__main__"})
    with_file = {name for name in modules if name in sys.modules and _file(sys.modules[name]) is not None}
    namespaces = sorted(set(modules) - with_file - set(sys.builtin_module_names))
    found = {"modules": modules, "namespaces": namespaces, "sys_path": sys.path}
    protocol.send_control(control, {"kind": "fit", **found})
    spare, hold = _serve(control)
    # From here on this is a worker.
    own_pages.make_own(runs)
    prctl.set_name(SPARE_NAME)  # before the supervisor becomes its parent: else it would have the server's name there
    os.close(hold)
    order, fds = _stand_ready(spare, settings["supervisor_pid"], layout)
    _become(order, fds, was_called, settings["after_fork"])
    child.main([order["entry"]])


def _prepare(settings: dict[str, Any]) -> tuple[tuple[own_pages.Run, ...], dict[str, Any]]:
    """Import, and end with one thread; return pages and layout. Raises `UnfitError`, or the error of an import."""
    reason = own_pages.reason_against()
    if reason:
        raise UnfitError(reason)
    for name in settings["modules"]:
        importlib.import_module(name)
    for name in settings["if_installed"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in settings["before_fork"]:
        child.named(name)()
    foreign = _foreign_module()
    if foreign:
        raise UnfitError(f"{foreign} is not installed but would be loaded before a task starts")
    until_s = time.monotonic() + ONE_THREAD_BOUND_S
    while len(os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > until_s:
            raise UnfitError("an import leaves a thread running, and a process with threads cannot be forked safely")
        time.sleep(0.001)
    layout = handover.layout_message()  # the same in each worker, whose interpreter has the same addresses
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # go-betweens end without leaving a zombie
    return own_pages.inherited(), layout


def _foreign_module() -> str:
    """Return a module that was loaded from neither the standard library, nor site-packages, nor this package."""
    for name, module in sorted(sys.modules.items()):
        file = _file(module)
        if file is not None and name != "__main__" and is_user_file(file):
            return file
    return ""


def _file(module: object) -> str | None:
    # Not getattr(): the SDK has stand-ins for large libraries that load them at any access.
    file = object.__getattribute__(module, "__dict__").get("__file__")
    return file if isinstance(file, str) else None


def _serve(control: socket.socket) -> tuple[socket.socket, int]:
    """Fork workers until the supervisor has ended.

    Returns in a worker, with its socket and the descriptor that keeps its go-between running.
    """
    reader = protocol.ControlReader(control)
    while True:
        try:
            messages = reader.read()
        except protocol.ChannelClosedError:
            os._exit(0)
        for message, fds in messages:
            spare = protocol.taken(fds[0])
            if os.fork() == 0:
                hold = _go_between(message, spare)
                control.close()
                return spare, hold
            spare.close()


def _go_between(message: dict[str, Any], spare: socket.socket) -> int:
    """Join the group, fork the worker, end when it closes its descriptor; return this descriptor in the worker only."""
    try:
        for door in message["procs_files"]:
            kernel_files.write(door, "0")
        read, hold = os.pipe()
        if os.fork() == 0:
            os.close(read)
            return hold
        os.close(hold)
        os.read(read, 1)
    except OSError as error:
        protocol.send_control(spare, {"kind": "failed", "why": str(error)})
    os._exit(0)


def _stand_ready(sock: socket.socket, supervisor_pid: int, layout: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Become a process of its own, wait for an attempt, and return it with its descriptors."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # an interrupt of the notebook's process group must not reach it
    prctl.depend_on(supervisor_pid)
    try:
        handover.send(sock, {"kind": "ready", "pid": os.getpid(), **layout})
        reader = protocol.ControlReader(sock)
        while not (orders := reader.read()):
            pass
    except (protocol.ChannelClosedError, OSError):
        os._exit(0)
    sock.close()
    return orders[0]


def _show_attempt(name: str) -> None:
    """Have ``/proc/PID/environ``, which is the memory that exec gave this process, name its attempt."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start and env_end, proc(5)
    mark = f"{ATTEMPT_VARIABLE}=".encode()
    size = ATTEMPT_NAME_BYTES
    at = ctypes.string_at(start, end - start).find(mark) if end > start else -1
    if at >= 0:
        ctypes.memmove(start + at + len(mark), name.encode()[:size].ljust(size, b"\0"), size)


def _become(order: dict[str, Any], fds: list[int], name: bytes, after_fork: list[str]) -> None:
    """Set the surroundings that a fresh interpreter would have been started with."""
    prctl.set_name(name)
    # First to numbers above 3, so that none is replaced while it is still needed.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_FREE_FD) for fd in fds]
    for fd, above, target in zip(fds, high, (protocol.CHANNEL_FD, 1, 2), strict=True):
        if fd > protocol.CHANNEL_FD:
            os.close(fd)
        os.dup2(above, target)
        os.close(above)
    environ = order["environ"]
    for key in [key for key in os.environ if key not in environ]:
        del os.environ[key]
    for key, value in environ.items():
        if os.environ.get(key) != value:
            os.environ[key] = value
    time.tzset()
    _show_attempt(order["name"])
    os.chdir(order["cwd"])
    sys.path[:] = order["sys_path"]
    importlib.invalidate_caches()
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    for function in after_fork:
        child.named(function)()
