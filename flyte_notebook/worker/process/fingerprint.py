"""Checks whether a forked worker would equal a fresh interpreter with this environment and search path.

A forked worker gets environment, directory and search path of the notebook after its imports. So these must not change
the result of the imports. They would with: variables that the interpreter, the loader or an imported library reads at
its start, another interpreter, and files that would be imported in place of the imported ones.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
from collections.abc import Mapping, Sequence

READ_AT_START = (
    "PYTHON",
    "_PYTHON_",  # the interpreter itself
    "LD_",
    "MALLOC_",
    "GLIBC_TUNABLES",  # the loader and the allocator
    "LANG",
    "LC_",  # the locale of the interpreter
    "FLYTE_",
    "_F_",
    "LOG_",
    "USER_LOG_",
    "DISABLE_RICH_LOGGING",  # the SDK
    "FSSPEC_",
    "GRPC_",
    "HOME",
    "MSGPACK_",
    "NVPL_",
    "PROTOCOL_BUFFERS_",
    "PYDANTIC_",
    "TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK",  # libraries that the SDK imports
)
"""Prefixes of the variables that are read while a worker starts and imports. A test checks this list."""

OF_AN_ATTEMPT = frozenset(
    {"FLYTE_NOTEBOOK_SESSION", "FLYTE_NOTEBOOK_ATTEMPT", "FLYTE_ATTEMPT_NUMBER", "FLYTE_DISABLE_TELEMETRY"}
)
"""Variables that this package sets for each attempt; no code reads them during the imports."""


ATTEMPT_NAME_BYTES = 128
"""The length of the value that the server is started with; the name of an attempt is written over it."""

_SUFFIXES = tuple(importlib.machinery.all_suffixes())


class EnvironmentFingerprint:
    """The start settings of the server that forks workers, and its imports.

    ``modules`` are the top-level names of its imported modules, ``namespaces`` those of them that have no file of their
    own. Raises nothing; caches the contents of directories.
    """

    def __init__(
        self,
        *,
        executable: str,
        environ: Mapping[str, str],
        sys_path: Sequence[str],
        modules: Sequence[str],
        namespaces: Sequence[str] = (),
    ) -> None:
        self._executable = executable
        self._read = _read_at_start(environ)
        self._sys_path = tuple(sys_path)
        self._modules = frozenset(modules)
        self._namespaces = frozenset(namespaces)
        self._shadows: dict[str, tuple[int, str]] = {}
        self._installed = self._changed_ns()

    @property
    def outdated(self) -> bool:
        """Whether packages were installed or removed since."""
        return self._changed_ns() != self._installed

    def difference(self, *, executable: str, environ: Mapping[str, str], sys_path: Sequence[str], cwd: str) -> str:
        """Return the difference that a fresh interpreter would have; empty if there is none."""
        if executable != self._executable:
            return f"the interpreter is {executable}"
        read = _read_at_start(environ)
        if read != self._read:
            names = sorted(name for name in {*read, *self._read} if read.get(name) != self._read.get(name))
            return f"the environment variable {names[0]} is read at the start of an interpreter, and was changed"
        known = frozenset(self._sys_path)
        if [entry for entry in dict.fromkeys(sys_path) if entry in known] != list(dict.fromkeys(self._sys_path)):
            return "entries of sys.path were removed or have another order"
        last = max(index for index, entry in enumerate(sys_path) if entry in known) if known else len(sys_path)
        for entry in sys_path[:last]:
            shadow = "" if entry in known else self._shadow(os.path.join(cwd, entry))
            if shadow:
                return f"{shadow} would be imported in place of an installed module"
        return "" if os.access(cwd, os.X_OK) else f"the current directory cannot be entered: {cwd}"

    def _changed_ns(self) -> list[int]:
        """Return when each directory of installed packages was changed."""
        found = []
        for entry in self._sys_path:
            if {"site-packages", "dist-packages"} & set(entry.split(os.sep)):
                with contextlib.suppress(OSError):
                    found.append(os.stat(entry).st_mtime_ns)
        return found

    def _shadow(self, directory: str) -> str:
        """Return a file in a directory that would be imported in place of an imported module, empty if none."""
        try:
            changed_ns = os.stat(directory).st_mtime_ns
            known = self._shadows.get(directory)
            if known is None or known[0] != changed_ns:
                found = sorted(name for name in os.listdir(directory) if self._hides(directory, name))
                known = self._shadows[directory] = (changed_ns, os.path.join(directory, found[0]) if found else "")
        except OSError:
            return ""  # missing, or not a directory: nothing can be imported from it
        return known[1]

    def _hides(self, directory: str, name: str) -> bool:
        """Whether a file or a directory would be imported in place of an imported module.

        A module in any later place has precedence over a directory of its name without an ``__init__``; such a
        directory adds to a module that has no file itself.
        """
        stem, dot, rest = name.partition(".")
        if stem not in self._modules:
            return False
        if dot:
            return dot + rest in _SUFFIXES
        inside = os.path.join(directory, name)
        return (os.path.isdir(inside) and stem in self._namespaces) or any(
            os.path.exists(os.path.join(inside, "__init__" + suffix)) for suffix in _SUFFIXES
        )


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environ.items() if name.startswith(READ_AT_START) and name not in OF_AN_ATTEMPT
    }
