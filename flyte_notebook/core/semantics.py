"""Which error a failure becomes: the one that today's cluster raises, or the one that the published reference promises.

For some classes the two differ. The reference promises ``RetriesExhaustedError``, ``CustomError`` and
``TaskInterruptedError``, and today's backend no longer sends them. Most classes of ``flyte.errors`` that a task raises
arrive as a ``RuntimeUserError`` with their code, as the SDK's own conversion does not know them (`sdk.conversion`). An
``except`` clause that works here must work on a cluster, so ``cluster`` is the default; ``reference`` exists so that
every class can really be raised and caught.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from flyte_notebook.errors import (
    CustomError,
    FlyteError,
    OOMError,
    RetriesExhaustedError,
    RuntimeUserError,
    TaskInterruptedError,
    TaskTimeoutError,
    rebuild,
)

_TIMEOUTS: Final = frozenset({"max_runtime", "max_queued_time", "deadline"})
_LOST: Final = frozenset({"exited", "signalled", "worker_lost"})
_NEVER_RETRIED: Final = frozenset({"stopped", "never_fits"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The facts about the end of an attempt that matter here. ``reason`` is the termination reason of its failure.

    ``attempt`` and ``max_attempts`` count the task's own attempts only, not those that replaced a lost worker.
    """

    error: BaseException
    reason: str
    worker: str
    attempt: int
    max_attempts: int
    recoverable: bool


_BY_LETTERS: Final = (
    ("OOM", "OOMError"),
    ("Interrupted", "TaskInterruptedError"),
    ("PrimaryContainerNotFound", "PrimaryContainerNotFoundError"),
    ("RetriesExhausted", "RetriesExhaustedError"),
    ("Unknown", "RuntimeUnknownError"),
    ("InvalidImageName", "InvalidImageNameError"),
    ("ImagePullBackOff", "ImagePullBackOffError"),
)
"""The parts that the SDK's client searches for in the code of a user error, in this order
(``convert_error_to_native``)."""


def misread_on_cluster(error: BaseException) -> str:
    """Return a sentence when a cluster's client would mistake a user's exception for another error, by its name.

    This package decides by facts: an exception called ``RoomNotFound`` is not an out-of-memory error. Empty for any
    other error.
    """
    code = str(getattr(error, "code", ""))
    if type(error) is not RuntimeUserError:
        return ""
    for letters, name in _BY_LETTERS:
        if letters in (code.upper() if letters == "OOM" else code):
            return (
                f"a cluster takes {code} for {name}, because of {letters!r} in its name; here it stays "
                "RuntimeUserError: choose another name for the exception"
            )
    return ""


def arriving(error: FlyteError, on_cluster: dict[str, Any] | None, semantics: str) -> FlyteError:
    """Return the error that a caller gets for an error of the SDK: itself, or the result of the SDK's conversion."""
    return error if on_cluster is None or semantics == "reference" else rebuild(on_cluster)


class Differing(NamedTuple):
    """The error of the reference, and a sentence about the difference."""

    error: Exception
    sentence: str


def in_reference(ended: Ended) -> Differing | None:
    """Return the error that the reference promises if it is a different one; ``None`` where both agree."""
    single = _of_one_attempt(ended)
    here = type(ended.error).__name__
    if single is not None:
        single.__cause__ = ended.error.__cause__
    if _is_exhausted(ended):
        last = single or ended.error
        code = str(getattr(last, "code", type(last).__name__))
        done = f"[{ended.max_attempts}/{ended.max_attempts}] currentAttempt done."
        exhausted = RetriesExhaustedError(f"RetriesExhausted|{code}", f"{done} Last Error: USER::{last}", ended.worker)
        exhausted.__cause__ = last
        return Differing(exhausted, _sentence("RetriesExhaustedError", here))
    if single is None or type(single) is type(ended.error):
        return None
    return Differing(single, _sentence(type(single).__name__, here))


def _of_one_attempt(ended: Ended) -> Exception | None:
    error = ended.error
    if ended.reason in _TIMEOUTS:
        return TaskTimeoutError(str(error))
    if ended.reason in _LOST:
        return TaskInterruptedError(str(getattr(error, "code", "Interrupted")), str(error), ended.worker)
    if type(error) is RuntimeUserError:
        custom = CustomError(error.code, str(error))
        custom.worker = error.worker
        return custom
    return None


def _is_exhausted(ended: Ended) -> bool:
    """Whether this was the last of several attempts, and another attempt might have helped."""
    if ended.max_attempts == 1 or ended.attempt + 1 < ended.max_attempts or not ended.recoverable:
        return False
    return ended.reason not in _NEVER_RETRIED and not isinstance(ended.error, OOMError)


def _sentence(reference: str, cluster: str) -> str:
    return f"the reference says {reference}; today's cluster raises {cluster}"
