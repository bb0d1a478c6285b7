"""Makes a run from the facts of `Run.to_dict`: plain values, each checked before it is used.

The file may come from an untrusted source. It cannot name code to run: an error gets its class by name from
`flyte_notebook.errors` or from Python's own, else a substitute class.

A missing field was not known to an earlier version and gets a value that means unknown; an unknown field is from a
later version and is ignored. An impossible value is an error: a chart of wrong numbers is worse than no chart.
"""

from __future__ import annotations

import builtins
import math
from operator import gt
from typing import Any, Final, TypeVar, get_args

from flyte_notebook import errors
from flyte_notebook.core.job import InputFact
from flyte_notebook.core.limits import CpuMechanism, Enforcement, Limits, MemoryMechanism
from flyte_notebook.core.outcome import (
    Failure,
    Growth,
    LastLine,
    Outcome,
    Raised,
    SourceLine,
    Stage,
    Success,
    Suggestion,
    TerminationReason,
    WorkerReport,
)
from flyte_notebook.core.stand_in import as_raised, attach
from flyte_notebook.core.trace import MemoryTrace, compact_sizes, compact_times
from flyte_notebook.history import FACTS_VERSION, Attempt, Run, purpose_of

_T = TypeVar("_T")
_MISSING: Final = object()
_SHOWN: Final = 60
_LARGEST: Final = 2**63 - 1
_NAME: Final = 200
_EXACT: Final = frozenset({"message", "traceback", "output_tail", "text"})
"""Texts that are kept exactly, letter by letter."""

_NAMES: Final = frozenset({"name", "task_name", "worker", "parent", "rerun_of", "code", "kind", "type", "function"})


class FactsError(ValueError):
    """The facts about a run are invalid; the message names the fact, and its value."""


def run_from(facts: Any, *, saved_s: float | None = None) -> Run:  # noqa: ANN401 - any value from a file
    """Return the run from the facts of `Run.to_dict`. Raises `FactsError`, also for facts of a later version."""
    if not isinstance(facts, dict):
        raise FactsError(f"the facts about a run are {_shown(facts)}")
    version = _one(facts, "version", int, FACTS_VERSION)
    if version > FACTS_VERSION:
        raise FactsError(f"a later version of flyte_notebook wrote it (facts {version}, here {FACTS_VERSION})")
    failures = [_failure(one) for one in _dicts(facts, "failures")]
    run = Run(
        name=_one(facts, "name", str),
        task_name=_one(facts, "task_name", str),
        cached=_one(facts, "cached", bool, False),
        purpose=purpose_of(
            lands=_one(facts, "lands", bool, False),
            apart=_one(facts, "apart", bool, False),
            of_fit=_one(facts, "of_fit", bool, False),
            rerun_of=_maybe(facts, "rerun_of", str),
            rerun_with=_one(facts, "rerun_with", str, ""),
        ),
        advice=_one(facts, "advice", str, ""),
        remote=_one(facts, "remote", bool, False),
        url=_one(facts, "url", str, ""),
        saved_s=saved_s,
    )
    for one in _dicts(facts, "actions"):
        action = run.begin_action(
            _one(one, "name", str), _one(one, "task_name", str), _maybe(one, "parent", str), _limits(one)
        )
        action.attempts += [_attempt(attempt, failures) for attempt in _dicts(one, "attempts")]
    written = _maybe(facts, "failure", dict)
    if written is not None:  # the same object as that of its attempt, if it was so
        known = [place for place, one in enumerate(facts.get("failures", ())) if one == written]
        run.failure = failures[known[0]] if known else _failure(written)
    return run


def _attempt(facts: dict[str, Any], failures: list[Failure]) -> Attempt:
    place = _maybe(facts, "failure", int)
    if place is not None and not 0 <= place < len(failures):
        raise FactsError(f"failure is {place}, and there are {len(failures)}")
    trace, duration_s = _trace(facts), _seconds(facts, "duration_s")
    report = WorkerReport(
        stage="finished",
        trace=trace,
        enforcement=_enforcement(facts),
        queued_for_s=_seconds(facts, "queued_for_s"),
        duration_s=duration_s,
    )
    outcome: Outcome = Success(answer=b"", report=report) if place is None else failures[place]
    return Attempt(
        number=_one(facts, "number", int),
        worker=_one(facts, "worker", str),
        limits=_limits(facts),
        outcome=outcome,
        trace=trace,
        duration_s=duration_s,
    )


