"""A snapshot of this process's surroundings for a worker; it tolerates any state that the process is in.

Python tolerates odd states, and so does the SDK without this package: entries of ``sys.path`` that are not text, a
deleted current directory, ``os.environ`` replaced by another object. None of these may prevent a task from running.
Values that cannot be passed to another process are left out; the worker sees all others.

The kernel limits the strings of a new program (execve(2)): on Linux 128 KiB for one string, and a part of the stack's
limit for all together. Variables beyond that are set in the worker after its start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyte_notebook.core.job import Surroundings

LONGEST_AT_START = 100_000
"""The longest string that a program is started with; the kernel accepts 131,072 bytes (MAX_ARG_STRLEN)."""

LEAST_AT_START = 128 << 10
"""The kernel accepts strings of this size in total, however small the stack's limit is (ARG_MAX)."""

BYTES_A_STRING = 16
"""The cost of each string beyond its length: a zero byte and a pointer."""

_Environ = dict[str, str]

_getcwd = os.getcwd
_python_variables = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
"""The variables before any code changed them, as far as that can be known where there is no ``/proc``."""


def snapshot(*, local: bool = True) -> Surroundings:
    """Return current directory, environment and search path. Never raises.

    ``local=False`` leaves the current directory out of the search path, so that nothing is imported from it.
    """
    cwd = _cwd()
    entries = [entry for entry in _texts(sys.path) if entry or local]
    return Surroundings(cwd=cwd, environ=_environ(), sys_path=tuple(entry or cwd for entry in entries))


def interpreter() -> str:
    """Return the program that runs Python code, also where ``sys.executable`` does not name it."""
    beside = os.path.join(sys.prefix, "bin", "python3")  # noqa: PTH118 - sys.executable is a string, too
    for candidate in (sys.executable, beside):
        if candidate and os.access(candidate, os.X_OK):
            return os.fsdecode(candidate)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return shutil.which(version) or shutil.which("python3") or str(sys.executable)


def pieces(text: str) -> list[str]:
    """Return a text in parts short enough for the start of a program, which joins them again."""
    return [text[start : start + LONGEST_AT_START] for start in range(0, len(text), LONGEST_AT_START)] or [""]


def at_start(environ: Mapping[str, str], *, cautious: bool = False) -> tuple[_Environ, _Environ]:
    """Return the variables that a program can be started with, and those that have to be set after its start.

    ``cautious``: variables for interpreters get the values that this one started with, as bad values prevent a start.
    """
    left = _most_at_start() // 2  # the rest is for the arguments
    known = _read_by_this_interpreter() if cautious else {}
    now = dict(known)
    for name, value in sorted(environ.items(), key=lambda item: len(item[1])):
        size = len(os.fsencode(name)) + len(os.fsencode(value)) + BYTES_A_STRING
        left -= size
        if size <= LONGEST_AT_START and left >= 0 and not (cautious and name.startswith("PYTHON")):
            now[name] = value
    return now, {name: value for name, value in environ.items() if now.get(name) != value}


def sendable(environ: Mapping[Any, Any]) -> _Environ:
    """Return the variables that a process can have: texts with a valid name and no zero byte (environ(7))."""
    texts = ((_text(name), _text(value)) for name, value in environ.items())
    return {name: value for name, value in texts if name and "=" not in name and value is not None}


def _read_by_this_interpreter() -> _Environ:
    """Return the variables for interpreters that this one was started with."""
    if sys.flags.ignore_environment:
        return {}
    try:
        text = os.fsdecode(Path("/proc/self/environ").read_bytes())
    except OSError:
        return _python_variables
    pairs = (line.partition("=")[::2] for line in text.split("\0"))
    return {name: value for name, value in pairs if name.startswith("PYTHON")}


def _most_at_start() -> int:
    """Return how many bytes of strings the kernel accepts (execve(2), limits on size of arguments and environment)."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return LEAST_AT_START
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack == resource.RLIM_INFINITY:
        stack = 8 << 20
    return max(LEAST_AT_START, min(stack // 4, 1 << 20))


def _cwd() -> str:
    """Return a path by which another process of this user can enter the current directory.

    A directory that was deleted or moved, or whose path is too long for the kernel, is entered through ``/proc``.
    """
    with contextlib.suppress(OSError, ValueError):
        path = _getcwd()
        if type(path) is str and os.path.samefile(path, os.curdir):  # noqa: PTH121 - as sys.executable
            return path
    through = f"/proc/{os.getpid()}/cwd"
    return through if os.path.isdir(through) else os.curdir  # noqa: PTH112 - as above


def _environ() -> _Environ:
    try:
        return sendable(dict(os.environ))
    except (TypeError, ValueError):  # the path is replaced by another object
        return {}


def _texts(entries: Any) -> list[str]:  # noqa: ANN401 - any object may be there
    """Return the entries that Python looks at when it imports."""
    try:
        return [text for entry in entries if (text := _text(entry)) is not None]
    except TypeError:
        return []


def _text(value: object) -> str | None:
    """Return a text that can be passed to another process, ``None`` for anything else."""
    if not isinstance(value, str):
        return None
    text = str.__str__(value)  # a subclass may return anything else
    try:
        return None if b"\0" in os.fsencode(text) else text
    except UnicodeEncodeError:  # a lone surrogate that represents no byte
        return None
