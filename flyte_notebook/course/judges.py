"""How each exercise is judged: by class, code, attempts, limits against peaks, and the order of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flyte_notebook.core.outcome import Success
from flyte_notebook.core.units import format_memory
from flyte_notebook.course.exercise import Step
from flyte_notebook.course.facts import (
    calls,
    failures_inside,
    how_it_failed,
    last_attempt,
    name_of,
    own_failure,
    passed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flyte_notebook.history import Run

MIB: Final = 1 << 20
LIST_BYTES: Final = 15_000_000 * 8
"""What the list of exercises 1a and 6a takes at least."""

ROOM: Final = 1.3
"""How far above its peak the limit of exercise 6a may be."""

MENDED_BYTES: Final = 64 * MIB
"""How much memory a mended cell may take above the baseline in exercise 6b."""

WORDS: Final = 15_000_000
"""The result of exercise 6b."""

FAULTS: Final = 5


def gets_enough(runs: Sequence[Run], _given: Mapping[str, object]) -> Iterator[Step]:
    """1a: it passes with a limit of at most twice its peak."""
    run = runs[-1]
    yield Step(
        passed(run),
        "It succeeded.",
        f"It failed, {how_it_failed(run)}. Raise `--memory`, or type a limit into the form below the card.",
    )
    yield from _whole_with_a_limit(run)
    limit_bytes, peak_bytes = _limit_and_peak(run)
    facts = f"{format_memory(limit_bytes)}, and its peak was {format_memory(peak_bytes)}"
    yield Step(
        limit_bytes <= 2 * peak_bytes,
        f"Its limit is {facts}.",
        f"Its limit is {facts}. On a cluster all of the limit is reserved: choose one of at most twice the peak.",
    )


def names_the_line(runs: Sequence[Run], given: Mapping[str, object]) -> Iterator[Step]:
    """1b: the number given is that of the line that failed."""
    failure = runs[-1].failure
    yield Step(failure is not None, "It failed.", "It succeeded. Give it its limit back: it is meant to fail.")
    line = None if failure is None else failure.line
    yield Step(
        line is not None,
        "Its line is known.",
        "The line is not known on this machine; `%flyte doctor` says why. Go on with the next exercise.",
    )
    assert line is not None
    number = given.get("line")
    yield Step(number is not None, "", 'Give the number of the line: `course.check("1b", line=...)`.')
    yield Step(
        number == line.number,
        f"Line {line.number} asked for the memory: `{line.text.strip()}`.",
        f"It is not line {number}. The card marks the line; lines count from `%%flyte_task`, which is line 1.",
    )


def recovers_from_oom(runs: Sequence[Run], _given: Mapping[str, object]) -> Iterator[Step]:
    """2a: an OOM was caught, and the same task passed with a higher limit."""
    run = runs[-1]
    built = calls(run, "build")
    killed = [action for action, failure in failures_inside(run) if failure.code == "OOMKilled"]
    yield Step(
        bool(killed),
        "`build` ran out of memory.",
        "`build` did not run out of memory, so there was nothing to catch. Leave its limit at 150Mi.",
    )
    limit_bytes = killed[0].limits.memory_bytes or 0
    higher = [one for one in built if (one.limits.memory_bytes or 0) > limit_bytes]
    yield Step(
        passed(run) or bool(higher),
        "The OOMError was caught.",
        f"The error was not caught, and ended `careful`: {how_it_failed(run)}. Catch `flyte.errors.OOMError`.",
    )
    yield Step(
        bool(higher),
        "`build` ran again with a higher limit.",
        "The error was caught, but `build` did not run again with more memory. "
        '`build.override(resources=flyte.Resources(memory="..."))` is the same task with another limit.',
    )
    yield Step(
        any(isinstance(one.outcome, Success) for one in higher) and passed(run),
        "It succeeded.",
        f"`build` ran again with {format_memory(higher[-1].limits.memory_bytes or 0)}, and that was not enough either.",
    )


def catches_one_code(runs: Sequence[Run], _given: Mapping[str, object]) -> Iterator[Step]:
    """2b: a KeyError is caught, and any other error is raised again."""
    codes = [next((failure.code for _, failure in failures_inside(run)), "") for run in runs]
    last = max((number for number, code in enumerate(codes) if code == "KeyError"), default=None)
    unknown = None if last is None else runs[last]
    yield Step(
        unknown is not None,
        "`lookup` raised a KeyError.",
        'No run had a KeyError. Run `flyte.run(price, "plum")`: there is no price for a plum.',
    )
    assert unknown is not None
    yield Step(
        passed(unknown),
        "The KeyError was caught.",
        "The KeyError ended the run. What a task raises arrives as `flyte.errors.RuntimeUserError`; its `code` is the "
        "name of the class.",
    )
    after = slice(None if last is None else last + 1, None)
    later = [(code, run) for code, run in zip(codes[after], runs[after], strict=True) if code]
    yield Step(
        bool(later),
        "`lookup` raised another error, too.",
        'No run after that had another error. Run `flyte.run(price, "")`, too: that ValueError must stay an error.',
    )
    code, other = later[-1]
    yield Step(
        not passed(other),
        f"The {code} was not swallowed.",
        f"The {code} was swallowed: that run succeeded. Raise again what is not a KeyError.",
    )
    assert other.failure is not None
    yield Step(
        other.failure.code == code,
        f"It arrived as a {code}.",
        f"The {code} became {how_it_failed(other)}. A plain `raise` keeps the error that was caught.",
    )


def retries_what_passes(runs: Sequence[Run], _given: Mapping[str, object]) -> Iterator[Step]:
    """3a: the third attempt succeeded, after two with a ConnectionError."""
    run = runs[-1]
    attempts = run.actions[0].attempts
    count = f"{len(attempts)} attempt{'' if len(attempts) == 1 else 's'}"
    yield Step(
        passed(run),
        "It succeeded.",
        f"It failed after {count}, {how_it_failed(run)}. Allow more attempts: `@env.task(retries=...)`, or "
        "`fetch.override(retries=...)`.",
    )
    codes = [failure.code for failure in map(own_failure, attempts) if failure is not None]
    yield Step(
        codes == ["ConnectionError", "ConnectionError"],
        "Its first two attempts had a ConnectionError, and the third succeeded.",
        f"It succeeded in {count}, and Flyte retried nothing that you could see. The server answers every third call: "
        "leave the task's code as it was, and let Flyte try again.",
    )


def gives_up_at_once(runs: Sequence[Run], _given: Mapping[str, object]) -> Iterator[Step]:
    """3b: bad input has one attempt although retries are allowed."""
    run = runs[-1]
    failure = run.failure
    yield Step(
        failure is not None,
        "Bad input is an error.",
        "It succeeded. Text that is no number has no result: it must stay an error.",
    )
    assert failure is not None
    yield Step(
        failure.max_attempts > 1,
        f"It may have {failure.max_attempts} attempts.",
        "The task has no retries any more. Keep them: they are for errors that pass.",
    )
    count = len(run.actions[0].attempts)
    yield Step(
        count == 1,
        "It had one attempt.",
        f"It had {count} attempts, though the same text fails each time. `flyte.errors.NonRecoverableError` is not "
        "retried: raise it from the error.",
    )
    yield Step(
        failure.code == "NonRecoverableError",
        "It said so with a NonRecoverableError.",
        f"It ended with {how_it_failed(run)}. Raise `flyte.errors.NonRecoverableError`.",
    )


def returns_a_part(runs: Sequence[Run], given: Mapping[str, object]) -> Iterator[Step]:
    """4: a timeout was caught, and the caller returned something."""
    run = runs[-1]
    late = [failure for _, failure in failures_inside(run) if failure.reason == "max_runtime"]
    yield Step(
        bool(late),
        "`search` was stopped after its time.",
        "`search` was not stopped, so there was nothing to catch. Leave its timeout and the pages as they were.",
    )
    yield Step(
        passed(run),
        "The timeout was caught.",
        "The timeout was not caught, and ended `summary`. Catch `flyte.errors.MaxRuntimeExceededError`; Python's own "
        "`TimeoutError` is another class.",
    )
    found = given.get("found")
    yield Step(
        bool(found),
        f"`summary` returned {found!r}.",
        "`summary` returned nothing. Return what is known without the search, and give it to the check: "
        '`course.check("4", found=run.outputs()[0])`.',
    )


def gathers_and_cleans_up(runs: Sequence[Run], given: Mapping[str, object]) -> Iterator[Step]:
    """5: ten calls, two failures caught, the sum of the others, and the clean-up last."""
    run = runs[-1]
    squares = calls(run, "square")
    failed = [action for action, _ in failures_inside(run) if name_of(action.task_name) == "square"]
    yield Step(
        len(squares) == 10 and len(failed) == 2,  # noqa: PLR2004 - as the text of the exercise says
        "Ten calls ran, and two of them failed.",
        f"{len(squares)} calls of `square` ran, and {len(failed)} failed. Call it with each of `range(10)`: two are "
        "meant to fail.",
    )
    yield Step(
        passed(run),
        "Their errors were caught.",
        f"An error ended `batch`: {how_it_failed(run)}. `asyncio.gather(..., return_exceptions=True)` returns errors "
        "beside the results.",
    )
    cleaned = calls(run, "clean_up")
    yield Step(bool(cleaned), "`clean_up` ran.", "`clean_up` did not run. Call it in `finally`.")
    yield Step(
        calls(run)[-1] is cleaned[-1],
        "It ran last.",
        f"After `clean_up` came `{name_of(calls(run)[-1].task_name)}`. Call it when everything else has ended.",
    )
    yield Step("total" in given, "", 'Give the result to the check: `course.check("5", total=run.outputs()[0])`.')
    expected = sum(number * number for number in range(10) if number not in {3, 7})
    yield Step(
        given["total"] == expected,
        f"The sum of the others is {expected}.",
        f"`batch` returned {given['total']!r}, and the sum of the eight results is {expected}.",
    )


def fits_the_limit(runs: Sequence[Run], _given: Mapping[str, object]) -> Iterator[Step]:
    """6a: it passes, with a limit at most 30% above its peak."""
    run = runs[-1]
    yield Step(passed(run), "It succeeded.", f"It failed, {how_it_failed(run)}. Its limit is too small.")
    yield from _whole_with_a_limit(run)
    limit_bytes, peak_bytes = _limit_and_peak(run)
    above = limit_bytes / peak_bytes - 1
    facts = f"{format_memory(limit_bytes)}, {above:.0%} above its peak of {format_memory(peak_bytes)}"
    yield Step(
        limit_bytes <= ROOM * peak_bytes,
        f"Its limit is {facts}.",
        f"Its limit is {facts}. At most {ROOM - 1:.0%} is asked for; `--memory fit` finds a limit.",
    )


def leaks_no_more(runs: Sequence[Run], given: Mapping[str, object]) -> Iterator[Step]:
    """6b: the result is the same, with little memory above the baseline."""
    run = runs[-1]
    yield Step(passed(run), "It succeeded.", f"It failed, {how_it_failed(run)}. Memory still grows on that line.")
    yield Step("total" in given, "", 'Give the result to the check: `course.check("6b", total=total)`.')
    yield Step(
        given["total"] == WORDS,
        f"Its result is {WORDS:,}.",
        f"Its result is {given['total']!r} and not {WORDS:,}. Count the words of all 30,000 pages.",
    )
    trace = last_attempt(run).trace
    above_bytes = (trace.peak_bytes or 0) - (trace.baseline_bytes or 0)
    yield Step(
        above_bytes < MENDED_BYTES,
        f"Its peak is {format_memory(above_bytes)} above what Python and Flyte use.",
        f"Its peak is {format_memory(above_bytes)} above what Python and Flyte use: it still keeps the words. To count "
        f"them takes less than {format_memory(MENDED_BYTES)}.",
    )


def survives_five_faults(runs: Sequence[Run], _given: Mapping[str, object]) -> Iterator[Step]:
    """8: five different codes inside, and the run succeeded."""
    run = runs[-1]
    codes = sorted({failure.code for _, failure in failures_inside(run)})
    said = ", ".join(codes) or "none"
    yield Step(
        passed(run),
        "The pipeline succeeded.",
        f"An error ended `pipeline`: {how_it_failed(run)}. The errors inside so far: {said}.",
    )
    yield Step(
        len(codes) >= FAULTS,
        f"It survived {said}.",
        f"The pipeline met {len(codes)} of its {FAULTS} faults: {said}. Call each of the five tasks as it is.",
    )


def _whole_with_a_limit(run: Run) -> Iterator[Step]:
    """Hold a cell with the list of exercises 1a and 6a to its code and to having a limit."""
    limit_bytes, peak_bytes = _limit_and_peak(run)
    yield Step(bool(limit_bytes), "It has a limit.", "It ran without a limit. Write one, as in `--memory 500Mi`.")
    yield Step(
        peak_bytes >= LIST_BYTES,
        "Its list is as long as it was.",
        f"Its peak was {format_memory(peak_bytes)}, so its list is shorter now. Leave the cell's code as it was.",
    )


def _limit_and_peak(run: Run) -> tuple[int, int]:
    """Return limit and peak of the last attempt, 0 where there is none."""
    attempt = last_attempt(run)
    return attempt.limits.memory_bytes or 0, attempt.trace.peak_bytes or 0
