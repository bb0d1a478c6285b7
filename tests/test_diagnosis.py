"""Tests of the diagnosis: which facts make which error, in which words, and whether another attempt may help."""

from __future__ import annotations

import pickle
import signal
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import flyte.errors
import pytest
from flyte._internal.runtime import convert
from flyteidl2.core import execution_pb2

from flyte_notebook import errors
from flyte_notebook.core.diagnosis import diagnose
from flyte_notebook.core.endings import Left, Unanswered
from flyte_notebook.core.job import InputFact, Job
from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.core.outcome import (
    Failure,
    Growth,
    LastLine,
    PendingAllocation,
    Raised,
    RefusedAllocation,
    SourceLine,
    Success,
    WorkerReport,
)
from flyte_notebook.core.trace import MemoryTrace

if TYPE_CHECKING:
    from collections.abc import Callable

MI = 2**20
POD_FAILED = "Pod failed. No message received from kubernetes.\n[run-a1-0] terminated with exit code"
JOB = Job(
    label="oomer",
    run="run",
    action="a1",
    parent="a0",
    entry="module:function",
    payload=b"",
    max_attempts=3,
    limits=Limits(
        memory_bytes=250 * MI, max_runtime_s=1.0, max_queued_time_s=5.0, deadline_s=60.0, memory_request_bytes=100 * MI
    ),
    inputs=(InputFact(name="x", type_name="int", size_bytes=28),),
)
KERNEL = Enforcement(memory="cgroup_v1", cpu="cgroup_v1")
RUNNING = WorkerReport(stage="running", duration_s=0.213, enforcement=KERNEL)
OOM = replace(RUNNING, oom_kills=1, limit_reached=True, signal=9)
LINE = SourceLine(file="In [1]", number=3, text="    y = int(x)")
RAISED = Raised(
    type_name="ValueError",
    module="builtins",
    message="bad x",
    traceback='Traceback (most recent call last):\n  File "In [1]", line 3\n    y = int(x)\nValueError: bad x\n',
    lines=(SourceLine(file="In [1]", number=9, text="f(x)"), LINE),
    pickled=pickle.dumps(ValueError("bad x")),
)


def _failed(report: WorkerReport, job: Job = JOB, unpickle: Callable[[bytes], object] | None = None) -> Failure:
    outcome = diagnose(job, report, unpickle=unpickle)
    assert isinstance(outcome, Failure)
    assert outcome is outcome.error.failure
    assert isinstance(outcome.error.recoverable, bool)
    return outcome


def _raised(error: BaseException) -> WorkerReport:
    """Return the report of a worker in which user code raised that error."""
    raised = Raised(
        type_name=type(error).__name__,
        module=type(error).__module__,
        message=str(error),
        traceback=f"Traceback (most recent call last):\n{type(error).__name__}: {error}\n",
        fields=errors.pack(error),
    )
    return replace(RUNNING, raised=raised)


def test_an_answer_is_a_success() -> None:
    """An answer without a kill and without a tripped limit is a success that carries it."""
    report = replace(RUNNING, answer=b"result", stage="finished", exit_status=0)
    assert Success(answer=b"result", report=report) == diagnose(JOB, report)


def test_a_machine_that_ran_short_does_not_fail_a_task_that_ended_well() -> None:
    """An answer counts, also when the machine was short of memory meanwhile."""
    assert isinstance(diagnose(JOB, replace(RUNNING, answer=b"", machine_short=True)), Success)


@pytest.mark.parametrize(
    ("headline", "changes"),
    [
        ("ran out of memory (limit 250 MiB) after 0.21 s", {}),
        (
            "ran out of memory (limit 250 MiB) after 0.21 s, while returning `x`",
            {"stage": "returning", "returning": "x"},
        ),
        (
            "ran out of memory (limit 250 MiB) after 0.21 s, while its code and inputs were read",
            {"stage": "loading"},
        ),
        (
            "ran out of memory (limit 250 MiB) after 0.21 s",
            {"tripped": "memory", "oom_kills": 0, "enforcement": Enforcement(memory="watchdog")},
        ),
        (
            "ran out of memory (limit 250 MiB) after 0.21 s, on line 3: `y = int(x)`",
            {"raised": RAISED},
        ),
    ],
)
def test_a_task_over_its_limit_is_the_clusters_oom(headline: str, changes: dict[str, Any]) -> None:
    """A kill at the task's own limit is an OOMError in the cluster's words, whoever killed it and in whatever stage."""
    failure = _failed(replace(OOM, **changes))
    error = failure.error
    assert type(error) is flyte.errors.OOMError
    assert ("user", "OOMKilled", "run-a1-0") == (error.kind, error.code, error.worker)
    assert f"{POD_FAILED} (137). Reason [OOMKilled]. Message: " == str(error) == failure.message
    assert ("user", "OOMKilled", "run-a1-0", "memory") == (failure.kind, failure.code, failure.worker, failure.reason)
    assert headline == failure.headline
    assert error.recoverable is True


