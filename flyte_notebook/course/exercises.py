"""The exercises of the course, with their hints."""

from __future__ import annotations

from typing import Final

from flyte_notebook.course import judges
from flyte_notebook.course.exercise import Exercise

EXERCISES: Final = (
    Exercise(
        name="1a",
        title="Give a cell enough memory",
        task="hungry",
        judge=judges.gets_enough,
        hints=(
            "The card says how much memory the cell was using and how much more it asked for. Add the two.",
            "Write a larger quantity, as in `--memory 200Mi`, and run the cell again. Twice the peak is the most.",
        ),
    ),
    Exercise(
        name="1b",
        title="Name the line",
        task="grows",
        judge=judges.names_the_line,
        asks=("line",),
        hints=(
            "Find the lines of code on the card, below the form. One of them is marked.",
            "The number is in front of the marked line. The line of `%%flyte_task` is line 1.",
        ),
    ),
    Exercise(
        name="2a",
        title="Recover from a task that ran out of memory",
        task="careful",
        judge=judges.recovers_from_oom,
        hints=(
            "Put `await build(size)` into `try`, and catch `flyte.errors.OOMError`.",
            'Call it again there: `await build.override(resources=flyte.Resources(cpu=1, memory="400Mi"))(size)`.',
        ),
    ),
    Exercise(
        name="2b",
        title="Catch one error and no other",
        task="price",
        judge=judges.catches_one_code,
        hints=(
            "What a task raises arrives as `flyte.errors.RuntimeUserError`. Its `code` is the name of the class.",
            'In the `except` block: `if error.code != "KeyError": raise`, and after that `return 0`.',
        ),
    ),
    Exercise(
        name="3a",
        title="Retry what may pass",
        task="fetch",
        judge=judges.retries_what_passes,
        hints=(
            "A task has one attempt, and as many more as it has `retries`.",
            "The third call succeeds: `@env.task(retries=2)`.",
        ),
    ),
    Exercise(
        name="3b",
        title="Do not retry what cannot pass",
        task="parse",
        judge=judges.gives_up_at_once,
        hints=(
            "Catch the ValueError inside the task, and raise an error that Flyte does not retry.",
            "`except ValueError as error: raise flyte.errors.NonRecoverableError(str(error)) from error`",
        ),
    ),
    Exercise(
        name="4",
        title="Return what there is when time is up",
        task="summary",
        judge=judges.returns_a_part,
        asks=("found",),
        hints=(
            "The card says which class arrived. Catch that one around the call of `search`.",
            '`except flyte.errors.MaxRuntimeExceededError: return "the first pages only"`',
        ),
    ),
    Exercise(
        name="5",
        title="Gather ten calls, two of which fail",
        task="batch",
        judge=judges.gathers_and_cleans_up,
        asks=("total",),
        hints=(
            "`return_exceptions=True` lets `asyncio.gather` return errors instead of raising the first.",
            "Add up what is no `BaseException`, and put `await clean_up()` into `finally`, around the `gather`.",
        ),
    ),
    Exercise(
        name="6a",
        title="Find the limit to keep",
        task="step",
        judge=judges.fits_the_limit,
        hints=(
            "Run the cell once with `--memory fit`. It says which limit to keep.",
            "Write that limit instead of `fit`, and run the cell again.",
        ),
    ),
    Exercise(
        name="6b",
        title="Mend a leak",
        task="leak",
        judge=judges.leaks_no_more,
        asks=("total",),
        hints=(
            "The card lists the lines on which memory grew. What is made there is kept somewhere.",
            "`seen` needs only how many words a page has: `seen.append(len(words))`.",
        ),
    ),
    Exercise(
        name="8",
        title="A pipeline that survives five faults",
        task="pipeline",
        judge=judges.survives_five_faults,
        hints=(
            "Four of them are subclasses of `flyte.errors.RuntimeUserError`, the fifth is a `RuntimeSystemError`.",
            "`flyte.errors.BaseRuntimeError` is the base of all five. Catch it around each call.",
        ),
    ),
)
"""All exercises, in the order of the course."""
