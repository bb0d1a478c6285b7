"""Texts about errors in the code around tasks: wrong values, calls in the wrong place, conditions."""

from __future__ import annotations

from typing import Final

from flyte_notebook.catalogue.explanation import Words, real_words
from flyte_notebook.catalogue.recipes import by_hand, in_a_run, in_this_process

_NOWHERE: Final = "The SDK defines this class and raises it nowhere (2.12.1)."
_NO_CONDITIONS: Final = (
    "Not by itself: local mode asks for the answer at a prompt, which a worker process does not have. There the wait "
    "ends with a RuntimeUserError."
)

WORDS: Final[dict[str, Words]] = {
    "RuntimeDataValidationError": real_words(
        meaning="A value does not fit the type that the task declares for it, or cannot be serialised as that type. "
        "The message names the variable; `o0` is the first output.",
        on_cluster="When the outputs of a task are written, for example `return 'x'` in a task declared `-> int`.",
        here="The same, at the same point.",
        recover=in_a_run(
            "RuntimeUserError",
            tasks="""
@env.task
async def count(strict: bool) -> int:
    found = "three"
    return len(found) if strict else found  # a str where an int is declared
""",
            attempt='f"{await count(strict=False)}"',
            recover='f"{await count(strict=True)}"',
            only_code="DataValidationError",
        ),
        prevent="Make the annotation say what is returned, and let a type checker read the code.",
        related=("RestrictedTypeError", "InlineIOMaxBytesBreached", "TypeError"),
    ),
    "InlineIOMaxBytesBreached": real_words(
        meaning="The inputs or outputs that travel inline, with the messages between task and platform, are larger "
        "than `max_inline_io_bytes`.",
        on_cluster="When such inputs are sent or outputs are written, above the bound of the task. For outputs the "
        "caller gets a RuntimeUserError with this code.",
        here="The same; the message names the largest value and both sizes. The SDK's own local mode ignores the "
        "bound.",
        recover=in_a_run(
            "RuntimeUserError",
            tasks="""
@env.task(max_inline_io_bytes=10_000)
async def write(letters: int) -> str:
    return "x" * letters
""",
            attempt="await write(50_000)",
            recover="(await write.override(max_inline_io_bytes=100_000)(50_000))[:9]",
            only_code="InlineIOMaxBytesBreached",
            limited=True,
        ),
        prevent="Return a `flyte.io.File`, `Dir` or `DataFrame`: those travel by reference. Or raise "
        "`max_inline_io_bytes` (`--max-inline-io 10Mi`).",
        related=("RuntimeDataValidationError", "OOMError"),
    ),
    "RestrictedTypeError": real_words(
        meaning="The type of an input or output has been registered as one that may not travel between tasks.",
        on_cluster="When a value of such a type is sent or returned. The SDK restricts none by default; somebody "
        "called `TypeEngine.register_restricted_type`.",
        here="The same, in the process where the type was registered.",
        recover=in_this_process(
            "RestrictedTypeError",
            before="""
from flyte.types import TypeEngine

env = flyte.TaskEnvironment(name="explain")


class Connection:
    url = "db://somewhere"


TypeEngine.register_restricted_type("connection", Connection)


@env.task
async def query(connection: Connection) -> str:
    return connection.url


@env.task
async def query_by_url(url: str) -> str:
    return url
""",
            attempt="flyte.run(query, Connection())",
            recover='print(flyte.run(query_by_url, "db://somewhere").outputs()[0])',
        ),
        prevent="Send what the object is made from (an address, a path, a name), and make it inside the task.",
        related=("RuntimeDataValidationError",),
    ),
    "OnlyAsyncIOSupportedError": real_words(
        meaning="A file was opened the asynchronous way on storage that has only the blocking one. The SDK's own words "
        "say it the other way round.",
        on_cluster="When `flyte.storage.open` is awaited for a filesystem that is not asynchronous. Object stores are.",
        here="The same, in your own process or in a task.",
        recover=in_this_process(
            "OnlyAsyncIOSupportedError",
            imports="import asyncio",
            before="""
import flyte.storage

PATH = "memory://explain/greeting.txt"


async def write(text: str) -> None:
    file = await flyte.storage.open(PATH, "wb")
    await file.write(text.encode())
    await file.close()


def write_blocking(text: str) -> None:
    with flyte.storage.get_underlying_filesystem(path=PATH).open(PATH, "wb") as file:
        file.write(text.encode())
""",
            attempt='asyncio.run(write("hello"))',
            recover='write_blocking("hello")',
        ),
        prevent="Use the blocking way for such storage, in a thread (`asyncio.to_thread`) when the task is async.",
        related=("SyncTaskCallInAsyncContextError", "RuntimeUserError"),
    ),
    "NotInTaskContextError": Words(
        meaning="Something that belongs to a running task was used where no task runs.",
        codes=("BadContext",),
        on_cluster="When the record of a trace is asked for and there is no task. `flyte.ctx()` raises nothing: "
        "outside of a task it gives an empty context that counts as false.",
        here="Hardly by itself: a function with `@flyte.trace` that is called outside of a task just runs.",
        recover=in_this_process(
            "NotInTaskContextError",
            before="""
def name_of_the_action() -> str:
    context = flyte.ctx()
    if not context:  # outside of a task
        raise NotInTaskContextError("BadContext", "there is no task here")
    return context.action.name
""",
            attempt="print(name_of_the_action())",
            recover='print("no task: nothing to name")',
        ),
        prevent="Ask first: `if flyte.ctx(): ...`. Keep code that needs a task inside of one.",
        related=("InitializationError", "TraceDoesNotAllowNestedTasksError"),
    ),
    "SyncTaskCallInAsyncContextError": real_words(
        meaning="An async task called a sync task without `await`. That would block the loop which drives the run.",
        on_cluster="At the call. The run would otherwise hang.",
        here="The same.",
        recover=in_a_run(
            "SyncTaskCallInAsyncContextError",
            tasks="""
@env.task
def double(x: int) -> int:
    return 2 * x
""",
            attempt='f"{double(21)}"',
            recover='f"{await double.aio(21)}"',
        ),
        prevent="In async code always `await task.aio(...)` for tasks that are not async themselves.",
        related=("TraceDoesNotAllowNestedTasksError", "OnlyAsyncIOSupportedError"),
    ),
    "TraceDoesNotAllowNestedTasksError": real_words(
        meaning="A task was called from a function with `@flyte.trace`. Tasks nest under tasks, not under traces.",
        on_cluster="At the call.",
        here="The same.",
        recover=in_a_run(
            "TraceDoesNotAllowNestedTasksError",
            tasks="""
@env.task
async def double(x: int) -> int:
    return 2 * x


@flyte.trace
async def traced(x: int, *, as_task: bool) -> int:
    return await double(x) if as_task else await double.forward(x)  # forward: the function itself
""",
            attempt='f"{await traced(21, as_task=True)}"',
            recover='f"{await traced(21, as_task=False)}"',
        ),
        prevent="Call the task from a task, or its plain function (`task.forward(...)`) from the trace.",
        related=("SyncTaskCallInAsyncContextError", "NotInTaskContextError"),
    ),
    "ActionNotFoundError": Words(
        meaning="An action (a task that was called once inside a run) does not exist.",
        on_cluster=f"{_NOWHERE} It is no BaseRuntimeError: it has neither kind, code nor worker.",
        here="Not by itself.",
        recover=by_hand(
            "ActionNotFoundError",
            '"there is no action a7 in this run"',
            doing="look_up",
            recover='print("list the actions of the run, and take a name from there")',
            coded=False,
        ),
        prevent="Take names of actions from the run itself.",
        related=("BaseRuntimeError", "RemoteTaskNotFoundError"),
    ),
    "ConditionTimedoutError": Words(
        meaning="A task waited for an answer (`flyte.new_condition`), and none came in time.",
        on_cluster="From `condition.wait()`, when `timeout` of the condition passes.",
        here=_NO_CONDITIONS,
        recover=by_hand(
            "ConditionTimedoutError",
            "\"Condition 'approve' was not signaled within 60 seconds.\"",
            doing="wait_for_approval",
            recover='print("nobody answered: taken as a no")',
        ),
        prevent="Allow more time, have the condition's webhook tell somebody, and decide what silence means.",
        related=("ConditionFailedError", "ConditionNotFoundError", "ConditionAlreadyExistsError", "TaskTimeoutError"),
    ),
    "ConditionFailedError": Words(
        meaning="A condition that a task waits for ended in an error instead of an answer.",
        on_cluster="From `condition.wait()`, when the condition's action fails.",
        here=_NO_CONDITIONS,
        recover=by_hand(
            "ConditionFailedError",
            "\"Condition 'approve' failed.\"",
            doing="wait_for_approval",
            recover='print("could not be asked: taken as a no")',
        ),
        prevent="Nothing that code can do; decide what the task does without an answer.",
        related=("ConditionTimedoutError", "ConditionNotFoundError", "ConditionAlreadyExistsError"),
    ),
    "ConditionNotFoundError": Words(
        meaning="A condition of that name does not exist in the action.",
        on_cluster=_NOWHERE,
        here="Not by itself.",
        recover=by_hand(
            "ConditionNotFoundError",
            "\"Condition 'aprove' does not exist.\"",
            doing="signal_approval",
            recover='print("take the name from the condition itself: condition.name")',
        ),
        prevent="Keep the condition that `flyte.new_condition` returns, and use its name.",
        related=("ConditionAlreadyExistsError", "ConditionFailedError", "ConditionTimedoutError"),
    ),
    "ConditionAlreadyExistsError": Words(
        meaning="The action already has a condition of that name.",
        on_cluster=_NOWHERE,
        here="Not by itself.",
        recover=by_hand(
            "ConditionAlreadyExistsError",
            "\"Condition 'approve' already exists.\"",
            doing="ask_again",
            recover='print("give the second one a name of its own: approve-2")',
        ),
        prevent="Give each condition of an action its own name.",
        related=("ConditionNotFoundError", "ConditionFailedError", "ConditionTimedoutError"),
    ),
}
"""By class name; each is about code, and most are raised at the wrong call."""