def test_a_limit_below_what_python_needs_says_how_much_that_is() -> None:
    """A limit that the worker cannot even start under is compared with what the worker needs."""
    job = replace(JOB, limits=Limits(memory_bytes=250 * 1024))
    failure = _failed(replace(OOM, stage="starting"), job)
    assert "250 KiB is less than Python and Flyte need (36 MiB). Write for example 128Mi." == failure.headline
    assert 128 * MI == failure.suggestions[0].limits.memory_bytes


def test_an_oom_suggests_twice_the_memory_and_why() -> None:
    """After an OOM one suggestion doubles the memory, keeps every other limit and says that the need is unknown."""
    suggestion = _failed(OOM).suggestions[0]
    assert replace(JOB.limits, memory_bytes=500 * MI) == suggestion.limits
    assert "500Mi" in suggestion.sentence
    assert "how much it needs is unknown" in suggestion.sentence


def test_what_the_report_knows_is_in_the_suggestion() -> None:
    """The allocation that was being filled, and the machine: facts of the report, not of this machine."""
    asked = PendingAllocation(size_bytes=4_000 * MI, before_bytes=100 * MI)
    suggestion = _failed(replace(OOM, asked=asked, machine_bytes=2_000 * MI)).suggestions[0]
    assert (4_100 * MI) * 1.1 <= (suggestion.limits.memory_bytes or 0)
    assert "It was using 100 MiB and asked for 3.9 GiB more." in suggestion.sentence
    assert "more than this machine has (2 GiB)" in suggestion.sentence
    line = Growth(line=SourceLine(file="In [1]", number=7, text="grow()"), grew_bytes=200 * MI)
    assert "Most of it came on line 7" in _failed(replace(OOM, grew=(line,))).suggestions[0].sentence
    inputs = (InputFact(name="x", type_name="bytes", size_bytes=300 * MI),)
    loading = _failed(replace(OOM, stage="loading"), replace(JOB, inputs=inputs)).suggestions[0]
    assert "its inputs, which are 300 MiB when serialized" in loading.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"limit_reached": False},
        {"machine_short": True},
        {"machine_short": True, "oom_kills": 0, "limit_reached": False},
        {"tripped": "memory", "limit_reached": False},
    ],
)
def test_a_machine_without_memory_is_not_blamed_on_the_limit(changes: dict[str, Any]) -> None:
    """A kill below the task's own limit is an OOMError too, and says that it was the machine."""
    failure = _failed(replace(OOM, **changes))
    assert type(failure.error) is flyte.errors.OOMError
    assert ("machine_memory", "OOMKilled") == (failure.reason, failure.code)
    assert failure.message.startswith(f"{POD_FAILED} (137). Reason [OOMKilled]. Message: ")
    assert "the machine ran out of memory" in failure.message
    assert "the machine ran out of memory" in failure.headline
    assert () == failure.suggestions


def test_a_childs_oom_is_an_oom_although_the_task_ended_well() -> None:
    """A task that ended well while the kernel killed a process of it gets the cluster's message for that."""
    failure = _failed(replace(OOM, answer=b"result", signal=None, exit_status=0))
    assert type(failure.error) is flyte.errors.OOMError
    assert "Pod reported success despite being OOMKilled" == failure.message
    assert "the task itself ended well" in failure.headline


