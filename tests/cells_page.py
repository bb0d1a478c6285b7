"""Writes `docs/cells.md`: what a task cell does as a plain cell, from cases that are tested, and what it does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent

PAGE = """\
# What a task cell does as a plain cell, and what it does not

A `%%flyte_task` cell runs in a process of its own. What a person would expect of the cell without its first line
holds
all the same, as far as it can. Each line below that names a case is tested beside the same plain cell, in one kernel:
what both print, give, raise and leave behind is equal.

## Main thread and event loop

The body runs on the main thread of its process, under a running event loop, with or without an `await`. Tasks
of asyncio that it starts and does not await go on for two seconds after it; what has not ended then ends with
the task, and is named.

{test_magic_main_thread}

## The shell

Features of `__future__` that earlier cells imported hold, and those of a task cell hold in later cells.
`InteractiveShell.ast_node_interactivity` says which values are shown. `%precision`, `%pprint` and printers that were
registered with the shell's formatters hold for what the task displays.



## Settings of libraries, and random numbers

Settings that earlier cells made go in, where the library is loaded in the notebook and is, or comes to be,
loaded in the task. A change that the cell makes stays there, and is said once. What cannot travel (a handler of
a class of your own, for example) is named once, and left out. None of it is part of a cache's key.

The states of `random` and `numpy.random` go in and come back, for a cell that you wait for. Actions of a run,
retries, and cells with `--background` begin with fresh entropy, as on a cluster.

{test_magic_settings}

## Names that only run time knows

A cell that may look names up while it runs takes along what the notebook has: functions and classes, data of
up to 1 MiB each and 16 MiB in all, and modules, which are imported when they are looked at. Any use of what
stayed behind is an error that names it, and the option `-i NAME` that takes it along. A name that stands in a
text of the cell is an input, however large it is.

{test_magic_lookups}

## What functions and classes hold

Attributes, defaults and closures that the cell changes come back. The cache of `functools.lru_cache` and what
is set in a module stay in the task, and are named once.

{test_magic_state_in_code}

## Values that stand for something outside

A file that is mapped into memory (`mmap.mmap`, `numpy.memmap`, arrays over one) is mapped again, not copied: what the
cell writes reaches the file, and only what it touches counts. Shared memory is attached by its name. Where the file is
gone, the cell is refused before it starts; so are open files, sockets and connections to databases, by name.

{test_magic_outside}

## Code

Code of the notebook travels with the cell, also where plain pickling refuses it; modules that no import would find are
loaded again from their file.

{test_magic_shipped_code}

## Widgets

Progress (`IntProgress`, `FloatProgress`, what `tqdm.notebook` makes), texts and boxes of those live in the notebook
while the task runs, and stay. Widgets that a person would use are shown as their text: a task answers nobody.

## What differs, and why

| a plain cell | a task cell | why |
|---|---|---|
| changes any variable in place | brings back what it assigns or changes by a statement; another input that \
changed is named, with `-o NAME` | a copy went in, and all of it would have to come back |
| keeps what it made, however large | brings back up to 64 MiB unasked, any size with `-o NAME` | the \
notebook's memory is not under the limit |
| may hold open files, sockets, locks, generators | refuses those as inputs, by name | they belong to a process |
| patches functions of a library for later cells | the patch stays in the task | only known settings travel |
| sees what a library keeps in itself (connections, caches, a seed of `torch`) | begins with the library as it \
is imported | only known settings travel |
| ends the kernel with `sys.exit()` or a crash | fails, and the notebook goes on | that is what it is for |
| may lower its own limits until nothing works | ends with an error that says which step failed | a task always ends |
| leaves shared memory behind when it is killed | what it made goes with it, unless it is in use | a pod's goes too |
| asks with `input()` | one clear error | nobody can answer there |
"""


def cases(module: str) -> list[str]:
    """Return the names of the cases of a test module."""
    tree = ast.parse((TESTS / "notebook" / f"{module}.py").read_text("utf-8"))
    tables = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CASES"]
    keys = [key for table in tables if isinstance(table.value, ast.Dict) for key in table.value.keys]
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def modules() -> list[str]:
    """Return the test modules whose cases the page lists."""
    return re.findall(r"\{(test_\w+)\}", PAGE)


def text() -> str:
    """Return the page."""
    return PAGE.format(**{module: f"Tested: {'; '.join(cases(module))}." for module in modules()})


if __name__ == "__main__":
    (TESTS.parent / "docs" / "cells.md").write_text(text(), encoding="utf-8")
