"""The worker: reports that it is ready, gets one job, runs it, answers, ends.

It does not depend on Flyte or on cells: a job names the function to call. stdout and stderr are for user code; the
channel is a separate descriptor. When the channel closes, the kernel has ended, and the worker ends too.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import dataclasses
import functools
import gc
import importlib
import io
import itertools
import os
import signal
import sys
import threading
import traceback
import types
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from flyte_notebook.core import private
from flyte_notebook.core.bound import sleep_s
from flyte_notebook.worker.process import context, handover, prctl, protocol
from flyte_notebook.worker.process.last_words import LastWords
from flyte_notebook.worker.process.prctl import EXIT_LOST
from flyte_notebook.worker.process.raised import describe, user_traceback, with_pickled

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from flyte_notebook.core.endings import Step

FAREWELL_BOUND_S = 2.0
"""How long ``atexit`` handlers and the flushing of open files may take."""


class Channel:
    """The worker's end of the channel: sends messages, and requests other attempts."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._calls: dict[int, Future[dict[str, Any]]] = {}

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to the kernel; if output is too large for one, send a sentence that says so."""
        try:
            self._send(message)
        except protocol.TooLargeMessageError as error:
            if message["kind"] != "display":
                raise
            said = f"[flyte_notebook: an output is not shown: it has {error}]"
            kept = {key: value for key, value in message["message"].items() if key in {"update", "transient"}}
            self._send({**message, "message": {**kept, "data": {"text/plain": said}}})

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            protocol.send(self._sock, message)

    def call(self, request: dict[str, Any]) -> tuple[int, Future[dict[str, Any]]]:
        """Request an attempt of another action from the kernel; the future holds the reply."""
        number = next(self._numbers)
        future: Future[dict[str, Any]] = Future()
        self._calls[number] = future
        self.tell({**request, "kind": "call", "number": number})
        return number, future

    def cancel(self, number: int) -> None:
        """Tell the kernel that the result of that call is not needed any more."""
        self._calls.pop(number, None)
        with contextlib.suppress(protocol.ChannelClosedError):
            self.tell({"kind": "cancel", "number": number})

    def last_words(self) -> LastWords:
        """Prepare messages that can be sent without allocating memory."""
        return LastWords(self._sock, self._lock)

    def drop(self) -> None:
        """Close this process's copy of it, without a message."""
        self._sock.close()

    def listen(self) -> None:
        """Receive replies until the kernel has ended; then end this process and the processes it started."""
        while True:
            try:
                message = protocol.receive(self._sock)
            except protocol.ChannelClosedError:
                # The supervisor kills the whole group as well; this is for the case that it has ended too.
                with contextlib.suppress(OSError):
                    os.killpg(0, signal.SIGKILL)
                os._exit(EXIT_LOST)
            future = self._calls.pop(message.get("number", -1), None)
            if future is not None and future.set_running_or_notify_cancel():
                future.set_result(message)


channel: Channel | None = None
"""This worker's channel; ``None`` in any other process."""


def begin(arguments: list[str]) -> None:
    """Entry of a fresh interpreter: let the supervisor read its stacks, then as `main`."""
    main(arguments, handover.hand_over_fresh())


