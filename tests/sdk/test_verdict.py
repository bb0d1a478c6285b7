"""What the facts of a cluster mean: the outcome of a local run, with the code of the error sent and without it."""

from __future__ import annotations

import pytest

from flyte_notebook.core.job import Job
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.outcome import Failure, Success
from flyte_notebook.sdk.cluster import pod, tagged, verdict
from flyte_notebook.sdk.cluster.observed import ActionFacts, AttemptFacts, ErrorFacts, LogFacts, origin_of

LIMIT_BYTES = 200 << 20
JOB = Job(label="cell", run="r", action="a0", entry="", payload=b"", limits=Limits(memory_bytes=LIMIT_BYTES))
POD = "r-a0-0"


def attempt(
    error: ErrorFacts | None = None, phase: str = "FAILED", log: LogFacts | None = None, reason: str = ""
) -> Failure:
    """Return the failure of an attempt that ran for 2 s from moment 100 on."""
    facts = AttemptFacts(
        number=1, phase=phase, pod=POD, began_s=99.0, running_since_s=100.0, ended_s=102.0, error=error
    )
    action = ActionFacts(
        name="a0", parent="", task_name="cell", phase=phase, error=error, abort_reason=reason, attempts=(facts,)
    )
    found = verdict.outcome(JOB, action, facts, log or LogFacts())
    assert isinstance(found, Failure)
    return found


def wire(code: str, message: str, kind: str = "user") -> ErrorFacts:
    """Return an error as it is on the wire."""
    return ErrorFacts(kind=kind, code=code, message=message)


def raised(error: Exception) -> LogFacts:
    """Return the log of a pod in which an error was raised."""
    log = LogFacts()
    log.add("", [{"raised": pod.described(error)}])
    return log


PULL = "Back-off pulling image 'example/missing:1'"


@pytest.mark.parametrize(
    ("code", "message", "error_class", "reason"),
    [
        ("OOMKilled", "Reason [OOMKilled]. Message: the container was killed", "OOMError", "memory"),
        ("Error", "Reason [Error]. Message: ended with exit code (139).", "RuntimeUserError", "signalled"),
        ("Error", "Reason [Error]. Message: ended with exit code (3).", "RuntimeUserError", "exited"),
        ("ContainersNotReady|ImagePullBackOff", PULL, "ImagePullBackOffError", "worker_lost"),
    ],
)
def test_the_message_has_the_code_that_was_not_sent(code: str, message: str, error_class: str, reason: str) -> None:
    """Class, kind, code and reason are the same either way."""
    sent, omitted = attempt(wire(code, message)), attempt(wire("", message))
    for failure in (sent, omitted):
        assert error_class == type(failure.error).__name__
        assert ("user", reason, POD) == (failure.kind, failure.reason, failure.worker)
    assert (sent.code, sent.headline) == (omitted.code, omitted.headline)


@pytest.mark.parametrize("code", ["ValueError", ""])
def test_the_record_of_the_pod_has_the_code_that_was_not_sent(code: str) -> None:
    """With the class of the exception and what it said; without a record only what was sent is known."""
    failure = attempt(wire(code, "no"), log=raised(ValueError("no")))
    assert ("ValueError", "raised", "raised ValueError: no") == (failure.code, failure.reason, failure.headline)
    unknown = attempt(wire(code, "no"))
    assert code == unknown.code
    assert ("raised ValueError: no" if code else "no") == unknown.headline


def test_a_kill_for_memory_is_one_although_an_error_was_raised_before() -> None:
    """The pod may have described an error which it then died of handling."""
    log = raised(ValueError("before"))
    log.samples += [(100.0, 50 << 20), (101.5, 190 << 20)]
    failure = attempt(wire("", "Reason [OOMKilled]"), log=log)
    assert ("OOMKilled", "memory") == (failure.code, failure.reason)
    assert failure.headline.endswith("(last sample 0.5 s before the end)"), failure.headline
    trace = failure.report.trace
    assert ((0.0, 1.5), (50 << 20, 190 << 20)) == (trace.times_s, trace.memory_bytes)
    assert (LIMIT_BYTES, 190 << 20) == (trace.limit_bytes, trace.peak_bytes)


def test_a_clock_of_the_pod_that_is_ahead_says_nothing_about_the_last_sample() -> None:
    """A sample after the end has no time before it."""
    log = LogFacts(samples=[(103.0, 1 << 20)])
    assert "last sample" not in attempt(wire("OOMKilled", "killed"), log=log).headline


def test_stop_timeout_and_abort_need_no_error() -> None:
    """The phase says what happened; the reason of an abort from outside is in the headline."""
    timed_out = attempt(phase="TIMED_OUT")
    assert ("MaxRuntimeExceededError", "max_runtime") == (timed_out.code, timed_out.reason)
    stopped = attempt(phase="ABORTED", reason="stopped in the notebook")
    assert ("ActionAbortedError", "stopped") == (type(stopped.error).__name__, stopped.reason)
    outside = attempt(phase="ABORTED", reason="too dear")
    assert "ActionAbortedError" == type(outside.error).__name__
    assert "too dear" in outside.headline
    assert "too dear" not in stopped.headline


def test_a_failure_of_which_nothing_is_told_says_so() -> None:
    """As when the details of an error never come."""
    failure = attempt()
    assert ("RuntimeSystemError", "system") == (type(failure.error).__name__, failure.kind)
    assert "the cluster gives no reason" == failure.headline


def test_records_are_cut_out_of_a_message() -> None:
    """A cluster may add the end of the log to it."""
    record = "".join(tagged.lines({"sample": [1.0, 2]}))
    failure = attempt(wire("", f"Reason [Error]. exit code (3).\nlast words{record} of it\n{record}"))
    assert "Reason [Error]. exit code (3).\nlast words of it" == failure.message


def test_success_has_its_trace_and_times() -> None:
    """Queued until its pod ran."""
    facts = AttemptFacts(number=1, phase="SUCCEEDED", began_s=99.0, running_since_s=100.0, ended_s=102.5)
    action = ActionFacts(name="a0", parent="", task_name="cell", phase="SUCCEEDED", attempts=(facts,))
    found = verdict.outcome(JOB, action, facts, LogFacts())
    assert isinstance(found, Success)
    assert (1.0, 2.5) == (found.report.queued_for_s, found.report.duration_s)


def test_an_uncaught_failure_comes_from_the_deepest_action_that_has_it() -> None:
    """Not from one whose error was caught, and of two that are alike from the one that ended last."""

    def action(name: str, parent: str, message: str, ended_s: float = 1.0) -> ActionFacts:
        error = wire("", message)
        last = AttemptFacts(number=1, phase="FAILED", ended_s=ended_s)
        return ActionFacts(name=name, parent=parent, task_name=name, phase="FAILED", error=error, attempts=(last,))

    root = action("root", "", "no")
    caught, middle = action("caught", "root", "other"), action("middle", "root", "no", 3.0)
    earlier, deepest = action("earlier", "root", "no", 2.0), action("deepest", "middle", "no")
    assert deepest == origin_of([root, caught, earlier, deepest, middle])
    assert root == origin_of([root, caught])
