"""The ways in which a worker may end, as facts and as text: by a signal, without an answer, leaving shared memory."""

from __future__ import annotations

import signal as signals
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from flyte_notebook.core.units import format_duration, format_memory

Step = Literal["handing over", "describing", "pickling", "sending"]
"""The steps of a worker after the body has ended: handling its result, its error, its outputs, the answer."""

_SIGKILL: Final = 9
_MOST_NAMED: Final = 3

_STEPS: Final = {
    "handing over": "hand over what the body gave",
    "describing": "describe the error",
    "pickling": "pickle the outputs",
    "sending": "send the answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """How a worker failed to answer once the body had ended.

    ``detail`` names the output. Either the worker reported that memory was ``refused``, or it did nothing for
    ``silent_s``, or it was not done after ``took_s``. ``reached`` is a limit that its process had reached: name, limit
    in bytes, bytes in use.
    """

    step: Step
    detail: str | None = None
    refused: bool = False
    silent_s: float = 0.0
    took_s: float = 0.0
    reached: tuple[str, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """An object in shared memory that an attempt made; ``why`` says why it was not removed, and is empty if it was."""

    name: str
    size_bytes: int
    why: str = ""


def not_done(step: Step) -> str:
    """Return the beginning of a sentence that says what a worker could not do."""
    return f"the body had ended, but the worker could not {_STEPS[step]}"


def unanswered_words(facts: Unanswered | None) -> str:
    """Return one sentence: what the worker could not do, how that was noticed, and why, if that is known."""
    if facts is None:
        return ""
    what = not_done(facts.step)
    if facts.step == "pickling" and facts.detail:
        what = what.replace("the outputs", f"`{facts.detail}`")
    if facts.refused:
        how = "it ran out of memory over it"
    elif facts.silent_s:
        how = f"it did nothing for {format_duration(facts.silent_s)}"
    else:
        how = f"it was not done after {format_duration(facts.took_s)}"
    why = ""
    if facts.reached is not None:
        name, limit_bytes, used_bytes = facts.reached
        sizes = f"{format_memory(limit_bytes)} that it has set ({format_memory(used_bytes)} in use)"
        why = f"; its process was at the {name} of {sizes}"
    return f"{what}: {how}{why}"


def signal_words(number: int, *, counted: bool) -> str:
    """Return the name of a signal that ended a worker; ``counted`` is whether the kernel counts kills for memory."""
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    said = signals.strsignal(number) if number in signals.valid_signals() else None
    words = f"{name} ({said.lower()})" if said else name
    if number == _SIGKILL and counted:
        words += " from outside (the kernel counted no kill for memory)"
    return words


def left_words(left: Sequence[Left]) -> str:
    """Describe the shared memory that a failed attempt made: first the objects that remain, with the reason."""
    stays = [f"{_named(one)} stays in shared memory: {one.why}" for one in left if one.why]
    gone = [_named(one) for one in left if not one.why]
    if gone:
        stays.append(f"removed from shared memory, as with a pod: {', '.join(_some(gone))}")
    return "; ".join(_some(stays))


def _named(one: Left) -> str:
    return f"`{one.name}` ({format_memory(one.size_bytes)})"


def _some(words: Sequence[str]) -> list[str]:
    more = len(words) - _MOST_NAMED
    return [*words[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]
