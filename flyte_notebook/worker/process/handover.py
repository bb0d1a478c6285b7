"""How a worker lets the supervisor read its Python stacks: it sends a descriptor of its memory, and the layout.

One message, ``{"layout": ...}`` with the descriptor beside it, or ``{"why": ...}`` where stacks cannot be read. On the
same socket a fresh interpreter says when it has imported what it needs, and waits until the supervisor has measured it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from flyte_notebook.worker.process import protocol
from flyte_notebook.worker.stacks.layout import Layout, UnknownLayoutError
from flyte_notebook.worker.stacks.pystack import StackReader
from flyte_notebook.worker.stacks.selfread import known_layout

if TYPE_CHECKING:
    import socket


def layout_message() -> dict[str, Any]:
    """Return the message about this process's stacks; it is the same for processes forked from it. Never raises."""
    try:
        return {"layout": known_layout().to_dict()}
    except UnknownLayoutError as unknown:
        return {"why": str(unknown)}


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send a message that holds a `layout_message`, with this process's memory. Raises OSError."""
    fds = []
    if "layout" in message:
        with contextlib.suppress(OSError):
            fds.append(os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC))
    try:
        protocol.send_control(sock, message, fds)
    finally:
        for fd in fds:
            os.close(fd)


def hand_over_fresh() -> socket.socket | None:
    """Send it if this is a fresh interpreter that was given a socket for it; return the socket. Never raises."""
    try:
        sock = protocol.taken(protocol.STACK_FD)
    except OSError:
        return None
    os.set_inheritable(protocol.STACK_FD, False)
    with contextlib.suppress(OSError):
        send(sock, {"kind": "stack", **layout_message()})
    return sock


def be_measured(sock: socket.socket | None) -> None:
    """Have the supervisor measure what this process uses, and wait until it has. Never raises.

    It answers by closing its end, as it does when it ends. Without this wait a busy supervisor would measure the task.
    """
    if sock is None:
        return
    with sock, contextlib.suppress(OSError):
        protocol.send_control(sock, {"kind": "loaded"})
        sock.recv(1)


def received(message: dict[str, Any], fds: list[int]) -> tuple[StackReader | None, str]:
    """Return a reader for the stacks of the worker that sent this, or why there is none; takes over the descriptors."""
    why = str(message.get("why", "its memory was not handed over"))
    try:
        if len(fds) == 1 and "layout" in message:
            reader = StackReader(fds[0], Layout.from_dict(message["layout"]))
            fds = []
            return reader, ""
    except (ValueError, TypeError, AttributeError) as error:
        why = str(error)
    finally:
        for fd in fds:
            os.close(fd)
    return None, why
