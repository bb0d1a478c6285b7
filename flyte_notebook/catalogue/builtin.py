"""Python's own exceptions, which arrive from a task with another class."""

from __future__ import annotations

import asyncio
import builtins
from typing import Final

from flyte_notebook.catalogue.explanation import Explanation, Words
from flyte_notebook.catalogue.recipes import in_a_run
from flyte_notebook.catalogue.run_texts import WORDS as OF_RUNS

_RAISES: Final = {
    "BaseExceptionGroup": 'raise ExceptionGroup("two at once", [ValueError("a"), KeyError("b")])',
    "ExceptionGroup": 'raise ExceptionGroup("two at once", [ValueError("a"), KeyError("b")])',
    "MemoryError": "held = bytearray(1 << 60)  # more than any machine can promise",
    "SystemExit": "sys.exit(3)",
    "UnicodeDecodeError": 'bytes([255]).decode("utf-8")',
    "UnicodeEncodeError": '"\\u20ac".encode("ascii")',
    "UnicodeTranslateError": 'raise UnicodeTranslateError("text", 0, 1, "no such letter")',
}
_IMPORTS: Final = {"SystemExit": "import sys"}
_NEEDS_LIMITS: Final = frozenset({"SystemExit"})
_INTERRUPTS: Final = "KeyboardInterrupt"
_CANCELLED: Final = "CancelledError"
_ARRIVES_AS: Final = {
    "BaseException": "Exception",
    "BaseExceptionGroup": "ExceptionGroup",
    "GeneratorExit": "Exception",
    "StopIteration": "RuntimeError",
}
"""Exceptions that cannot leave a coroutine unchanged, or cannot be shown in the same program as the others."""

_TAKEN_BY_PART: Final = {
    "oom": "OOMError",
    "Interrupted": "TaskInterruptedError",
    "PrimaryContainerNotFound": "PrimaryContainerNotFoundError",
    "RetriesExhausted": "RetriesExhaustedError",
    "Unknown": "RuntimeUnknownError",
    "InvalidImageName": "InvalidImageNameError",
    "ImagePullBackOff": "ImagePullBackOffError",
}
"""Parts of a name for which the SDK, on a cluster, mistakes an exception for one of its own; the first match counts."""

_MEANING: Final = {
    "MemoryError": "One allocation was larger than the machine could promise, and Python said no. Nothing was killed: "
    "this is not an OOM kill, and OOMError is not what arrives.",
    "KeyboardInterrupt": "Somebody pressed interrupt (■, Ctrl-C). It is no Exception, so `except Exception` lets it "
    "through.",
    "SystemExit": "The task called `sys.exit()`. A task ends by returning; leaving the process gives no result.",
    "TypeError": "A call with wrong arguments, or a value of the wrong type. A classic one: `OOMError('no memory')` is "
    "a TypeError, because Flyte's errors need a code and a message.",
    "TimeoutError": "Your own code waited too long for something, such as `asyncio.wait_for` or a socket. The bound "
    "of a task, `timeout=`, raises TaskTimeoutError instead.",
    "CancelledError": "Waiting for a task was cancelled, by code or because a sibling in a task group failed. It is no "
    "Exception, so `except Exception` lets it through.",
    "ModuleNotFoundError": "An import failed: the package is not installed where the task runs.",
    "ImportError": "An import failed where the task runs.",
    "FileNotFoundError": "There is no such file where the task runs.",
    "EOFError": "Something wanted to read more than there was; `input()` in a task does so, for nobody can answer.",
    "RecursionError": "A function called itself too often.",
}
_PREVENT: Final = {
    "MemoryError": "Look at the size that was asked for: most often it is a wrong number. More memory in "
    "`flyte.Resources` does not help.",
    "KeyboardInterrupt": "Nothing to prevent. Put away what is half done, and let it go on.",
    "SystemExit": "Return from the task, or raise an error that says why. `raise SystemExit` belongs in scripts.",
    "TypeError": "Look at the signature: `fn.explain('OOMError').signature`, and call with all of it.",
    "ModuleNotFoundError": "Add the package to the image of the environment for a cluster; here, install it beside "
    "Python.",
    "FileNotFoundError": "Pass a `flyte.io.File` to the task: a path of your machine means nothing on a node.",
    "CancelledError": "Nothing to prevent. Catch it only to put away what is half done, then raise it again.",
}
_RELATED: Final = {
    "MemoryError": ("OOMError",),
    "KeyboardInterrupt": ("ActionAbortedError",),
    "SystemExit": ("RuntimeSystemError",),
    "TimeoutError": ("TaskTimeoutError",),
    "CancelledError": ("ActionAbortedError", "KeyboardInterrupt"),
    "ModuleNotFoundError": ("ModuleLoadError",),
    "TypeError": ("OOMError", "RuntimeDataValidationError"),
}