@pytest.mark.parametrize(
    ("expected", "wire_code", "recoverable", "changes"),
    [
        (errors.MaxRuntimeExceededError, "MAX_RUNTIME_EXCEEDED", True, {"tripped": "max_runtime"}),
        (errors.DeadlineExceededError, "DEADLINE_EXCEEDED", False, {"tripped": "deadline"}),
        (
            errors.MaxQueuedTimeExceededError,
            "QUEUED_TIMEOUT_EXCEEDED",
            True,
            {"tripped": "max_queued_time", "stage": "queued"},
        ),
    ],
)
def test_each_bound_in_time_has_its_own_error(
    expected: type[Exception],
    wire_code: str,
    recoverable: bool,  # noqa: FBT001 - expected value
    changes: dict[str, Any],
) -> None:
    """A timeout is the SDK's class for that bound, with the cluster's wire code; only a deadline ends the attempts."""
    failure = _failed(replace(RUNNING, signal=9, **changes))
    assert expected is type(failure.error)
    assert (expected.__name__, wire_code, "run-a1-0") == (failure.code, failure.wire_code, failure.worker)
    assert changes["tripped"] == failure.reason
    assert failure.message.startswith("Action a1 timed out, raising exception in current Action a0: ")
    assert recoverable is failure.error.recoverable


@pytest.mark.parametrize(
    ("headline", "changes"),
    [
        ("ran longer than its max_runtime of 1 s and was stopped after 0.21 s", {"tripped": "max_runtime"}),
        (
            "not done by its deadline of 1 min, counted over all attempts and their waiting",
            {"tripped": "deadline"},
        ),
        (
            "waited 5.1 s to start, longer than its max_queued_time of 5 s",
            {"tripped": "max_queued_time", "queued_for_s": 5.1, "stage": "queued"},
        ),
    ],
)
def test_a_timeout_is_measured_against_what_was_allowed(headline: str, changes: dict[str, Any]) -> None:
    """The headline of a timeout names the bound and the time that was taken."""
    assert headline == _failed(replace(RUNNING, **changes)).headline


def test_the_first_reason_stands() -> None:
    """What happened after our side ended an attempt does not change why it ended."""
    after = {"signal": 9, "oom_kills": 1, "limit_reached": True, "raised": RAISED, "answer": b"late"}
    assert "max_runtime" == _failed(replace(RUNNING, tripped="max_runtime", **after)).reason
    assert "stopped" == _failed(replace(RUNNING, tripped="stopped", **after)).reason


@pytest.mark.parametrize(
    ("headline", "changes"),
    [
        ("(limit 250 MiB) after 0.21 s, on line 3: `y = int(x)`", {"oom_kills": 1, "limit_reached": True}),
        ("below the task's limit of 250 MiB, on line 3: `y = int(x)`", {"oom_kills": 1, "limit_reached": False}),
        ("and was stopped after 0.21 s, on line 3: `y = int(x)`", {"tripped": "max_runtime"}),
        ("counted over all attempts and their waiting, on line 3: `y = int(x)`", {"tripped": "deadline"}),
        ("stopped after 0.21 s, on line 3: `y = int(x)`", {"tripped": "stopped"}),
        ("counted no kill for memory) after 0.21 s, on line 3: `y = int(x)`", {"signal": 9}),
    ],
)
def test_an_attempt_that_was_ended_names_the_line_it_was_seen_at(headline: str, changes: dict[str, Any]) -> None:
    """For a kill, a timeout or a stop the failure's line is where the user's code was seen last, with its callers."""
    stack = (SourceLine(file="In [1]", number=9, text="f(x)"), LINE)
    failure = _failed(replace(RUNNING, last_line=LastLine(stack=stack, age_s=0.004), **changes))
    assert failure.headline.endswith(headline)
    assert (LINE, stack) == (failure.line, failure.lines)
    assert {"how": "sampled", "before_end_s": 0.004} == failure.to_dict()["line_seen"]


@pytest.mark.parametrize("changes", [{"raised": RAISED}, {"raised": RAISED, "oom_kills": 1, "limit_reached": True}])
def test_the_line_of_an_exception_goes_before_the_one_that_was_seen(changes: dict[str, Any]) -> None:
    """Where an exception says on which line, what samples saw before says nothing."""
    other = LastLine(stack=(SourceLine(file="In [1]", number=1, text="import x"),))
    failure = _failed(replace(RUNNING, last_line=other, **changes))
    assert LINE == failure.line
    assert failure.to_dict()["line_seen"] is None


