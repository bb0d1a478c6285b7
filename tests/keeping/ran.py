"""Runs to keep: one with everything that can be said of a run, and one with little."""

from __future__ import annotations

from dataclasses import replace

from flyte_notebook.core.job import InputFact
from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.core.outcome import Failure, Growth, LastLine, SourceLine, Success, Suggestion, WorkerReport
from flyte_notebook.core.trace import MemoryTrace
from flyte_notebook.errors import OOMError
from flyte_notebook.history import Attempt, Rerun, Run

MI = 2**20
SECRET = "what nobody may find"  # noqa: S105 - a value that a test looks for

LIMITS = Limits(
    memory_bytes=250 * MI,
    memory_request_bytes=100 * MI,
    cpu_cores=0.5,
    max_runtime_s=30.0,
    max_queued_time_s=5.0,
    deadline_s=60.0,
    max_inline_io_bytes=10 * MI,
)
TRACE = MemoryTrace(
    times_s=(0.0, 0.5, 1.25),
    memory_bytes=(40 * MI, 200 * MI, 240 * MI),
    limit_bytes=250 * MI,
    baseline_bytes=39 * MI,
    peak_bytes=249 * MI,
    peak_source="kernel counter",
    page_cache_bytes=3 * MI,
)
HELD = Enforcement(memory="cgroup_v1", cpu="affinity", hints=("say `please`",))
LINE = SourceLine(file="In [3]", number=4, text="big = [0] * 10**9", function="load")
REPORT = WorkerReport(
    exit_status=137,
    signal=9,
    oom_kills=1,
    stage="running",
    trace=TRACE,
    enforcement=HELD,
    output_tail="epoch 1\n",
    queued_for_s=0.125,
    duration_s=1.25,
    ready_after_s=0.25,
    last_line=LastLine(stack=(LINE,), age_s=0.004, how="stopped"),
    grew=(Growth(line=LINE, grew_bytes=-5),),
    no_line="no reason at all",
)
FAILURE = Failure(
    error=OOMError("OOMKilled", "Pod failed.", "r-a1-0"),
    kind="user",
    code="OOMKilled",
    wire_code="OOM",
    worker="r-a1-0",
    message="Pod failed. \udcff",
    reason="memory",
    headline="needed more than 250 MiB",
    note="a cluster says so too",
    task_name="oomer",
    attempt=1,
    max_attempts=3,
    limits=LIMITS,
    report=REPORT,
    line=LINE,
    lines=(replace(LINE, number=12, function="main"), LINE),
    traceback="Traceback: here",
    output_tail="epoch 1\n",
    inputs=(InputFact(name="x", type_name="int", size_bytes=28),),
    suggestions=(Suggestion(sentence="Try 500Mi.", limits=Limits(memory_bytes=500 * MI)),),
    retried_as_system_failure=True,
)


def full_run(name: str = "outer-1") -> Run:
    """Return a run with two actions, a retry, and a failure that its caller let through."""
    run = Run(
        name=name,
        task_name="outer",
        failure=FAILURE,
        outputs={"result": SECRET},
        cached=True,
        purpose=Rerun(of="earlier-a0-0", changed="1Gi", cell=True, background=True),
        advice="64Mi would do",
        remote=True,
        url="https://flyte.example.com/runs/outer-1",
    )
    success = Success(answer=SECRET.encode(), report=replace(REPORT, enforcement=HELD))
    inner = Attempt(number=1, worker="r-a1-0", limits=LIMITS, outcome=FAILURE, trace=TRACE, duration_s=1.25)
    outer = replace(inner, worker="r-a0-0", limits=Limits(), trace=MemoryTrace(), duration_s=2.5)
    run.begin_action("a0", "outer", None, Limits()).attempts.append(outer)
    again = replace(inner, number=2, worker="r-a1-1", outcome=success)
    run.begin_action("a1", "oomer", "a0", LIMITS).attempts.extend([inner, again])
    return run


def small_run(name: str, *, peak_mi: int = 100, limit_mi: int = 250, task_name: str = "oomer") -> Run:
    """Return a run that passed."""
    trace = MemoryTrace(
        times_s=(0.0, 0.5, 1.0),
        memory_bytes=(40 * MI, peak_mi * MI, 60 * MI),
        limit_bytes=limit_mi * MI,
        baseline_bytes=40 * MI,
        peak_bytes=peak_mi * MI,
        peak_source="kernel counter",
    )
    limits = Limits(memory_bytes=limit_mi * MI)
    success = Success(answer=b"", report=WorkerReport(trace=trace))
    run = Run(name=name, task_name=task_name)
    attempt = Attempt(number=1, worker=f"{name}-a0-0", limits=limits, outcome=success, trace=trace, duration_s=1.0)
    run.begin_action("a0", task_name, None, limits).attempts.append(attempt)
    return run