def named(name: str) -> type[BaseException] | None:
    """Return Python's exception of that name, in any case of letters; ``None`` when there is none."""
    found = {
        key.lower(): value
        for key, value in {**vars(builtins), "CancelledError": asyncio.CancelledError}.items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    return found.get(name.lower())


def explained(cls: type[BaseException]) -> Explanation:
    """Return how an exception of Python, or of the user, arrives when a task raises it."""
    name = cls.__name__
    words = _words(name, own=named(name) is not cls)
    return Explanation(
        name=name,
        meaning=words.meaning,
        kind="user",
        codes=words.codes,
        raised_on_cluster=words.on_cluster,
        raised_here=words.here,
        real_here=words.real_here,
        recover=words.recover,
        prevent=words.prevent,
        related=words.related,
        signature=f"{name}(*args)",
        bases=tuple(base.__name__ for base in cls.__mro__[1:-1]),
    )


def arriving(code: str) -> str | None:
    """Return the program that recovers from a RuntimeUserError of that code, ``None`` when the code is no class name.

    Only for exceptions of Python: for any other class only the name is known.
    """
    return None if named(code) is None or code in {_INTERRUPTS, _CANCELLED} else _recover(code, own=False)


def _words(name: str, *, own: bool) -> Words:
    if name == _INTERRUPTS:
        return _interrupt()
    if name == _CANCELLED:
        return _cancelled()
    code = _ARRIVES_AS.get(name, name)
    clause = f'`except RuntimeUserError as error: if error.code != "{code}": raise`'
    here = (
        f"The same, so `except {name}` around `await task()` never fires; write {clause}. "
        "`error.__cause__` is the original exception, with the worker's traceback."
    )
    on_cluster = (
        f"When a task raises it, whoever awaits the task gets a RuntimeUserError with code `{code}` and the same text."
    )
    taken_for = _taken_for(code)
    if taken_for is not None:
        on_cluster = (
            f"When a task raises it. The SDK goes by a part of the name: there it arrives as {taken_for}, with code "
            f"`{code}`."
        )
        here = here.replace("The same, so", "As RuntimeUserError, so", 1)
    if name == "SystemExit":
        on_cluster = (
            "The container ends before there is a result, as with any process that exits: expect RuntimeSystemError."
        )
        here = f"A RuntimeUserError with code `{code}` and the status in its message. The SDK's own local mode hangs."
    return Words(
        meaning=_MEANING.get(name, "An exception of Python's own." if not own else "An exception of your own."),
        on_cluster=on_cluster,
        here=here,
        real_here=True,
        recover=_recover(code, own=own),
        prevent=_PREVENT.get(
            name, "Inside the task a plain `except` works as always; outside of it only the code tells which it was."
        ),
        related=("RuntimeUserError", *_RELATED.get(name, ())),
        codes=(code,),
    )


def _taken_for(code: str) -> str | None:
    """Return the SDK's class for which an exception is mistaken because of a part of its name, ``None`` for most."""
    parts = (part for part in _TAKEN_BY_PART if part in code or (part == "oom" and part in code.lower()))
    return next((_TAKEN_BY_PART[part] for part in parts), None)


def _recover(code: str, *, own: bool) -> str:
    raises = _RAISES.get(code, f'raise {code}("it did not work")')
    of_its_own = f"class {code}(Exception):\n    pass\n\n\n" if own else ""
    return in_a_run(
        "RuntimeUserError",
        imports=_IMPORTS.get(code, ""),
        tasks=f"""
{of_its_own}@env.task
async def step(way: str) -> str:
    if way == "risky":
        {raises}
    return f"done, the {{way}} way"
""",
        attempt='await step("risky")',
        recover='await step("safe")',
        only_code=code,
        note=f"`except {code}` would never fire here",
        limited=code in _NEEDS_LIMITS,
    )


def _interrupt() -> Words:
    return Words(
        meaning=_MEANING[_INTERRUPTS],
        on_cluster="Not by itself: nobody sits in front of a node. Aborting the run is what does it there.",
        here="An interrupt stops everything that the cell started. A plain cell or script then gets KeyboardInterrupt "
        "with ActionAbortedError as its cause; a `%%flyte_task` cell gets ActionAbortedError.",
        real_here=True,
        recover=OF_RUNS["ActionAbortedError"].recover,
        prevent=_PREVENT[_INTERRUPTS],
        related=("ActionAbortedError", "RuntimeUserError"),
        codes=("ActionAbortedError",),
    )


def _cancelled() -> Words:
    return Words(
        meaning=_MEANING[_CANCELLED],
        on_cluster="In the code that awaits, not from the task; the task that it awaited is aborted.",
        here="The same: the process of the task is ended.",
        real_here=True,
        recover="""\
import asyncio

import flyte

env = flyte.TaskEnvironment(name="explain")


@env.task
async def search(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "found"


@env.task
async def main() -> str:
    slow = asyncio.create_task(search(60.0))
    quick = await search(0.1)
    slow.cancel()  # nobody needs it any more
    try:
        return await slow
    except asyncio.CancelledError:
        print("caught CancelledError: the slow one is stopped")
        return quick


print(flyte.run(main).outputs()[0])
""",
        prevent=_PREVENT[_CANCELLED],
        related=_RELATED[_CANCELLED],
    )


WRONG_CALL: Final = """\
from flyte.errors import OOMError

try:
    raise OOMError("there was not enough memory")  # one argument, as Python's own errors take
except TypeError as error:
    print("caught", type(error).__name__, error)

try:
    raise OOMError("OOMKilled", "there was not enough memory")  # code and message
except OOMError as error:
    print("caught", type(error).__name__, error.code)
"""
"""For a TypeError from a wrong call of one of Flyte's error classes."""