def test_a_line_whose_text_is_not_known_is_named_by_its_number() -> None:
    """A file that cannot be read gives a number without text, and one that was not seen gives nothing."""
    stack = (SourceLine(file="gone.py", number=7, text=""),)
    assert _failed(replace(OOM, last_line=LastLine(stack=stack))).headline.endswith("after 0.21 s, on line 7")
    failure = _failed(replace(RUNNING, exit_status=3, last_line=LastLine(stack=stack)))
    assert failure.line is None


def test_a_stopped_action_was_aborted() -> None:
    """A stop is an ActionAbortedError in the SDK's words, and no further attempt follows."""
    failure = _failed(replace(RUNNING, tripped="stopped", signal=9))
    assert type(failure.error) is flyte.errors.ActionAbortedError
    assert "Action a1 was aborted, aborting current Action a0" == failure.message
    assert "stopped after 0.21 s" == failure.headline
    assert failure.error.recoverable is False


def test_a_root_action_has_no_parent_to_name() -> None:
    """The messages of a root action name no other action."""
    job = replace(JOB, parent=None)
    assert "Action a1 was aborted" == _failed(replace(RUNNING, tripped="stopped"), job).message
    assert "current Action" not in _failed(replace(RUNNING, tripped="max_runtime"), job).message


def test_a_task_that_never_fits_is_unschedulable() -> None:
    """A task that can never start says why in the scheduler's words, and is not tried again."""
    report = WorkerReport(tripped="never_fits", tripped_detail="needs 8 TiB; this machine has 16 GiB")
    failure = _failed(report)
    assert type(failure.error) is errors.UnschedulableError
    assert ("Unschedulable", "never_fits", "run-a1-0") == (failure.code, failure.reason, failure.worker)
    assert "needs 8 TiB; this machine has 16 GiB" == failure.headline
    assert "needs 8 TiB; this machine has 16 GiB" in failure.message
    assert failure.error.recoverable is False


def test_an_exception_of_the_user_is_a_user_error_with_its_class_name() -> None:
    """Any other exception arrives as RuntimeUserError, coded with the class name, with the line where it was raised."""
    failure = _failed(replace(RUNNING, raised=RAISED), unpickle=pickle.loads)
    assert type(failure.error) is flyte.errors.RuntimeUserError
    assert ("user", "ValueError", "bad x", "run-a1-0") == (
        failure.kind,
        failure.code,
        str(failure.error),
        failure.worker,
    )
    assert "raised ValueError: bad x, on line 3: `y = int(x)`" == failure.headline
    assert LINE == failure.line
    assert failure.error.recoverable is True


def _refuses(_: bytes) -> object:
    raise ModuleNotFoundError("not here")


def _exits(_: bytes) -> object:
    raise SystemExit(3)


@pytest.mark.parametrize("unpickle", [pickle.loads, None, _refuses, _exits, bytes.decode])
def test_the_cause_shows_the_workers_traceback(unpickle: Callable[[bytes], object] | None) -> None:
    """The cause is the original or stands in for it, and the worker's traceback and source show in both cases."""
    pickled = RAISED.pickled if unpickle is pickle.loads else b"text"
    report = replace(RUNNING, raised=replace(RAISED, pickled=pickled))
    error = _failed(report, unpickle=unpickle).error
    cause = error.__cause__
    assert isinstance(cause, ValueError)
    assert (type(cause) is ValueError) is (unpickle is pickle.loads)
    assert ("ValueError", "bad x") == (type(cause).__name__, str(cause))
    shown = "".join(traceback.format_exception(error))
    assert 'File "In [1]", line 3\n    y = int(x)\nValueError: bad x' in shown
    assert "The above exception was the direct cause" in shown


@pytest.mark.parametrize("name", ["UnicodeDecodeError", "ExceptionGroup", "NotInBuiltins", "OSError", "print", "a\0b"])
def test_any_class_can_be_stood_in_for(name: str) -> None:
    """A class that cannot be had still gives an error, whatever its constructor or name."""
    raised = replace(RAISED, type_name=name, pickled=None)
    error = _failed(replace(RUNNING, raised=raised)).error
    assert "bad x" == str(error.__cause__)
    assert name == error.code