def _failure(facts: dict[str, Any]) -> Failure:
    line = _maybe(facts, "line", dict)
    where = None if line is None else _line(line)
    failure = Failure(
        error=_error(facts),
        kind=_one(facts, "kind", str),
        code=_one(facts, "code", str),
        wire_code=_maybe(facts, "wire_code", str),
        worker=_one(facts, "worker", str),
        message=_one(facts, "message", str),
        reason=_of(facts, "reason", TerminationReason),
        headline=_one(facts, "headline", str),
        note=_one(facts, "note", str, ""),
        task_name=_one(facts, "task_name", str),
        attempt=_one(facts, "attempt", int) - 1,
        max_attempts=_one(facts, "max_attempts", int),
        limits=_limits(facts),
        report=_report(facts, where),
        line=where,
        lines=tuple(_line(one) for one in _dicts(facts, "lines")),
        traceback=_one(facts, "traceback", str, ""),
        output_tail=_one(facts, "output_tail", str, ""),
        inputs=tuple(
            InputFact(
                name=_one(one, "name", str), type_name=_one(one, "type", str), size_bytes=_size(one, "size_bytes")
            )
            for one in _dicts(facts, "inputs")
        ),
        suggestions=tuple(
            Suggestion(sentence=_one(one, "sentence", str), limits=Limits(memory_bytes=_size(one, "memory_bytes")))
            for one in _dicts(facts, "suggestions")
        ),
        retried_as_system_failure=_one(facts, "retried_as_system_failure", bool, False),
    )
    attach(failure.error, "failure", failure)
    return failure


def _report(facts: dict[str, Any], line: SourceLine | None) -> WorkerReport:
    seen = _maybe(facts, "line_seen", dict)
    last_line = None
    if seen is not None and line is not None:
        how = "stopped" if _one(seen, "how", str) == "stopped" else "sampled"
        last_line = LastLine(stack=(line,), age_s=_seconds(seen, "before_end_s"), how=how)  # type: ignore[arg-type] # mypy takes both words for any text
    return WorkerReport(
        exit_status=_maybe(facts, "exit_status", int),
        signal=_maybe(facts, "signal", int),
        oom_kills=_one(facts, "oom_kills", int, 0),
        stage=_of(facts, "stage", Stage),
        trace=_trace(facts),
        enforcement=_enforcement(facts),
        output_tail=_one(facts, "output_tail", str, ""),
        queued_for_s=_seconds(facts, "queued_for_s"),
        duration_s=_seconds(facts, "duration_s"),
        ready_after_s=None if facts.get("ready_after_s") is None else _seconds(facts, "ready_after_s"),
        last_line=last_line,
        grew=tuple(Growth(line=_line(one), grew_bytes=_one(one, "bytes", int)) for one in _dicts(facts, "grew")),
        no_line=_one(facts, "no_line", str, ""),
    )


def _error(facts: dict[str, Any]) -> BaseException:
    """Return an error of the named class; no code of the class is run, not even its ``__init__``."""
    name, message = _one(facts, "error", str)[:_NAME], _one(facts, "message", str)
    known = vars(errors).get(name)
    fields: dict[str, Any] | None = None
    if isinstance(known, type) and issubclass(known, errors.ROOTS):
        fields = {
            "class": f"{known.__module__}:{known.__qualname__}",
            "bases": [],
            "code": _one(facts, "code", str),
            "kind": _one(facts, "kind", str),
            "worker": _one(facts, "worker", str) or None,
            "message": message,
            "args": (message,),
            "attributes": {},
        }
    module = "builtins" if hasattr(builtins, name) else __name__
    raised = Raised(type_name=name, module=module, message=message, traceback="", fields=fields)
    return as_raised(raised, None)


