"""Texts about the bounds that a task declares: on its time, and on the number of attempts."""

from __future__ import annotations

from typing import Final

from flyte_notebook.catalogue.explanation import Words, real_words
from flyte_notebook.catalogue.recipes import IN_REFERENCE, in_a_run

WORDS: Final[dict[str, Words]] = {
    "TaskTimeoutError": real_words(
        meaning="The task passed one of the bounds on time that it declares. The subclass says which one; catch this "
        "class to handle all three.",
        on_cluster="As a subclass when the server says which bound it was, else as this class.",
        here="As the subclass of the bound: MaxRuntimeExceededError, MaxQueuedTimeExceededError or "
        'DeadlineExceededError. After `fn.enable(semantics="reference")` it is this class itself.',
        recover=in_a_run(
            "TaskTimeoutError",
            imports="import asyncio\nfrom datetime import timedelta",
            tasks="""
@env.task(timeout=timedelta(seconds=1))
async def search(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"found within {seconds} s"
""",
            attempt="await search(30.0)",
            recover="await search(0.1)",
            limited=True,
        ),
        prevent="Measure the task once without a bound, then set one with a margin.",
        related=("MaxRuntimeExceededError", "MaxQueuedTimeExceededError", "DeadlineExceededError", "TimeoutError"),
    ),
    "MaxRuntimeExceededError": real_words(
        meaning="One attempt ran longer than `timeout` (its `max_runtime`) allows, and was stopped.",
        codes=("MaxRuntimeExceededError", "MAX_RUNTIME_EXCEEDED"),
        on_cluster="When an attempt passes `max_runtime`. On the wire the code is `MAX_RUNTIME_EXCEEDED`; the error "
        "that you catch has the class name.",
        here="The same; the clock starts when the worker is ready, and the whole process is gone afterwards. Each "
        "retry has the full time again.",
        recover=in_a_run(
            "MaxRuntimeExceededError",
            imports="import asyncio\nfrom datetime import timedelta",
            tasks="""
@env.task(timeout=timedelta(seconds=1))
async def search(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "found"
""",
            attempt="await search(2.0)",
            recover="await search.override(timeout=timedelta(seconds=30))(2.0)",
            limited=True,
        ),
        prevent="Raise the bound (`-t 60s`, `timeout=`), split the work, or have the task look at the clock itself.",
        related=("TaskTimeoutError", "DeadlineExceededError", "TimeoutError"),
    ),
    "MaxQueuedTimeExceededError": real_words(
        meaning="The task waited longer for room to start than `max_queued_time` allows. Its code did not run.",
        codes=("MaxQueuedTimeExceededError", "QUEUED_TIMEOUT_EXCEEDED"),
        on_cluster="When no node takes the task in time, for example because none has the resources that it asks for. "
        "On the wire the code is `QUEUED_TIMEOUT_EXCEEDED`.",
        here="When the memory that the task asks for is held by other tasks for that long. A task that could never "
        "start is refused at once, with UnschedulableError.",
        recover=in_a_run(
            "MaxQueuedTimeExceededError",
            imports="import asyncio\nimport os\nfrom datetime import timedelta",
            before='PAGES, PAGE_BYTES = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")\n'
            'LARGE = flyte.Resources(memory=f"{PAGES * PAGE_BYTES * 3 // 5 >> 20}Mi")  # more than half of it\n',
            tasks="""
@env.task
async def hold(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "held"


@env.task(timeout=flyte.Timeout(max_queued_time=timedelta(seconds=1)))
async def start() -> str:
    return "started"


async def start_beside_a_large_one() -> str:
    other = asyncio.create_task(hold.override(resources=LARGE)(3.0))
    await asyncio.sleep(0.5)
    try:
        return await start.override(resources=LARGE)()
    finally:
        await other
""",
            attempt="await start_beside_a_large_one()",
            recover='await start.override(resources=flyte.Resources(memory="200Mi"))()',
            limited=True,
        ),
        prevent="Ask for less, start fewer at a time (`flyte.map(..., concurrency=4)`), or allow a longer wait.",
        related=("TaskTimeoutError", "UnschedulableError"),
    ),
    "DeadlineExceededError": real_words(
        meaning="The task was not done by its `deadline`, which counts over all attempts and the waiting between them.",
        codes=("DeadlineExceededError", "DEADLINE_EXCEEDED"),
        on_cluster="When the deadline passes, whatever attempt is running. On the wire the code is "
        "`DEADLINE_EXCEEDED`.",
        here="The same. No further attempt is started.",
        recover=in_a_run(
            "DeadlineExceededError",
            imports="import asyncio\nfrom datetime import timedelta",
            tasks="""
@env.task(retries=9, timeout=flyte.Timeout(deadline=timedelta(seconds=2)))
async def fetch(source: str) -> str:
    if source == "slow":
        await asyncio.sleep(1)
        raise ConnectionError("try again")  # each attempt fails, until the time is up
    return f"fetched from {source}"
""",
            attempt='await fetch("slow")',
            recover='await fetch("a copy nearby")',
            limited=True,
        ),
        prevent="Leave room for all attempts: about `(retries + 1) * max_runtime` and the backoff between them.",
        related=("TaskTimeoutError", "MaxRuntimeExceededError", "RetriesExhaustedError"),
    ),
    "RetriesExhaustedError": real_words(
        meaning="Every attempt that the task was allowed failed.",
        codes=("RetriesExhausted|ValueError",),
        on_cluster="Only from older backends, with `RetriesExhausted|CODE` on the wire, which the SDK cuts to `CODE`; "
        "today's keeps the last error itself. An OOM in the last attempt is OOMError in both.",
        here=f"By default not: the last error itself arrives, as on a cluster. {IN_REFERENCE}",
        recover=in_a_run(
            "RuntimeUserError",
            note="a RetriesExhaustedError is one, too",
            tasks="""
@env.task(retries=1)
async def fetch(source: str) -> str:
    if source == "down":
        raise ConnectionError("no answer")
    return f"fetched from {source}"
""",
            attempt='await fetch("down")',
            recover='await fetch("a copy")',
            limited=True,
        ),
        prevent="More retries help only against what passes by itself. Raise NonRecoverableError where they cannot.",
        related=("NonRecoverableError", "RuntimeUserError", "DeadlineExceededError", "OOMError"),
    ),
    "NonRecoverableError": real_words(
        meaning="Raise this in a task to say that another attempt cannot help: the remaining retries are skipped.",
        on_cluster="When code of a task raises it. The retries end at once; a parent gets a RuntimeUserError with this "
        "class's name as code.",
        here="The same, and it arrives as the class itself, which is a RuntimeUserError too: catch that class and "
        "look at the code, and the clause holds in both places.",
        recover=in_a_run(
            "RuntimeUserError",
            tasks="""
@env.task(retries=5)
async def load(path: str) -> str:
    if not path.endswith(".csv"):
        raise flyte.errors.NonRecoverableError(f"{path} is no table")  # five retries would not help
    return f"loaded {path}"
""",
            attempt='await load("table.exe")',
            recover='await load("table.csv")',
            only_code="NonRecoverableError",
        ),
        prevent="Raise it early, for inputs that are wrong; leave everything else to the retries.",
        related=("RetriesExhaustedError", "RuntimeUserError", "CustomError"),
    ),
}
"""By class name; each is about a bound that a run reached."""