@pytest.mark.parametrize(
    ("name", "misread"),
    [("RoomNotFound", "OOMError"), ("ZoomApiError", "OOMError"), ("UnknownUser", "RuntimeUnknownError"), ("Plum", "")],
)
def test_a_name_that_a_cluster_would_misread_is_said(name: str, misread: str) -> None:
    """The note names the class that the SDK's client makes of the letters; other names have no note."""
    raised = replace(RAISED, type_name=name, module="__main__", pickled=None)
    failure = _failed(replace(RUNNING, raised=raised))
    assert (f"a cluster takes {name} for {misread}," in failure.note) if misread else (failure.note == "")
    wire = execution_pb2.ExecutionError(kind=execution_pb2.ExecutionError.USER, code=name, message="x")
    assert (misread or "RuntimeUserError") == type(convert.convert_error_to_native(wire)).__name__


@pytest.mark.parametrize("name", ["RoomNotFound", "InterruptedError", "UnknownUser", "OOMError", "RetriesExhausted"])
def test_a_name_never_decides(name: str) -> None:
    """A user's class that is called like something else stays a user error."""
    raised = replace(RAISED, type_name=name, module="__main__", pickled=None)
    failure = _failed(replace(RUNNING, raised=raised))
    assert type(failure.error) is flyte.errors.RuntimeUserError
    assert name == failure.code


@pytest.mark.skipif(not hasattr(flyte.errors, "GPUFaultError"), reason="older SDKs have no such class")
def test_an_error_of_flyte_arrives_as_itself() -> None:
    """A class of flyte.errors that user code raised keeps class, code, kind and extra fields."""
    raised = flyte.errors.GPUFaultSystemError("GpuXidError", "fell off", None, fault_kind="xid", fault_code=79)
    failure = _failed(_raised(raised))
    assert type(failure.error) is flyte.errors.GPUFaultSystemError
    assert 79 == failure.error.xid
    assert ("system", "GpuXidError", "fell off") == (failure.kind, failure.code, failure.message)
    assert "raised" == failure.reason
    assert "GPUFaultSystemError: fell off" in "".join(traceback.format_exception(failure.error))


@pytest.mark.skipif(not hasattr(flyte.errors, "GPUFaultError"), reason="older SDKs have no such class")
@pytest.mark.parametrize("code", getattr(flyte.errors, "GPU_FAULT_CODES", ()))
@pytest.mark.parametrize(("kind", "arrives"), [("USER", "GPUFaultUserError"), ("SYSTEM", "GPUFaultSystemError")])
def test_a_fault_of_a_gpu_is_the_sdks_own_class(code: str, kind: str, arrives: str) -> None:
    """What the SDK makes of a cluster's words keeps its class, kind and code when a task raises it."""
    words = execution_pb2.ExecutionError(kind=getattr(execution_pb2.ExecutionError, kind), code=code, message="fell")
    failure = _failed(_raised(convert.convert_error_to_native(words)))
    assert (arrives, kind.lower(), code) == (type(failure.error).__name__, failure.kind, failure.error.code)
    assert ("fell", "run-a1-0") == (failure.message, failure.error.worker)


@pytest.mark.parametrize(
    ("worker", "error"),
    [
        ("run-a1-0", flyte.errors.OOMError("C", "m")),
        ("run-a1-0", flyte.errors.DeploymentError("m")),  # whose worker the SDK calls "user"
        ("run-a1-0", flyte.errors.OOMError("C", "m", "UNKNOWN")),
        ("run-a7-2", flyte.errors.OOMError("C", "m", "run-a7-2")),
    ],
)
def test_the_worker_is_filled_in_where_nobody_is_named(worker: str, error: Exception) -> None:
    """A placeholder for the worker becomes the attempt's name; the worker of a nested action is kept."""
    failure = _failed(_raised(error))
    assert worker == failure.worker == failure.error.worker


def test_an_error_without_fields_has_code_kind_and_worker_all_the_same() -> None:
    """ActionNotFoundError has none of the fields; the failure names it by its class."""
    failure = _failed(_raised(flyte.errors.ActionNotFoundError("no such action")))
    assert type(failure.error) is flyte.errors.ActionNotFoundError
    assert ("user", "ActionNotFoundError", "run-a1-0") == (failure.kind, failure.code, failure.worker)


