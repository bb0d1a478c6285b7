"""Handles messages of the front end while a cell waits for its run: from its Stop button, and all other widgets.

A click arrives as a ``comm_msg`` on the kernel's shell channel, after the running cell. The kernel reads that channel
with a ``ZMQStream`` on its main loop, which does not run while a cell blocks; and while a cell awaits, all versions
before 7.4 read the message and then queue it after the cell. Clicks that a front end sends through a subshell are
handled at once by 7.1 to 7.3; 7.4 passes a message for a comm to the shell that last sent through it, often the main
one.

So the pump is inserted between that stream and the kernel's own callback. While runs are active it handles the messages
for comms; every other message goes to the kernel's callback, in the order of arrival, so that cells are queued, and
aborted after an error, as without this package. For a cell that awaits this is enough: the loop reads the stream. For
one that blocks, `ShellPump.wait` replaces the SDK's wait and reads the stream in between. A message for a comm, or for
a target, that does not exist yet stays in the queue: a cell in the queue may be about to make it.

The stream and its callback are private to ipykernel. 6.29 to 7.4 are the same in all parts used here; `ShellPump.probe`
checks this, and returns the reason when a kernel is different.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import contextvars
import logging
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from flyte_notebook.capabilities import Finding
from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    import zmq

logger = logging.getLogger("flyte_notebook.notebook")

SLICE_S = 0.25
"""How long a cell blocks at most before it checks again: a signal may have been delivered to another thread."""
UNHEARD_SLICE_S = 0.05
"""The same if the shell channel cannot be waited for, or not yet."""

COMM_TYPES = ("comm_open", "comm_msg", "comm_close", "comm_info_request")
_OF_KERNEL = ("session", "comm_manager", "io_loop", "get_parent", "set_parent", "_parent_ident", "_publish_status")
_OF_STREAM = ("flush", "on_recv", "_recv_callback", "_recv_copy")


class ShellPump:
    """Delivers messages for comms to the kernel of a shell while its cell waits for a run.

    ``is_running`` says whether runs are active now. ``reason`` is empty, or says why this kernel cannot be pumped: then
    nothing is installed, and only the kernel's own interrupt stops a run. All methods except `run_begins` are for the
    kernel's main thread.
    """

    def __init__(self, shell: Any, is_running: Callable[[], bool]) -> None:
        self._shell = shell
        self._kernel: Any = getattr(shell, "kernel", None)
        self.reason = self.probe(self._kernel)
        self._is_running = is_running
        self._stream: Any = None
        self._deliver: Callable[[Any], Any] = _nowhere
        self._cells = 0
        self._run_began = False
        self._context = contextvars.copy_context()
        self._taken: collections.deque[Any] = collections.deque()

    @staticmethod
    def probe(kernel: Any) -> str:
        """Return why a kernel cannot be pumped, or an empty string; changes nothing. ``None`` is no kernel."""
        if kernel is None:
            return "this is no Jupyter kernel"
        if threading.current_thread() is not threading.main_thread():
            return "the extension was loaded in a subshell"
        try:
            return _difference(kernel)
        except Exception as error:  # noqa: BLE001 - any error of an unknown kernel is the answer
            return f"this version of ipykernel is not known: {type(error).__name__}: {error}"

    def install(self) -> None:
        """Insert the pump between the shell channel and the kernel, for the running cell too. Idempotent."""
        if self.reason or self._stream is not None:
            return
        self._stream = _shell_stream(self._kernel)
        self._deliver = self._stream._recv_callback
        self._stream.on_recv(self._receive, copy=self._stream._recv_copy)
        self._shell.events.register("pre_run_cell", self._before_cell)
        self._shell.events.register("post_run_cell", self._after_cell)
        self._before_cell()  # pre_run_cell of the cell that loads us has already fired

    def uninstall(self) -> None:
        """Restore the callback, unless other code has replaced it since. Idempotent."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        self._shell.events.unregister("pre_run_cell", self._before_cell)
        self._shell.events.unregister("post_run_cell", self._after_cell)
        self._cells = 0
        if stream._recv_callback == self._receive:
            stream.on_recv(self._deliver, copy=stream._recv_copy)

    def run_begins(self) -> None:
        """Stay active until the cell ends, also between two attempts or two of its runs. Thread-safe."""
        self._run_began = True

    def wait(self, future: concurrent.futures.Future[Any]) -> None:
        """Block until a future is done, and deliver meanwhile. An interrupt ends the wait, as it ends any other."""
        try:
            bell = Waker(future)
        except OSError:  # no descriptor is free
            while not future.done():
                self.pump()
                concurrent.futures.wait((future,), timeout=UNHEARD_SLICE_S)
            return
        heard: Any = None
        with bell:
            try:
                while not future.done():
                    self.pump()
                    if self._hears():
                        heard = self._stream
                        bell.wait(SLICE_S, heard.socket)
                    else:
                        bell.wait(UNHEARD_SLICE_S)
            finally:
                if heard is not None:
                    with _Uninterrupted():
                        heard.flush()

    def pump(self) -> None:
        """Deliver the messages that have arrived; returns at once if there are none.

        Exceptions of a comm's handler are logged, as the kernel does; an interrupt during a handler still takes effect.
        """
        if not self._hears():
            return
        with _Uninterrupted():  # else a message that is read but not delivered would be lost
            self._stream.flush()
        self._dispatch_taken()

    def _hears(self) -> bool:
        """Whether the stream may be read here and now."""
        return self._awake() and self._in_loop_of_kernel()

    def _awake(self) -> bool:
        return self._stream is not None and self._cells > 0 and (self._run_began or self._is_running())

    def _in_loop_of_kernel(self) -> bool:
        """Whether the kernel's loop runs here, and not a loop made by the cell, on which the next cells would run."""
        try:
            return asyncio.get_running_loop() is self._kernel.io_loop.asyncio_loop
        except RuntimeError:
            return False

    def _before_cell(self, _info: object = None) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # a cell of a subshell
        if not self._cells:
            self._context = contextvars.copy_context()
        self._cells += 1

    def _after_cell(self, _result: object = None) -> None:
        if threading.current_thread() is threading.main_thread():
            self._cells = max(0, self._cells - 1)  # cells nest, hence a count
            self._run_began = self._run_began and self._cells > 0

    def _receive(self, frames: Any) -> Any:
        """Replace the stream's callback for messages."""
        if not self._awake() or not _is_for_comms(self._kernel, frames):
            return self._deliver(frames)
        self._taken.append(frames)
        # The loop delivers it when `pump` does not: in a cell that awaits, or after an interrupt in between.
        self._kernel.io_loop.asyncio_loop.call_soon(self._dispatch_taken)
        return None

    def _dispatch_taken(self) -> None:
        while self._taken:
            frames = self._taken.popleft()
            # From 7.1 on this context always has the header of the running cell. A copy is used, so that changes by the
            # handler do not affect the cell.
            context = getattr(self._kernel, "_shell_context", None) or contextvars.copy_context()
            context.copy().run(_dispatch, self._kernel, frames, in_cell=self._cells > 0)