def _trace(facts: dict[str, Any]) -> MemoryTrace:
    trace = _maybe(facts, "memory", dict) or {}
    times, memory = _one(trace, "times_s", list, []), _one(trace, "memory_bytes", list, [])
    # All at once: a file may have a million of them.
    if not set(map(type, times)) <= {int, float} or not set(map(type, memory)) <= {int}:
        raise FactsError("the samples of memory are no numbers")
    if len(times) != len(memory) or not math.isfinite(sum(times)) or any(map(gt, times, times[1:])):
        raise FactsError(f"{len(memory)} samples of memory at {len(times)} times, or times that go back")
    for end in (min, max):
        _whole(end(memory, default=0), "memory_bytes")
        _number(end(times, default=0), "times_s")
    return MemoryTrace(
        times_s=compact_times(times),
        memory_bytes=compact_sizes(memory),
        limit_bytes=_size(trace, "limit_bytes"),
        baseline_bytes=_size(trace, "baseline_bytes"),
        peak_bytes=_size(trace, "peak_bytes"),
        peak_source=_one(trace, "peak_source", str, "samples"),
        page_cache_bytes=_size(trace, "page_cache_bytes") or 0,
    )


def _limits(facts: dict[str, Any]) -> Limits:
    limits = _maybe(facts, "limits", dict) or {}
    return Limits(
        memory_bytes=_size(limits, "memory_bytes"),
        memory_request_bytes=_size(limits, "memory_request_bytes"),
        cpu_cores=_positive(limits, "cpu_cores"),
        max_runtime_s=_positive(limits, "max_runtime_s"),
        max_queued_time_s=_positive(limits, "max_queued_time_s"),
        deadline_s=_positive(limits, "deadline_s"),
        max_inline_io_bytes=_size(limits, "max_inline_io_bytes"),
    )


def _enforcement(facts: dict[str, Any]) -> Enforcement:
    held = _maybe(facts, "enforcement", dict) or {"memory": "none", "cpu": "none"}
    hints = _one(held, "hints", list, [])
    return Enforcement(
        memory=_of(held, "memory", MemoryMechanism),
        cpu=_of(held, "cpu", CpuMechanism),
        hints=tuple(hint for hint in hints if isinstance(hint, str)),
    )


def _line(facts: dict[str, Any]) -> SourceLine:
    return SourceLine(
        file=_one(facts, "file", str),
        number=_one(facts, "number", int),
        text=_one(facts, "text", str),
        function=_one(facts, "function", str, ""),
    )


def _one(facts: dict[str, Any], name: str, kind: type[_T], default: Any = _MISSING) -> _T:  # noqa: ANN401 - a `kind`
    """Return the value of that name and kind; the default is used only if it is missing."""
    value = facts.get(name, default)
    if value is _MISSING:
        raise FactsError(f"{name} is missing")
    if type(value) is not kind or (isinstance(value, int) and abs(value) > _LARGEST):
        raise FactsError(f"{name} is {_shown(value)}")
    found: Any = value
    if kind is str and name not in _EXACT:  # Jupyter cannot send lone surrogates, and a name is a part of lines
        found = errors.short(found) if name in _NAMES else errors.sendable(found)
    return found  # type: ignore[no-any-return] # of the kind that was looked at before


def _maybe(facts: dict[str, Any], name: str, kind: type[_T]) -> _T | None:
    return None if facts.get(name) is None else _one(facts, name, kind)


def _dicts(facts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    members = _one(facts, name, list, [])
    for member in members:
        if not isinstance(member, dict):
            raise FactsError(f"{name} holds {_shown(member)}")
    return members


def _of(facts: dict[str, Any], name: str, words: Any) -> Any:  # noqa: ANN401 - a Literal, and one of its words
    value = _one(facts, name, str)
    if value not in get_args(words):
        raise FactsError(f"{name} is {_shown(value)}")
    return value


def _size(facts: dict[str, Any], name: str) -> int | None:
    return None if facts.get(name) is None else _whole(facts[name], name)


def _whole(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise FactsError(f"{name} is {_shown(value)}")
    return value


def _positive(facts: dict[str, Any], name: str) -> float | None:
    return None if facts.get(name) is None else _number(facts[name], name)


def _seconds(facts: dict[str, Any], name: str) -> float:
    return _number(facts.get(name, 0.0), name)


def _number(value: object, name: str) -> float:
    if type(value) not in {int, float} or not math.isfinite(value) or value < 0:  # type: ignore[arg-type,operator] # looked at just before
        raise FactsError(f"{name} is {_shown(value)}")
    return value  # type: ignore[return-value] # looked at just before


def _shown(value: object) -> str:
    text = ascii(value)[: _SHOWN + 1]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