def test_a_custom_error_is_a_user_error_of_its_code() -> None:
    """A CustomError arrives as on a cluster: RuntimeUserError with that code, the CustomError as cause."""
    failure = _failed(_raised(flyte.errors.CustomError("NoStock", "sold out")))
    assert type(failure.error) is flyte.errors.RuntimeUserError
    assert ("NoStock", "sold out") == (failure.code, failure.message)
    assert type(failure.error.__cause__) is flyte.errors.CustomError


def test_a_non_recoverable_error_ends_the_attempts() -> None:
    """NonRecoverableError arrives as itself and is not tried again."""
    failure = _failed(_raised(flyte.errors.NonRecoverableError("no use", code="NoUse")))
    assert type(failure.error) is flyte.errors.NonRecoverableError
    assert "NoUse" == failure.code
    assert failure.error.recoverable is False


def test_the_worker_may_say_that_retries_are_no_use() -> None:
    """What the worker saw as not recoverable is not tried again."""
    report = replace(RUNNING, raised=replace(RAISED, recoverable=False))
    assert _failed(report).error.recoverable is False


@pytest.mark.parametrize(("status", "said"), [("3", "3"), ("0", "None"), ("0", ""), ("no data", "no data")])
def test_sys_exit_is_a_user_error_with_its_status(status: str, said: str) -> None:
    """sys.exit in a task is a user error with code SystemExit that names the status."""
    failure = _failed(replace(RUNNING, raised=replace(RAISED, type_name="SystemExit", message=said, pickled=None)))
    assert type(failure.error) is flyte.errors.RuntimeUserError
    assert "SystemExit" == failure.code
    assert f"sys.exit() was called in the task, with status {status}" == failure.message
    assert f"called sys.exit() with status {status} " in failure.headline


@pytest.mark.parametrize("name", ["MemoryError", "_ArrayMemoryError"])
@pytest.mark.parametrize(
    ("headline", "refused", "message"),
    [
        ("one allocation of about 909 TiB was larger than the machine can give;", {"size_bytes": 10**15}, ""),
        ("one allocation (size not known) was larger than the machine can give;", {}, ""),
        (
            "one allocation of 1 EiB was larger than the machine can give (Unable to allocate 1.00 EiB);",
            {"size_bytes": 2**60, "exact": True},
            "Unable to allocate 1.00 EiB",
        ),
    ],
)
def test_pythons_memory_error_is_not_an_oom_kill(
    name: str, headline: str, refused: dict[str, Any], message: str
) -> None:
    """A refused allocation keeps its class name as code; the headline says how large, and that nothing was killed."""
    raised = replace(RAISED, type_name=name, message=message, pickled=None, refused=RefusedAllocation(**refused))
    failure = _failed(replace(RUNNING, raised=raised))
    assert type(failure.error) is flyte.errors.RuntimeUserError
    assert name == failure.code
    assert failure.headline.startswith(f"{headline} this is not an OOM kill")


def test_a_memory_error_raised_by_code_says_what_it_says() -> None:
    """Nothing need have been refused where Python code raised it."""
    raised = replace(RAISED, type_name="MemoryError", pickled=None, refused=RefusedAllocation(by_hand=True))
    headline = _failed(replace(RUNNING, raised=raised)).headline
    assert headline.startswith("raised MemoryError: bad x; the code raised it, so this is not an OOM kill")


def test_a_process_that_left_without_a_result_was_interrupted() -> None:
    """An exit before the result is a system error, Interrupted, with the status in the cluster's message."""
    failure = _failed(replace(RUNNING, exit_status=3))
    assert type(failure.error) is flyte.errors.RuntimeSystemError
    assert ("system", "Interrupted", "exited", "run-a1-0") == (
        failure.kind,
        failure.code,
        failure.reason,
        failure.worker,
    )
    assert f"{POD_FAILED} (3). Reason [Error]. Message: " == failure.message
    assert "exited with status 3 before it gave a result, after 0.21 s" == failure.headline
    assert failure.error.recoverable is False