def finding(reason: str) -> Finding:
    """Return the doctor's text about a kernel with this `ShellPump.reason`."""
    if not reason:
        return Finding(subject="stop button", holds="works while a cell is running", detail="like other buttons")
    return Finding(
        subject="stop button",
        holds="works only between cells; interrupt the kernel (■) to stop what runs",
        detail=reason,
    )


def _difference(kernel: Any) -> str:
    """Return how a kernel differs from the known ones; may raise any error."""
    stream = _shell_stream(kernel)
    missing = [name for name in _OF_KERNEL if not hasattr(kernel, name)]
    missing += [name for name in _OF_STREAM if not hasattr(stream, name)]
    missing += [name for name in COMM_TYPES if name not in kernel.shell_handlers]
    if missing:
        return f"this version of ipykernel has no {', '.join(missing)}"
    if stream._recv_callback is None or kernel.io_loop.asyncio_loop is not asyncio.get_running_loop():
        return "the kernel does not read its shell channel on this loop"
    _reply_stream(kernel)
    for kind in ("comm_info_request", "execute_request"):
        if _is_for_comms(kernel, _sample(kernel, kind)) != (kind in COMM_TYPES):
            return "this version of ipykernel has messages of another form"
    return ""


def _shell_stream(kernel: Any) -> Any:
    """Return the stream with the messages for the main shell."""
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is None:
        return kernel.shell_stream
    return thread.manager.get_shell_channel_to_subshell_pair(None).to_stream


def _reply_stream(kernel: Any) -> Any:
    """Return the socket for replies of the main shell."""
    thread = getattr(kernel, "shell_channel_thread", None)
    return kernel.shell_stream if thread is None else thread.manager.get_subshell_to_shell_channel_socket(None)