def main(arguments: list[str], supervisor: socket.socket | None = None) -> None:
    """Entry of the worker process; ``arguments`` hold the ``module:function`` that jobs will name.

    A ``supervisor`` measures what this process uses before the job: it waits for that.
    """
    global channel  # noqa: PLW0603 - one worker process, one channel
    sock = protocol.taken(protocol.CHANNEL_FD)
    os.set_inheritable(protocol.CHANNEL_FD, False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Line-buffered: the last prints before a SIGKILL must have left the process.
            stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")
    entry: Callable[[BinaryIO], bytes] = named(arguments[0])
    channel = Channel(sock)
    os.register_at_fork(after_in_child=_forked)
    handover.be_measured(supervisor)
    del supervisor
    channel.tell({"kind": "ready", "pid": os.getpid()})
    try:
        job = protocol.receive(sock)
    except protocol.ChannelClosedError:
        os._exit(EXIT_LOST)
    private.know(job["directory"])
    os.environ.update(job["environ"])
    if job["keeps_children"]:
        prctl.keep_orphans()
    threading.Thread(target=channel.listen, name="flyte-notebook-channel", daemon=True).start()
    context.connect(channel.tell, job["directory"].path, channel.last_words())
    _empty_main()
    try:
        status = _answer(channel, entry, job)
    except BaseException as error:
        if not isinstance(error, MemoryError):
            with contextlib.suppress(BaseException):
                traceback.print_exc()
        context.fail()
        raise  # a process that the task forked
    _farewell(status)


def _forked() -> None:
    """Close the channel in a process that a task forks: it must not send messages, nor keep the channel open."""
    global channel  # noqa: PLW0603 - as below
    if channel is not None:
        channel.drop()
    channel = None
    context.disconnect()


def end_if_forked(error: BaseException | None = None) -> None:
    """End this process after the user code if that code forked it: as Python would end it there.

    Only the worker itself sends the answer and cleans up, once.
    """
    if not context.forked():
        return
    status: object = 0
    if isinstance(error, SystemExit):
        status = error.code
    elif error is not None:
        traceback.print_exception(type(error), error, user_traceback(error.__traceback__))
        status = 1
    if status is not None and not isinstance(status, int):
        sys.stderr.write(f"{status}\n")
        status = 1
    _farewell((status or 0) & 0xFF)


def _answer(to: Channel, entry: Callable[[BinaryIO], bytes], job: dict[str, Any]) -> int:
    """Run the job and send the result; return the exit status."""
    context.stage("loading")
    try:
        with _payload(job) as file:
            before = job["before"]
            context.at_end(functools.partial(_finish, job["after"]))
            del job
            for name in before:
                named(name)()
            try:
                answer = entry(file)
            finally:
                context.body_ended()
        context.step("sending")
        message = protocol.parcel(answer, context.directory)
    except private.OwnFileError as error:
        to.tell({"kind": "unusable", "why": str(error)})
        return 1
    except BaseException as error:
        at = context.at_step()
        context.step("describing")
        try:
            _tell_error(to, error, at)
        except MemoryError:  # the user's frames hold the objects that filled the memory, perhaps in cycles
            traceback.clear_frames(error.__traceback__)
            gc.collect()
            _tell_error(to, error, at)
        return 1
    to.tell({"kind": "answer", **message})
    return 0


def _tell_error(to: Channel, error: BaseException, at: Step | None) -> None:
    facts = describe(error)
    if at != "describing":  # not an error of user code, which had ended
        facts = dataclasses.replace(facts, step=at)
    to.tell({"kind": "raised", "raised": facts})
    to.tell({"kind": "raised", "raised": with_pickled(facts, error)})


def _finish(names: Sequence[str]) -> None:
    """Call the function that the kernel named for after the user's code; its failure is shown and changes nothing."""
    for name in names:
        try:
            named(name)()
        except Exception:
            traceback.print_exc()


def named(name: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _payload(job: dict[str, Any]) -> BinaryIO:
    if job["path"] is None:
        return io.BytesIO(job["payload"])
    return private.read(job["path"])


def _empty_main() -> None:
    """Give user code an empty ``__main__``: ``inspect`` must not find our command line in place of the notebook."""
    main_module = types.ModuleType("__main__")
    main_module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main_module
    sys.argv = [""]


def _farewell(status: int) -> None:
    """Run ``atexit`` handlers and flush open files, for two seconds at most; then end at once.

    ``os._exit`` because threads of user code or of the SDK must not keep a finished task alive.
    """
    try:
        with contextlib.suppress(RuntimeError, MemoryError):  # no thread can be started: the kernel's limit applies
            _thread.start_new_thread(_end_late, (status,))  # not Thread.start, which may wait for ever without memory
        _flush_files()  # before the handlers as well: a handler may use all the time
        _run_exit_handlers()
        _flush_files()
        if channel is not None:
            # The rest is done by the operating system, which needs milliseconds to release this process's memory.
            with contextlib.suppress(protocol.ChannelClosedError):
                channel.tell({"kind": "bye", "status": status})
    finally:
        os._exit(status)


def _end_late(status: int) -> None:
    sleep_s(FAREWELL_BOUND_S)
    os._exit(status)


def _run_exit_handlers() -> None:
    """Run the functions registered for the end of the interpreter; report it if that does not work.

    As at the end of a program, those of pools of processes come first: they wait for processes that still start. Pools
    of threads are not waited for, because a task ends with its body.
    """
    ran: list[bool] = []
    atexit.register(ran.append, True)
    why: BaseException | str = "no handler was called"
    pools = getattr(threading, "_threading_atexits", None)
    for call in reversed(pools or ()):
        if _module_of(call) != "concurrent.futures.thread":
            with contextlib.suppress(Exception):  # the others have to be called all the same
                call()
    if pools is None:
        why = "threading has no _threading_atexits"
    try:
        atexit._run_exitfuncs()  # noqa: SLF001 - the only way to run them before os._exit
    except Exception as error:
        why = error
    if not ran or pools is None:
        context.lose(importlib.import_module("flyte_notebook.worker.relies").BY_KEY["exit handlers"], why)


def _module_of(call: object) -> str:
    """Return the module of a function that is called at the end: in a ``partial``, since 3.13 in a ``lambda``."""
    held = [cell.cell_contents for cell in getattr(call, "__closure__", None) or ()]
    function = getattr(call, "func", next(filter(callable, held), call))
    return str(getattr(function, "__module__", ""))


def _flush_files() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):  # a forked worker does not find them below: the collector skips them
            stream.flush()  # type: ignore[union-attr]  # None raises an error that is suppressed
    for thing in gc.get_objects():
        # By type(): isinstance asks lazy proxies for their __class__, and some answer by importing a library.
        if issubclass(type(thing), (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            with contextlib.suppress(Exception):
                thing.flush()