@pytest.mark.parametrize(
    ("code", "in_a_row", "again"),
    [("Interrupted", 0, True), ("Interrupted", 1, True), ("MaxSystemFailuresExceeded", 2, False)],
)
def test_a_lost_worker_is_replaced_as_often_as_is_said(code: str, in_a_row: int, *, again: bool) -> None:
    """system_retries=2: twice another attempt follows, then the backend's code and words, with the count."""
    job = replace(
        JOB, attempt=4, max_attempts=7, system_retries=2, system_failures=4, system_failures_in_a_row=in_a_row
    )
    failure = _failed(replace(RUNNING, exit_status=3), job)
    assert (code, again, 7 + again) == (failure.code, failure.retried_as_system_failure, failure.max_attempts)
    assert failure.error.recoverable is False
    words = f'plugin "container" failed with system error {in_a_row + 1} times: [Interrupted] Pod failed.'
    assert again is not failure.message.startswith(words)


def test_other_failures_are_no_system_failures() -> None:
    """What the task or its limits are to blame for has no worker replaced."""
    job = replace(JOB, system_retries=2)
    for report in (OOM, replace(RUNNING, raised=RAISED), replace(RUNNING, tripped="max_runtime")):
        assert _failed(report, job).retried_as_system_failure is False


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_a_signal_is_named(number: signal.Signals) -> None:
    """A signal that was not ours is Interrupted with exit code 128 + n, and the headline names the signal."""
    failure = _failed(replace(RUNNING, signal=int(number)))
    assert type(failure.error) is flyte.errors.RuntimeSystemError
    assert ("Interrupted", "signalled") == (failure.code, failure.reason)
    assert f"{POD_FAILED} ({128 + number}). Reason [Error]. Message: " == failure.message
    assert f"ended by {number.name} " in failure.headline


def test_a_signal_without_a_name_is_shown_by_its_number() -> None:
    """A signal that the platform does not name is not a crash of the diagnosis."""
    assert "ended by signal 250 after 0.21 s" == _failed(replace(RUNNING, signal=250)).headline


@pytest.mark.parametrize(
    "changes", [{}, {"stage": "starting", "exit_status": 1}, {"stage": "starting", "signal": 11}, {"stage": "queued"}]
)
def test_a_lost_worker_is_a_reason_of_its_own(changes: dict[str, Any]) -> None:
    """A worker that never became ready, or that left no trace of its end, was lost."""
    failure = _failed(replace(RUNNING, **changes))
    assert type(failure.error) is flyte.errors.RuntimeSystemError
    assert ("Interrupted", "worker_lost") == (failure.code, failure.reason)


def test_what_a_worker_said_last_before_it_was_ready_is_its_reason() -> None:
    """Nothing of the user's ran: the error of the traceback is in message and headline; of one that ran it is not."""
    tail = "Traceback (most recent call last):\n  File 'x', line 1\nRuntimeError: can't start new thread\n\n  ^^^\n"
    starting = replace(RUNNING, stage="starting", exit_status=1, output_tail=tail)
    failure = _failed(starting)
    for said in (failure.message, failure.headline, str(failure.error)):
        assert said.endswith("RuntimeError: can't start new thread")
    assert "new thread" not in _failed(replace(starting, stage="running")).message


def test_a_failure_carries_the_job_and_the_facts() -> None:
    """The failure names task, attempt, limits, inputs and output, and keeps the report."""
    report = replace(OOM, output_tail="last words\n", trace=MemoryTrace(peak_bytes=250 * MI))
    failure = _failed(report, replace(JOB, attempt=1))
    assert ("oomer", 1, 3, JOB.limits, JOB.inputs, "last words\n") == (
        failure.task_name,
        failure.attempt,
        failure.max_attempts,
        failure.limits,
        failure.inputs,
        failure.output_tail,
    )
    assert report is failure.report
    assert "run-a1-1" == failure.worker


def test_a_headline_stays_one_line_of_a_length_to_read() -> None:
    """A message of many megabytes and lines gives a headline of one short line."""
    raised = replace(RAISED, message="\n\n" + "word " * 10_000_000)
    headline = _failed(replace(RUNNING, raised=raised)).headline
    assert len(headline) < 400
    assert "\n" not in headline
    assert "word…" in headline, "it is cut between two words"