def _is_for_comms(kernel: Any, frames: Any) -> bool:
    """Whether a message is for an existing comm, or a known target."""
    try:
        _, rest = kernel.session.feed_identities(frames, copy=False)
        message = kernel.session.deserialize(rest, content=False, copy=False)
        kind = message["msg_type"]
        if kind not in COMM_TYPES:
            return False
        content = kernel.session.unpack(message["content"])
        if kind == "comm_info_request":
            return True
        if kind == "comm_open":
            return content["target_name"] in kernel.comm_manager.targets
        return content["comm_id"] in kernel.comm_manager.comms
    except Exception:  # noqa: BLE001 - no message of a client: the kernel sends itself such, and judges bad ones itself
        return False


def _sample(kernel: Any, kind: str) -> list[Any]:
    """Return a message as a client would send it, in frames."""
    session = kernel.session
    return [_Frame(part) for part in session.serialize(session.msg(kind, {}), ident=b"flyte_notebook")]


def _dispatch(kernel: Any, frames: Any, *, in_cell: bool) -> None:
    """Call the kernel's handler for a message, as its own dispatch does, without changing the cell's header.

    The kernel's own dispatch cannot be called inside of a cell: it sets another handler for interrupts, suppresses
    them, and the cell's later output would belong to this message.
    """
    identities, rest = kernel.session.feed_identities(frames, copy=False)
    try:
        message = kernel.session.deserialize(rest, content=True, copy=False)
    except Exception:
        logger.exception("a message for a comm cannot be read")
        return
    cell, cell_identities = kernel.get_parent("shell"), kernel._parent_ident["shell"]
    kernel.set_parent(identities, message, "shell")
    kernel._publish_status("busy", "shell", message)
    try:
        answer = kernel.shell_handlers[message["msg_type"]](_reply_stream(kernel), identities, message)
        if asyncio.iscoroutine(answer):
            _run_through(answer)
    except Exception:
        logger.exception("a message for a comm could not be dealt with")
    finally:
        # A widget in the front end delays its next change until this reply; and the kernel must not look idle after it.
        kernel._publish_status("idle", "shell", message)
        kernel.set_parent(cell_identities, cell, "shell")
        if in_cell:
            kernel._publish_status("busy", "shell", cell)


def _run_through(coroutine: Any) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("the kernel's handler waits for something, and cannot in a cell that blocks")


class _Frame(bytes):
    """The part of a frame that a session uses."""

    __slots__ = ()

    @property
    def bytes(self) -> bytes:
        """The content."""
        return self


class _Uninterrupted:
    """Delays an interrupt until the end of the block. For the main thread."""

    def __init__(self) -> None:
        self._heard = False
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._hear)

    def __exit__(self, *_error: object) -> None:
        signal.signal(signal.SIGINT, self._before or signal.default_int_handler)
        if self._heard:
            signal.raise_signal(signal.SIGINT)

    def _hear(self, _signum: int, _frame: FrameType | None) -> None:
        self._heard = True


def _nowhere(_frames: Any) -> None:
    """Take the place of the kernel's callback."""


class Waker:
    """Ends a wait for a message on a ZMQ socket when a future is done. A context manager; for one thread.

    The socket is waited for by its descriptor, with ``select.poll`` and not with ``zmq.Poller``, which is Python code,
    and would appear in the traceback of an interrupt. Raises OSError if no descriptor is free.
    """

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._ours, self._theirs = protocol.pair()
        self._lock = threading.Lock()
        """Held while the descriptor is written or closed: the number of a closed descriptor may be used again."""
        self._closed = False
        future.add_done_callback(self._ring)

    def __enter__(self) -> Waker:  # noqa: PYI034 - Self is of Python 3.11
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._closed = True
            self._ours.close()
            self._theirs.close()

    def wait(self, most_s: float, also: zmq.Socket[bytes] | None = None) -> None:
        """Block until the future is done, for that long at most, or until a message arrives on the socket.

        The caller has to read all messages of the socket before the wait, and again after it in any case: the
        descriptor reports each message only once.
        """
        poller = select.poll()
        poller.register(self._ours, select.POLLIN)
        if also is not None:
            poller.register(also.fileno(), select.POLLIN)
        poller.poll(1000 * most_s)

    def _ring(self, _future: object) -> None:
        with self._lock, contextlib.suppress(OSError):
            if not self._closed:
                self._theirs.send(b"\0")
