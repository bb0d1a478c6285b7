"""Every way to crash while a value is pickled or loaded, wherever values travel: what is tried, and what it is to be.

Not a test: the program that `test_crash_table` starts imports it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flyte

if TYPE_CHECKING:
    from collections.abc import Callable

    Cell = Callable[[str, str, dict[str, Any]], object]

RAISING = ("raise", "exit", "interrupt")
ENDING = ("os._exit", "segfault", "kill")
HANGS_S = 50.0
"""Ten times what the next run may take."""

env = flyte.TaskEnvironment(name="crash", resources=flyte.Resources(cpu=1, memory="250Mi"))


@dataclass(frozen=True, slots=True)
class Row:
    """One crash: ``how`` the value travels, ``what`` it is, ``when`` its class acts, and how it ``acts``."""

    how: str
    what: str
    when: str
    act: str

    def __str__(self) -> str:
        return f"{self.how} {self.what} {self.when} {self.act}"

    @property
    def expected(self) -> tuple[str, str]:
        """The class of the error, and its code."""
        if self.what == "exception":
            return "RuntimeUserError", "Raised"
        if self.act in ENDING:
            return "RuntimeSystemError", "Interrupted"
        if (self.what, self.when) == ("input", "pickle"):
            code = "DataValidationError"
            # What leaves a task keeps its class only where the SDK's own conversion knows it, as on a cluster.
            called = "RuntimeDataValidationError" if "task" in self.how else "RuntimeUserError"
            return ("UsageError", "") if self.how == "cell" else (called, code)
        if (self.how, self.what) == ("cell", "result"):
            return "RuntimeUserError", "PicklingProblem"
        if self.when == "pickle":
            return "RuntimeUserError", "ValueError"
        in_the_notebook = self.what == "result" and self.how in {"task", "blocking task"}
        loaded = "TypeTransformerFailedError"
        return (loaded, "") if in_the_notebook else ("RuntimeUserError", loaded)


def rows() -> list[Row]:
    """Return all rows but those in which the notebook itself runs code that ends a process: it pickles its inputs."""
    found = []
    for how in ("cell", "task", "blocking task", "nested", "blocking nested", "map"):
        acts = (*RAISING, *ENDING) if "blocking" not in how else RAISING[1:]
        for what in ("input", "result", "exception"):
            found += [Row(how, what, when, act) for when in ("pickle", "load") for act in acts]
    inside = {"nested", "blocking nested", "map"}
    return [
        row for row in found if row.how in inside or (row.what, row.when) != ("input", "pickle") or row.act in RAISING
    ]


def act(how: str) -> None:
    if how == "raise":
        raise ValueError("hostile")
    if how == "exit":
        raise SystemExit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "os._exit":
        os._exit(7)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


def loaded(kind: type, when: str, how: str) -> Any:
    if when == "load":
        act(how)
    return kind(when, how)


class Value:
    def __init__(self, when: str, how: str) -> None:
        self.when, self.how = when, how

    def __reduce__(self) -> Any:
        if self.when == "pickle":
            act(self.how)
        return loaded, (type(self), self.when, self.how)


class Raised(Exception):  # noqa: N818 - its name is its code
    def __init__(self, when: str, how: str) -> None:
        super().__init__(when)
        self.when, self.how = when, how

    __reduce__ = Value.__reduce__


@env.task
async def take(x: Value) -> int:
    return 1


@env.task
async def give(when: str, how: str) -> Value:
    return Value(when, how)


@env.task
async def throw(when: str, how: str) -> int:
    raise Raised(when, how)


@env.task
def take_blocking(x: Value) -> int:
    return 1


@env.task
def give_blocking(when: str, how: str) -> Value:
    return Value(when, how)


@env.task
def throw_blocking(when: str, how: str) -> int:
    raise Raised(when, how)


@env.task
async def nested(what: str, when: str, how: str) -> int:
    if what == "input":
        return await take(Value(when, how))
    await (give if what == "result" else throw)(when, how)
    return 1


@env.task
def nested_blocking(what: str, when: str, how: str) -> int:
    if what == "input":
        return take_blocking(Value(when, how))
    (give_blocking if what == "result" else throw_blocking)(when, how)
    return 1


@env.task
async def mapped(what: str, when: str, how: str) -> int:
    if what == "input":
        list(flyte.map(take, [Value(when, how)] * 2, return_exceptions=False))
    else:
        list(flyte.map(give if what == "result" else throw, [when] * 2, [how] * 2, return_exceptions=False))
    return 1


@env.task
async def add(a: int, b: int) -> int:
    return a + b


TASKS: dict[str, dict[str, Any]] = {
    "task": {"input": take, "result": give, "exception": throw},
    "blocking task": {"input": take_blocking, "result": give_blocking, "exception": throw_blocking},
}
CALLERS: dict[str, Any] = {"nested": nested, "blocking nested": nested_blocking, "map": mapped}

CELLS = {
    "input": "found = x.when",
    "result": "import crash_table\nfound = crash_table.Value({when!r}, {how!r})",
    "exception": "import crash_table\nraise crash_table.Raised({when!r}, {how!r})",
}


def run(row: Row, cell: Cell) -> None:
    """Do what a row says; ``cell`` runs a cell with options, body and variables, and raises its error."""
    given = (Value(row.when, row.act),) if row.what == "input" else (row.when, row.act)
    if row.how == "cell":
        body = CELLS[row.what].format(when=row.when, how=row.act)
        options = "" if row.what == "exception" else "-o found "
        cell(f"{options}-m 250Mi", body, {"x": given[0]})
    elif row.how in TASKS:
        flyte.run(TASKS[row.how][row.what], *given)
    else:
        flyte.run(CALLERS[row.how], row.what, row.when, row.act)


def tried(cell: Cell) -> dict[str, tuple[str, str, float]]:
    """Do all rows in one session; return class and code of each error, and how long it took, in seconds.

    Each row is the next run of the one before it, and after the rows that differ in how they act only, a run passes.
    What hangs ends the process, with the stacks of its threads.
    """
    found = {}
    for _, alike in itertools.groupby(rows(), lambda row: (row.how, row.what, row.when)):
        for row in alike:
            faulthandler.dump_traceback_later(HANGS_S, exit=True)
            kind, code, began_s = "none", "", time.monotonic()
            try:
                run(row, cell)
            except BaseException as error:  # noqa: BLE001 - whatever it is
                kind, code = type(error).__name__, str(getattr(error, "code", ""))
            found[str(row)] = (kind, code, time.monotonic() - began_s)
        assert 3 == flyte.run(add, 1, 2).outputs()[0]
    faulthandler.cancel_dump_traceback_later()
    return found
