"""The entries for the behaviour of IPython, ipykernel, ipywidgets and related libraries, for one shell."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from IPython.core.displayhook import DisplayHook

from flyte_notebook.cells import shell_in_worker, widgets_in_worker
from flyte_notebook.core.reliance import Reliance, expect
from flyte_notebook.core.userfiles import is_user_file
from flyte_notebook.notebook import output, pump

WIDGETS: Final = "widgets"
CHARTS: Final = "charts"
"""Keys of the entries that are tried at the first use."""


def _shell_channel(shell: Any) -> None:
    reason = pump.ShellPump.probe(shell.kernel)
    expect(not reason, reason)


def _headers(shell: Any) -> None:
    sink = output.cell_sink(shell)
    expect(isinstance(sink, output.KernelSink), "the kernel's publisher of displays has no header, session or socket")
    assert isinstance(sink, output.KernelSink)
    message = shell.display_pub.session.msg("display_data", {}, parent=shell.display_pub.parent_header)
    expect(sink.cell and message["parent_header"]["msg_id"] == sink.cell, "a message does not belong to its cell")
    expect(callable(getattr(shell.display_pub.pub_socket, "send_multipart", None)), "the kernel sends otherwise")


def _errors_of_cells(shell: Any) -> None:
    classes, handler = shell.custom_exceptions, shell.CustomTB
    try:
        shell.set_custom_exc((ZeroDivisionError,), lambda *_: None)
        expect(shell.custom_exceptions == (ZeroDivisionError,), "a handler of errors stands elsewhere")
        expect(shell.CustomTB is not handler, "a handler of errors is not kept")
    finally:
        shell.custom_exceptions, shell.CustomTB = classes, handler
    expect(callable(getattr(shell, "_showtraceback", None)), "tracebacks are shown otherwise")


def _names_of_cells(shell: Any) -> None:
    name = shell.compile.get_code_name("x = 1", "x = 1", 1)
    expect(is_user_file(name), f"a cell is called {name!r}")


def _numbers_of_cells(shell: Any) -> None:
    number, count = len(shell.history_manager.input_hist_raw) - 1, shell.execution_count
    expect(number in {count, count - 1}, f"cell {count} is number {number} of the history")


def _values_of_cells(_shell: Any) -> None:
    silent: Callable[[str], bool] = DisplayHook.semicolon_at_end_of_expression
    expect([silent("x = 1\nx;"), silent("x")] == [True, False], "a semicolon is not seen")


def _completion(shell: Any) -> None:
    def match(_context: Any) -> dict[str, Any]:
        return {"completions": []}

    matchers = shell.Completer.custom_matchers
    matchers.append(match)
    try:
        expect(match in shell.Completer.matchers, "a matcher that is added is not asked")
    finally:
        matchers.remove(match)


def _nested_loops(_shell: Any) -> None:
    async def one() -> int:
        return 1

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return  # a shell without a loop needs no patch
    coroutine = one()
    try:
        expect(asyncio.run(coroutine) == 1, "asyncio.run gives another result")
    finally:
        coroutine.close()


def _interrupts(_shell: Any) -> None:
    handler = signal.getsignal(signal.SIGINT)
    expect(callable(handler) or handler == signal.SIG_DFL, f"while a cell runs, interrupts are {handler!r}")


_in_kernel = functools.partial(Reliance, where="kernel")

_ENTRIES: Final = (
    _in_kernel(
        key="errors of cells",
        library="ipython",
        behaviour="a shell has one handler of exceptions, with its classes, and `_showtraceback` shows lines",
        lost="cards of errors that leave a cell",
        names=("_showtraceback",),
    ),
    _in_kernel(
        key="names of cells",
        library="ipython",
        behaviour="code of a cell is called `<ipython-input-...>`, or as the file that ipykernel makes up",
        lost="lines of functions that are defined in cells",
    ),
    _in_kernel(
        key="numbers of cells",
        library="ipython",
        behaviour="the running cell is the last of the raw history",
        lost="the number of the cell in its lines: another one is shown",
    ),
    _in_kernel(
        key="values of cells",
        library="ipython",
        behaviour="`DisplayHook.semicolon_at_end_of_expression` tells whether a value is to be shown",
        lost="a semicolon hides the value of a task cell",
    ),
    _in_kernel(
        key="completion",
        library="ipython",
        behaviour="the completer asks the matchers in `custom_matchers`",
        lost="Tab completes the options of `%%flyte_task` and `%flyte`",
    ),
    _in_kernel(
        key="nested loops",
        library="nest-asyncio2",
        behaviour="its patch lets `asyncio.run` run inside a running loop",
        lost="`asyncio.run(...)` and `loop.run_until_complete(...)` in a cell",
        names=("_nest_patched",),
    ),
    _in_kernel(
        key="interrupts",
        library="ipykernel",
        behaviour="while a cell runs, a handler of interrupts stands that may be wrapped",
        lost="an interrupt of the kernel stops what runs at once",
    ),
    shell_in_worker.RELIES,
    widgets_in_worker.RELIES,
    Reliance(
        key=WIDGETS,
        library="ipywidgets",
        behaviour="it loads, its widgets have a model that a front end shows, and a field sends `submit` for Enter",
        lost="the form of a card, and the live line with its Stop button",
        where="first use",
    ),
    Reliance(
        key=CHARTS,
        library="matplotlib",
        behaviour="it loads, and draws into SVG",
        lost="charts of memory",
        where="first use",
    ),
    _in_kernel(
        key="shell channel",
        library="ipykernel",
        behaviour="a kernel reads its shell channel with a stream whose callback may be replaced",
        lost="the Stop button, and every other widget, while a cell waits",
        names=("_recv_callback", "_recv_copy", "_parent_ident", "_publish_status", "_shell_context"),
    ),
    _in_kernel(
        key="headers",
        library="ipykernel",
        behaviour="its publisher of displays has the header of the running cell, a session and a socket",
        lost="rich output of a background run lands in its own cell",
    ),
)

_PROBES: Final[dict[str, Callable[[Any], None]]] = {
    "errors of cells": _errors_of_cells,
    "names of cells": _names_of_cells,
    "numbers of cells": _numbers_of_cells,
    "values of cells": _values_of_cells,
    "completion": _completion,
    "nested loops": _nested_loops,
    "interrupts": _interrupts,
    "shell channel": _shell_channel,
    "headers": _headers,
}

BY_KEY: Final = {entry.key: entry for entry in _ENTRIES}


def entries(shell: Any) -> tuple[Reliance, ...]:
    """Return the entries for a shell, with probes of that shell."""
    in_kernel = getattr(shell, "kernel", None) is not None
    found = [entry for entry in _ENTRIES if in_kernel or entry.key not in _OF_A_KERNEL]
    return tuple(
        replace(entry, probe=functools.partial(_PROBES[entry.key], shell)) if entry.key in _PROBES else entry
        for entry in found
    )


_OF_A_KERNEL: Final = frozenset({"shell channel", "headers"})