@dataclass(frozen=True)
class Frozen(flyte.errors.RuntimeUserError):  # type: ignore[misc] # a frozen class of an unfrozen one, as users write it
    """An error of a user whose attributes cannot be set."""

    code: str = "Frozen"
    kind: str = "user"
    worker: str | None = None


class Guarded(flyte.errors.OOMError):
    """An error of a user with a property where diagnosis attaches the failure."""

    @property
    def failure(self) -> str:
        """Nothing that can be set."""
        return "mine"


def test_a_frozen_error_class_carries_its_failure() -> None:
    """An exception class that forbids setting attributes is diagnosed like any other."""
    assert type(_failed(_raised(Frozen())).error) is Frozen


def test_an_error_class_with_properties_in_the_way_is_no_crash() -> None:
    """An exception class with a property called failure keeps it; the outcome is a failure all the same."""
    outcome = diagnose(JOB, _raised(Guarded("C", "m")))
    assert isinstance(outcome, Failure)
    assert type(outcome.error) is Guarded


@pytest.mark.parametrize("fields", [{}, {"class": 3, "bases": None}, {"class": "x:y", "bases": []}])
def test_broken_fields_are_no_crash(fields: dict[str, Any]) -> None:
    """Fields that do not make an error leave a user error with the class name as code."""
    failure = _failed(replace(RUNNING, raised=replace(RAISED, fields=fields, pickled=None)))
    assert type(failure.error) is flyte.errors.RuntimeUserError
    assert "ValueError" == failure.code


REACHED = "RLIMIT_AS of 1 MiB that it has set (219 MiB in use)"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            Unanswered(step="describing", refused=True, reached=("RLIMIT_AS", MI, 219 * MI)),
            f"describe the error: it ran out of memory over it; its process was at the {REACHED}",
        ),
        (Unanswered(step="pickling", detail="x", silent_s=30.0), "pickle `x`: it did nothing for 30 s"),
        (Unanswered(step="pickling", took_s=3600.0), "pickle the outputs: it was not done after 1 h"),
        (Unanswered(step="sending", silent_s=5.0), "send the answer: it did nothing for 5 s"),
        (Unanswered(step="handing over", silent_s=5.0), "hand over what the body gave: it did nothing for 5 s"),
    ],
)
@pytest.mark.parametrize("status", [None, 71])
def test_a_worker_that_cannot_answer_says_at_which_step(facts: Unanswered, said: str, status: int | None) -> None:
    """What it could not do, how that showed, and the limit that it had reached; also when it has ended itself since."""
    report = replace(RUNNING, unanswered=facts, signal=9 if status is None else None, exit_status=status)
    failure = _failed(report)
    assert type(failure.error) is errors.RuntimeSystemError
    assert f"lost after 0.21 s: the body had ended, but the worker could not {said}" == failure.headline
    assert "worker_lost" == failure.reason


def test_an_error_after_the_body_is_told_from_one_of_the_body() -> None:
    """Where memory or descriptors ran out once the user's code was over, the headline says what could not be done."""
    pickled = pickle.dumps(MemoryError())
    raised = replace(RAISED, type_name="MemoryError", message="", step="handing over", lines=(), pickled=pickled)
    failure = _failed(replace(RUNNING, raised=raised), unpickle=pickle.loads)
    assert (
        "the body had ended, but the worker could not hand over what the body gave: raised MemoryError"
        == failure.headline
    )
    own = _failed(replace(RUNNING, raised=replace(RAISED, step="handing over")), unpickle=pickle.loads)
    assert "raised ValueError: bad x, on line 3: `y = int(x)`" == own.headline


def test_what_a_failed_attempt_left_in_shared_memory_is_a_note() -> None:
    """What stays is named with its user; what was removed is named, and of many three."""
    left = [Left(name="a", size_bytes=MI, why="in use by process 7 (python)")]
    left += [Left(name=name, size_bytes=2 * MI) for name in "bcdef"]
    assert (
        "`a` (1 MiB) stays in shared memory: in use by process 7 (python); removed from shared memory, as with a pod: "
        "`b` (2 MiB), `c` (2 MiB), `d` (2 MiB), and 2 more"
    ) == _failed(replace(OOM, left=tuple(left))).note
    assert "" == _failed(OOM).note
