"""The parts of a card that open on demand: the meaning of the error, and all facts about the attempt."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from flyte_notebook import catalogue
from flyte_notebook.core.units import format_cpu, format_duration, format_memory
from flyte_notebook.views.markup import line, with_code
from flyte_notebook.views.text import clean, codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.core.outcome import Failure

INPUTS: Final = 50
PROGRAM_CHARACTERS: Final = 3_000

_PRECISION: Final = {
    "kernel counter": "exact, from the kernel's counter",
    "samples": "the largest sample: a lower bound",
}


def meaning_html(failure: Failure) -> str:
    """Return the meaning of the error and code to recover from it; empty if it is not in the catalogue."""
    name = type(failure.error).__name__
    try:
        found = catalogue.explain(failure.error)
    except (LookupError, TypeError):
        return ""
    parts = [
        f'<p dir="auto">{with_code(found.meaning)}</p>',
        f'<h4>What to change</h4><p dir="auto">{with_code(found.prevent)}</p>',
        f"<h4>Recover in code</h4><pre>{escape(clean(found.recover, PROGRAM_CHARACTERS).rstrip())}</pre>",
    ]
    return f"<details><summary>What {line(name, 120)} means, and how to recover</summary>{''.join(parts)}</details>"


def details_html(failure: Failure) -> str:
    """Return limits and their mechanisms, times, counters and inputs as a table."""
    rows = "".join(
        f'<tr><th scope="row">{line(name)}</th><td dir="auto">{line(value, 300)}</td></tr>'
        for name, value in _rows(failure)
    )
    return f"<details><summary>Details</summary><table><tbody>{rows}</tbody></table>{_inputs(failure)}</details>"


def _rows(failure: Failure) -> Iterator[tuple[str, str]]:
    limits, report = failure.limits, failure.report
    held = report.enforcement
    yield "task", failure.task_name
    yield "worker", failure.worker or "none: it came from no attempt"
    yield "attempt", f"{failure.attempt + 1} of {failure.max_attempts}"
    yield "kind and code", f"{failure.kind}, {codes(failure)}"
    memory = "no limit" if limits.memory_bytes is None else format_memory(limits.memory_bytes)
    yield "memory limit", f"{memory}; held by: {held.memory_words}"
    trace = report.trace
    if trace.peak_bytes is not None:
        exact = _PRECISION.get(trace.peak_source, trace.peak_source)
        yield "memory peak", f"{format_memory(trace.peak_bytes)}; {exact}"
    if trace.baseline_bytes is not None:
        yield "interpreter and imports", format_memory(trace.baseline_bytes)
    if limits.cpu_cores is not None:
        yield "CPU limit", f"{format_cpu(limits.cpu_cores)}; held by: {held.cpu_words}"
    yield from ((name, format_duration(seconds)) for name, seconds in limits.times().items())
    yield "waited to start", format_duration(report.queued_for_s)
    if report.ready_after_s is not None:
        yield "worker ready after", format_duration(report.ready_after_s)
    yield "ran", format_duration(report.ran_s)
    yield from _endings(failure)


def _endings(failure: Failure) -> Iterator[tuple[str, str]]:
    report = failure.report
    if report.exit_status is not None:
        yield "exit status", str(report.exit_status)
    if report.signal is not None:
        yield "signal", str(report.signal)
    if report.oom_kills:
        yield "kills for memory", f"{report.oom_kills}, counted by the kernel in this attempt's own group"
    if report.no_line:
        yield "line at the end", f"cannot be seen: {report.no_line}"


def _inputs(failure: Failure) -> str:
    if not failure.inputs:
        return ""
    rows = "".join(
        f"<tr><td><bdi>{line(fact.name, 100)}</bdi></td><td><bdi>{line(fact.type_name, 100)}</bdi></td>"
        f"<td>{'' if fact.size_bytes is None else format_memory(fact.size_bytes)}</td></tr>"
        for fact in failure.inputs[:INPUTS]
    )
    more = len(failure.inputs) - INPUTS
    rest = f'<p class="fnb-soft">and {more} more</p>' if more > 0 else ""
    head = '<thead><tr><th scope="col">input</th><th scope="col">type</th><th scope="col">size</th></tr></thead>'
    return f"<table>{head}<tbody>{rows}</tbody></table>{rest}"
