"""The shell's settings for showing values, which also apply to displays of a task: precision, printers of the user.

They are read in the kernel, if they differ from IPython's defaults, and set in the worker when its shell is made. A
printer for a class of a library is made when that library is loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from flyte_notebook.worker.process.after_import import call_after_import
from flyte_notebook.worker.values import pickling

PLAIN = "text/plain"
SETTINGS = ("float_precision", "pprint", "max_width", "max_seq_length", "verbose")
"""Settings of IPython's ``PlainTextFormatter``; `%precision` and `%pprint` set the first two."""
OF_THE_SHELL = frozenset({"IPython", "ipykernel", "matplotlib_inline"})
"""Modules that register their own printers; a worker's shell has the same ones."""


def read(shell: Any) -> bytes:
    """Return the differences from a new shell, empty if none. A printer that cannot be pickled is left out."""
    formatter = getattr(shell, "display_formatter", None)
    if formatter is None:
        return b""
    plain = formatter.formatters[PLAIN]
    usual = {name: trait.default() for name, trait in plain.traits().items() if name in SETTINGS}
    settings = {name: getattr(plain, name) for name in SETTINGS if getattr(plain, name) != usual[name]}
    printers = list(_printers(formatter, shell.user_ns))
    return pickling.dumps((settings, printers)) if settings or printers else b""


def make(shell: Any, data: bytes) -> None:
    """Set the values of `read` in a worker's shell."""
    settings, printers = pickling.loads(data)
    plain = shell.display_formatter.formatters[PLAIN]
    for name, value in settings.items():
        setattr(plain, name, value)
    for mime, module, pickled in printers:
        call_after_import(module, functools.partial(_register, shell, mime, pickled))


def _printers(formatter: Any, namespace: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    for mime, one in formatter.formatters.items():
        for kind, printer in one.type_printers.items():
            if str(getattr(printer, "__module__", "")).partition(".")[0] in OF_THE_SHELL:
                continue
            try:
                yield mime, kind.__module__, pickling.dumps((kind, printer), namespace)
            except pickling.PicklingProblem:
                continue


def _register(shell: Any, mime: str, pickled: bytes) -> None:
    kind, printer = pickling.loads(pickled, shell.user_ns)
    shell.display_formatter.formatters[mime].for_type(kind, printer)
