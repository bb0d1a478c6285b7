"""Failures to show: one that a person meets, and one that holds everything a task could write to break a view."""

from __future__ import annotations

from dataclasses import replace

from flyte_notebook.core.job import InputFact
from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.core.outcome import Failure, Growth, LastLine, SourceLine, Suggestion, WorkerReport
from flyte_notebook.core.trace import MemoryTrace

MI = 2**20


class OOMError(Exception):
    """Stands for the class of the same name: a view reads no more than that name."""


LINES = (
    SourceLine(file="In [3]", number=12, text="total = load(frame)", function="pipeline"),
    SourceLine(file="In [3]", number=4, text="    return [0] * 10**9", function="load"),
)

OOM = Failure(
    error=OOMError("Pod failed."),
    kind="user",
    code="OOMKilled",
    worker="run-a1-0",
    message="Pod failed.\nMessage: ",
    reason="memory",
    headline="ran out of memory (limit 250 MiB) after 0.21 s, on line 4: `return [0] * 10**9`",
    task_name="oomer",
    attempt=0,
    max_attempts=3,
    limits=Limits(memory_bytes=250 * MI, cpu_cores=0.5, max_runtime_s=30.0),
    report=WorkerReport(
        enforcement=Enforcement(memory="cgroup_v1", cpu="cgroup_v1"),
        trace=MemoryTrace(peak_bytes=125 * MI, baseline_bytes=36 * MI, peak_source="kernel counter"),
    ),
    line=LINES[-1],
    lines=LINES,
    traceback="Traceback (most recent call last):\n  the worker's own",
    output_tail="epoch 1\nepoch 2\n",
    inputs=(InputFact(name="x", type_name="int", size_bytes=28),),
    suggestions=(Suggestion(sentence="Try 500Mi, twice the limit.", limits=Limits(memory_bytes=500 * MI)),),
)

SEEN = replace(
    OOM,
    report=replace(
        OOM.report,
        last_line=LastLine(stack=LINES, age_s=0.0042, how="sampled"),
        grew=(
            Growth(line=LINES[1], grew_bytes=180 * MI),
            Growth(line=SourceLine(file="In [3]", number=5, text="del old"), grew_bytes=-20 * MI),
            Growth(line=LINES[0], grew_bytes=10 * MI),
        ),
    ),
)

NASTY = (
    "</pre></section><script>alert(1)</script><img src=x onerror='alert(2)'>\"&'"
    "\x1b[31mred\x1b[0m\x00\x08\x9b1m\udcff\u202e"
)


def hostile(text: str) -> Failure:
    """Return a failure with ``text`` in every place that a task can write to."""
    line = SourceLine(file=text, number=7, text=text, function=text)
    return replace(
        OOM,
        error=type("Hostile", (Exception,), {})(text),
        code=text,
        kind=text,
        worker=text,
        wire_code=text,
        message=text,
        headline=text,
        task_name=text,
        line=line,
        lines=(line,) * 500,
        traceback=text,
        output_tail=text,
        inputs=tuple(InputFact(name=text, type_name=text, size_bytes=1) for _ in range(500)),
        suggestions=tuple(Suggestion(sentence=text, limits=Limits()) for _ in range(500)),
        report=replace(
            OOM.report,
            output_tail=text,
            enforcement=Enforcement(hints=(text,) * 500),
            last_line=LastLine(stack=(line,)),
            grew=(Growth(line=line, grew_bytes=2**62),) * 500,
            no_line=text,
            trace=MemoryTrace(peak_bytes=2**62, peak_source=text),
        ),
    )
