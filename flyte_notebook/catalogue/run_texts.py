"""Texts about the reasons that end a run: exceptions, memory limits, lost processes, stops."""

from __future__ import annotations

from typing import Final

from flyte_notebook.catalogue.explanation import Words, real_words
from flyte_notebook.catalogue.recipes import IN_REFERENCE, LIMITS_NEEDED, by_hand_in_a_run, in_a_run

_CHECKS_ROWS: Final = """
@env.task
async def check(rows: int) -> str:
    if rows < 0:
        raise ValueError("no such row")
    return f"{rows} rows"
"""

_DIES: Final = """
@env.task
async def convert(careful: bool) -> str:
    if not careful:
        os._exit(7)  # the process is gone, as after a crash in a C library
    return "converted"
"""


WORDS: Final[dict[str, Words]] = {
    "BaseRuntimeError": real_words(
        meaning="The base of all errors that a task, a run or the control plane ends with. It has `kind`, `code` and "
        "`worker`; catch it when any failure should be handled in the same way.",
        kind="any",
        on_cluster="Never by itself: every error that a task ends with arrives as one of its subclasses.",
        here="Never by itself, as on a cluster; all that is raised by running tasks here is caught by it.",
        recover=in_a_run("BaseRuntimeError", tasks=_CHECKS_ROWS, attempt="await check(-1)", recover="await check(5)"),
        prevent="Catch the narrowest class that you can do something about, and let the rest pass.",
        related=("RuntimeUserError", "RuntimeSystemError", "RuntimeUnknownError", "ActionNotFoundError"),
    ),
    "RuntimeUserError": real_words(
        meaning="Code of the task raised. Any exception that is not of Flyte arrives as this class at whoever awaits "
        "the task: `code` is the name of the exception's class, the message is its text.",
        codes=("ValueError", "KeyError", "SystemExit"),
        on_cluster="When a task raises an exception that is not one of Flyte's, and retries, if any, are used up. "
        "Only code and message travel.",
        here="The same. In addition `error.__cause__` is the original exception, with the traceback of the worker.",
        recover=in_a_run(
            "RuntimeUserError",
            tasks=_CHECKS_ROWS,
            attempt="await check(-1)",
            recover="await check(5)",
            only_code="ValueError",
        ),
        prevent="Check inputs before the expensive part, and declare `retries` for what may pass by itself, such as a "
        "network. Inside the task itself a plain `except ValueError` works as always.",
        related=("ValueError", "CustomError", "NonRecoverableError", "RuntimeSystemError"),
    ),
    "RuntimeSystemError": real_words(
        meaning="The task was lost, or the platform failed; the code of the task raised nothing. Its process was ended "
        "by a signal, crashed (a segfault), or exited before it gave a result.",
        codes=("Interrupted", "MaxSystemFailuresExceeded", "BadContext"),
        on_cluster="After a preemption, a node that went away, a crash of the process or a failed upload. The platform "
        "tries again on its own account first; when that is used up the code is `MaxSystemFailuresExceeded`.",
        here="When the worker process crashes, is killed from outside, or calls `os._exit`. The code is `Interrupted`, "
        "signal or status are in the message, and the notebook's kernel lives on. There is no silent second try "
        "unless `%flyte system_retries 2` or `fn.enable(system_retries=2)` asks for it.",
        recover=in_a_run(
            "RuntimeSystemError",
            imports="import os",
            tasks=_DIES,
            attempt="await convert(careful=False)",
            recover="await convert(careful=True)",
            limited=True,
        ),
        prevent="Look for the signal in the message: a segfault is a bug in a native library; a kill from outside is "
        "somebody's, or a machine that ran short. Make tasks safe to run twice.",
        related=("TaskInterruptedError", "OOMError", "RuntimeUserError", "UnionRpcError"),
    ),
    "RuntimeUnknownError": Words(
        meaning="The task failed and nobody could say why: neither the code of the task nor the platform was named as "
        "the reason.",
        on_cluster="When the backend reports a failure of unknown kind. The SDK also decides by a part of the code: "
        "an exception of yours named `UnknownUser` arrives as this class.",
        here="Not by itself: what ended a process is always known here, and names are not guessed from.",
        recover=by_hand_in_a_run("RuntimeUnknownError", '"Unknown", "no reason was given"', better="a second try"),
        prevent="Read the logs of the attempt. Do not give exceptions names that contain `Unknown`, `OOM` or "
        "`Interrupted`.",
        related=("RuntimeSystemError", "RuntimeUserError"),
    ),
    "OOMError": real_words(
        meaning="The task needed more memory than its limit, and the kernel killed it. Everything counts: interpreter, "
        "imports, inputs, child processes.",
        codes=("OOMKilled",),
        on_cluster="When the memory limit of the container is reached, or when a child process of the task was killed "
        "for memory although the task itself ended well.",
        here="The same, with the same code and message. Only when the kernel (or, where no control group may be "
        "written, the watchdog) really ended it for memory; a `MemoryError` is something else.",
        recover=in_a_run(
            "OOMError",
            settings='resources=flyte.Resources(cpu=1, memory="150Mi")',
            tasks="""
@env.task
async def build(millions: int) -> str:
    return f"{len([0] * millions * 1_000_000)} items"  # 8 bytes each
""",
            attempt="await build(30)",
            recover='await build.override(resources=flyte.Resources(cpu=1, memory="600Mi"))(30)',
            limited=True,
        ),
        prevent="Measure once with plenty and set the limit from the peak, with a margin. Read in pieces, use smaller "
        "types, drop what is no longer needed.",
        related=("MemoryError", "UnschedulableError", "InlineIOMaxBytesBreached", "AppleSiliconDaemonOOMError"),
    ),
    "UnschedulableError": real_words(
        meaning="The task can never start on this machine: it asks for more memory than there is, or the memory that "
        "it needs is held by tasks that wait for it. This class is flyte_notebook's own.",
        on_cluster="Not a class of Flyte. A task that no node can hold stays queued there until `max_queued_time` "
        "passes, which raises MaxQueuedTimeExceededError.",
        here="At once, instead of waiting for ever. It is a RuntimeUserError, and no retry is tried.",
        recover=in_a_run(
            "UnschedulableError",
            settings='resources=flyte.Resources(memory="200Mi")',
            tasks="""
@env.task
async def train() -> str:
    return "trained"
""",
            attempt='await train.override(resources=flyte.Resources(memory="900Ti"))()',
            recover="await train()",
            limited=True,
        ),
        prevent="Ask for what this machine has (`%flyte doctor`), or send the task to a cluster. "
        "Parents keep their memory while they wait: keep them small.",
        related=("MaxQueuedTimeExceededError", "OOMError"),
    ),
    "TaskInterruptedError": real_words(
        meaning="Something outside ended the task before it was done, such as a preempted node. Its code is not to "
        "blame.",
        codes=("Interrupted",),
        on_cluster="When a container other than the primary one is interrupted. A preempted task itself arrives as "
        "RuntimeSystemError today. An exception of yours whose name contains `Interrupted` arrives as this class.",
        here=f"By default not: a lost worker is RuntimeSystemError with the same code, as on a cluster. {IN_REFERENCE}",
        recover=in_a_run(
            "(RuntimeSystemError, TaskInterruptedError)",
            imports="import os",
            tasks=_DIES,
            attempt="await convert(careful=False)",
            recover="await convert(careful=True)",
            limited=True,
        ),
        prevent="Make the task safe to run twice, and save progress (`flyte.ctx().checkpoint`) when it runs for long.",
        related=("RuntimeSystemError", "ActionAbortedError", "KeyboardInterrupt"),
    ),
    "PrimaryContainerNotFoundError": Words(
        meaning="The pod of the task ran, but has no container with the name that is said to be the primary one.",
        codes=("PrimaryContainerNotFound",),
        on_cluster="When a pod template names a primary container that is not among the pod's containers.",
        here="Not by itself: here are no pods.",
        recover=by_hand_in_a_run(
            "PrimaryContainerNotFoundError",
            '"PrimaryContainerNotFound", "Primary container [main] not found"',
            better="a task without a pod template",
        ),
        prevent="Give `primary_container_name` of `flyte.PodTemplate` the name of a container in its pod spec.",
        related=("InvalidImageNameError", "ImagePullBackOffError", "RuntimeSystemError"),
    ),
    "CustomError": real_words(
        meaning="An error with a code of your own choosing, so that whoever awaits the task can tell it from others.",
        codes=("TableEmpty",),
        on_cluster="Inside the task that raises it. A parent gets a RuntimeUserError with the same code: only kind, "
        "code and message travel.",
        here=f"The same by default. {IN_REFERENCE} Then any exception of user code arrives as CustomError.",
        recover=in_a_run(
            "RuntimeUserError",
            tasks="""
@env.task
async def summarise(rows: int) -> str:
    if rows == 0:
        raise flyte.errors.CustomError("TableEmpty", "there is nothing to summarise")
    return f"summary of {rows} rows"
""",
            note="a CustomError is one, too",
            attempt="await summarise(0)",
            recover="await summarise(5)",
            only_code="TableEmpty",
        ),
        prevent="Nothing to prevent: it is yours. Choose codes that are not parts of Flyte's own, such as `OOM`.",
        related=("RuntimeUserError", "NonRecoverableError"),
    ),
    "ActionAbortedError": real_words(
        meaning="The task was stopped on purpose, by a person or by a program.",
        on_cluster="When an action or its run is aborted; the parent raises it.",
        here="When Stop or the kernel's interrupt (■, Ctrl-C) ends a task. In a plain cell the interrupt raises "
        "KeyboardInterrupt from it, so that `except Exception` cannot swallow the interrupt.",
        recover=LIMITS_NEEDED
        + """\
import asyncio
import os
import signal
import threading

import flyte
from flyte.errors import ActionAbortedError

env = flyte.TaskEnvironment(name="explain")


@env.task
async def endless() -> str:
    await asyncio.sleep(3600)
    return "done"


threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()  # presses interrupt for you
try:
    flyte.run(endless)
except (ActionAbortedError, KeyboardInterrupt) as stop:
    error = stop if isinstance(stop, ActionAbortedError) else stop.__cause__
    print("caught", type(error).__name__, error.code)
    # Put away what the task left half done here, then let the stop go on: raise
""",
        prevent="Nothing to prevent. Do not catch it to try again: somebody wanted the end.",
        related=("KeyboardInterrupt", "TaskInterruptedError", "RunAbortedError"),
    ),
}
"""By class name; each is about a run that failed."""
