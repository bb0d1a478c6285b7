"""Legal states of a process in which a run of the SDK alone works, each as a function that makes it and gives its undo.

Not a test: programs that tests start import it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import io
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Undo = Callable[[], object]

STATES: dict[str, Callable[[], Undo]] = {}

NO_SHELL = frozenset({"stdout none", "stderr none", "stdout of the user's", "stdout closed", "descriptors closed"})
"""In these IPython itself cannot run a cell that prints."""

TOGETHER = {
    "path and streams": (
        *("path object", "path object first", "bytes in the path", "none in the path", "hostile object in the path"),
        *("surrogate in the path", "text of a class of its own", "deleted directory", "umask"),
        *("surrogates in the environment", "huge variable", "variable without a name"),
        *("no argv", "no interpreter", "socket timeout", "warnings are errors"),
    ),
    "directory and descriptors": (
        *("search path is a tuple", "odd things in the environment", "long directory", "getcwd raises"),
        *("no argv at all", "interpreter gone", "patched sleep", "logging disabled"),
    ),
    "start of an interpreter": (
        *("bad hash seed", "bad home of Python", "bad locale", "library that is not there", "children ignored"),
        *("signals blocked", "long search path"),
    ),
    "limits": (
        *("few descriptors", "small files", "small stack", "little address space", "no locked memory", "collector off"),
        *("low recursion limit", "small stacks of threads", "broken loop policy", "traced", "environment empty"),
    ),
}
"""States that a session is begun in, many at a time: to begin takes half a second."""


def state(name: str) -> Callable[[Callable[[], Undo]], Callable[[], Undo]]:
    def keep(make: Callable[[], Undo]) -> Callable[[], Undo]:
        STATES[name] = make
        return make

    return keep


def tried(names: Iterable[str], run: Callable[[], object]) -> dict[str, str]:
    """Make each state, run, and undo it; return those in which it did not work, with what it raised."""
    wrong = {}
    for name in names:
        try:
            undo = STATES[name]()
            try:
                run()
            finally:
                undo()
        except BaseException as error:  # noqa: BLE001
            wrong[name] = f"{type(error).__name__}: {error}"[:500]
    return wrong


def all_at_once(names: Iterable[str]) -> Undo:
    """Make many states; return what undoes them all."""
    with contextlib.ExitStack() as undo:
        for name in names:
            undo.callback(STATES[name]())
        return undo.pop_all().close


def _entry(name: str, entry: object, *, first: bool = False) -> None:
    @state(name)
    def make() -> Undo:
        before = list(sys.path)
        sys.path.insert(0 if first else len(sys.path), entry)  # type: ignore[arg-type]
        return lambda: sys.path.__setitem__(slice(None), before)


def _attribute(name: str, where: Any, attribute: str, value: object) -> None:
    @state(name)
    def make() -> Undo:
        before = getattr(where, attribute)
        setattr(where, attribute, value)
        return lambda: setattr(where, attribute, before)


def _variables(name: str, **variables: str) -> None:
    @state(name)
    def make() -> Undo:
        before = dict(os.environ)
        os.environ.update(variables)

        def undo() -> None:
            os.environ.clear()
            os.environ.update(before)

        return undo


def _limit(name: str, which: int, soft: int) -> None:
    @state(name)
    def make() -> Undo:
        before = resource.getrlimit(which)
        lowest = len(list(Path("/proc/self/fd").iterdir())) + 60 if which == resource.RLIMIT_NOFILE else 0
        resource.setrlimit(which, (max(soft, lowest), before[1]))
        return lambda: resource.setrlimit(which, before)


def _told(name: str, tell: Callable[[Any], Any], value: object, before: Callable[[], Any] | None = None) -> None:
    @state(name)
    def make() -> Undo:
        was = before() if before is not None else None
        returned = tell(value)
        return lambda: tell(returned if before is None else was)


class Hostile:
    def __str__(self) -> NoReturn:
        raise RuntimeError("str")

    __repr__ = __fspath__ = __str__


class OwnText(str):
    __slots__ = ()

    def __str__(self) -> NoReturn:
        raise RuntimeError("str")


class WriteOnly:
    def write(self, text: str) -> int:
        return len(text)


class BrokenPolicy(asyncio.DefaultEventLoopPolicy):
    def get_event_loop(self) -> NoReturn:
        raise RuntimeError("no loop of this thread")


def _raises() -> NoReturn:
    raise RuntimeError("patched")


_closed = io.StringIO()
_closed.close()

_entry("path object", Path.cwd().parent)
_entry("path object first", Path.cwd().parent, first=True)
_entry("bytes in the path", b"/nowhere")
_entry("none in the path", None)
_entry("object in the path", object())
_entry("hostile object in the path", Hostile(), first=True)
_entry("surrogate in the path", "/nowhere/\udcff")
_entry("lone surrogate in the path", "/nowhere/\ud800")
_entry("zero byte in the path", "/nowhere/\0x")
_entry("text of a class of its own", OwnText("/nowhere"))
_entry("relative in the path", "lib")
_entry("dot in the path", ".", first=True)
_attribute("getcwd raises", os, "getcwd", _raises)
_attribute("getcwd gives a path", os, "getcwd", lambda: Path("/nowhere"))
_attribute("getcwd gives bytes", os, "getcwd", lambda: b"/nowhere")
_attribute("getcwd gives what is not there", os, "getcwd", lambda: "/no/such")
_variables("surrogates in the environment", ODD="\udcff", **{"N\udcfe": "x"})
_variables("huge variable", HUGE="x" * 200_000)
_variables("huge environment", **{f"LARGE{number}": "x" * 100_000 for number in range(30)})
_variables("no temporary directory", TMPDIR="/no/such")
_variables("no home", HOME="/no/such")
_variables("no programs", PATH="")
_variables("bad locale", LC_ALL="xx_XX.bogus", LANG="tr_TR")
_variables("bad hash seed", PYTHONHASHSEED="None")
_variables("bad home of Python", PYTHONHOME="/no/such")
_variables("library that is not there", LD_PRELOAD="/no/such.so")
_attribute("argv empty", sys, "argv", [])
_attribute("argv none", sys, "argv", None)
_attribute("no interpreter", sys, "executable", None)
_attribute("interpreter empty", sys, "executable", "")
_attribute("interpreter gone", sys, "executable", "/no/such/python")
_attribute("stdin none", sys, "stdin", None)
_attribute("stdout none", sys, "stdout", None)
_attribute("stderr none", sys, "stderr", None)
_attribute("stdout of the user's", sys, "stdout", WriteOnly())
_attribute("stdout closed", sys, "stdout", _closed)
_attribute("stdout in ASCII", sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
_attribute("patched sleep", time, "sleep", lambda _seconds: None)
_attribute("patched Popen", subprocess, "Popen", lambda *_, **__: _raises())
_limit("few descriptors", resource.RLIMIT_NOFILE, 0)
_limit("small files", resource.RLIMIT_FSIZE, 1 << 20)
_limit("small stack", resource.RLIMIT_STACK, 256 << 10)
_limit("little address space", resource.RLIMIT_AS, 8 << 30)
_limit("no locked memory", resource.RLIMIT_MEMLOCK, 0)
_told("umask", os.umask, 0o777)
_told("low recursion limit", sys.setrecursionlimit, 150, sys.getrecursionlimit)
_told("high recursion limit", sys.setrecursionlimit, 10**6, sys.getrecursionlimit)
_told("few digits", sys.set_int_max_str_digits, 640, sys.get_int_max_str_digits)
_told("socket timeout", socket.setdefaulttimeout, 5, socket.getdefaulttimeout)
_told("socket timeout of zero", socket.setdefaulttimeout, 0, socket.getdefaulttimeout)
_told("small stacks of threads", threading.stack_size, 256 << 10)
_told("broken loop policy", asyncio.set_event_loop_policy, BrokenPolicy(), lambda: None)


@state("search path is a tuple")
def search_path_is_a_tuple() -> Undo:
    before = sys.path
    sys.path = tuple(sys.path)  # type: ignore[assignment]
    return lambda: setattr(sys, "path", before)


@state("long search path")
def long_search_path() -> Undo:
    before = list(sys.path)
    sys.path.extend(f"/no/such/{'x' * 60}/{number}" for number in range(3000))
    return lambda: sys.path.__setitem__(slice(None), before)


@state("deleted directory")
def deleted_directory() -> Undo:
    home, gone = os.open(".", os.O_RDONLY), tempfile.mkdtemp()
    os.chdir(gone)
    Path(gone).rmdir()
    return lambda: (os.fchdir(home), os.close(home))


@state("long directory")
def long_directory() -> Undo:
    home, top = os.open(".", os.O_RDONLY), tempfile.mkdtemp()
    os.chdir(top)
    for _ in range(25):
        Path("d" * 200).mkdir()  # relative, as its whole path is too long
        os.chdir("d" * 200)

    def undo() -> None:
        for _ in range(25):
            for file in Path().iterdir():
                file.rmdir() if file.is_dir() else file.unlink()
            os.chdir("..")
        Path("d" * 200).rmdir()
        os.fchdir(home)
        os.close(home)
        Path(top).rmdir()

    return undo


@state("directory of no encoding")
def directory_of_no_encoding() -> Undo:
    home, top = os.open(".", os.O_RDONLY), tempfile.mkdtemp()
    Path(top, os.fsdecode(b"\xff\xfe")).mkdir()
    os.chdir(os.fsencode(top) + b"/\xff\xfe")
    return lambda: (os.fchdir(home), os.close(home), shutil.rmtree(top))


@state("variable without a name")
def variable_without_a_name() -> Undo:
    os.environ._data[b""] = b"x"  # type: ignore[attr-defined]  # what a program gets that is started with "=x"
    return lambda: os.environ._data.pop(b"", None)  # type: ignore[attr-defined]


@state("environment empty")
def environment_empty() -> Undo:
    before = dict(os.environ)
    os.environ.clear()
    return lambda: os.environ.update(before)


@state("odd things in the environment")
def odd_things_in_the_environment() -> Undo:
    before, odd = os.environ, {"N": 5, 7: "x", "P": Path(), b"b": b"c", "zero": "a\0b", "a=b": "c", "lone": "\ud800"}
    os.environ = {**before, **odd}  # type: ignore[assignment]  # noqa: B003 - as a program may
    return lambda: setattr(os, "environ", before)


@state("no argv")
def no_argv() -> Undo:
    before = sys.argv
    del sys.argv
    return lambda: setattr(sys, "argv", before)


STATES["no argv at all"] = STATES["argv none"]


@state("descriptors closed")
def descriptors_closed() -> Undo:
    kept = [(number, fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100)) for number in range(3)]
    for number, _ in kept:
        os.close(number)

    def undo() -> None:
        taken = [number for number, _ in kept if Path(f"/proc/self/fd/{number}").exists()]
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        assert [] == taken, "something that lasts has the number of a standard stream"

    return undo


@state("children ignored")
def children_ignored() -> Undo:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGCHLD, before)


@state("signals blocked")
def signals_blocked() -> Undo:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGINT})
    return lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before)


@state("warnings are errors")
def warnings_are_errors() -> Undo:
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.simplefilter("error")
    return lambda: caught.__exit__(None, None, None)


@state("collector off")
def collector_off() -> Undo:
    gc.disable()
    return gc.enable


@state("traced")
def traced() -> Undo:
    def trace(*_: object) -> None:
        return None

    threading.settrace(trace)
    sys.settrace(trace)
    return lambda: (threading.settrace(None), sys.settrace(None))  # type: ignore[arg-type]


@state("logging disabled")
def logging_disabled() -> Undo:
    logging.disable(logging.CRITICAL)
    return lambda: logging.disable(logging.NOTSET)
