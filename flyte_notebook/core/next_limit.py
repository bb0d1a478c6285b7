"""Which memory limit to try after a kill at the limit, and why: from a curve that is cut off there.

Pure functions. The needed amount is not known. Known are: the size of the allocation that was being filled, how memory
changed up to the end, and the size of the inputs. Every estimate is above the limit, since the limit was used up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flyte_notebook.core.units import format_duration, format_memory, quantity_memory

if TYPE_CHECKING:
    from flyte_notebook.core.trace import MemoryTrace

MIB: Final = 1 << 20

MARGIN: Final = 0.10
"""Margin above the requested size: later allocations are not known."""

STEP_BYTES: Final = 16 * MIB
COARSE_STEP_BYTES: Final = 64 * MIB

SMALLEST_BYTES: Final = 128 * MIB
"""Room for the worker and a small library beside it."""

STEADY_S: Final = 1.0
"""A growth is called steady when it lasted this long, at the same rate in its two halves."""
STEADY: Final = 2.0
"""The faster half is at most this many times as fast as the slower one."""

CLOSE: Final = 0.9
"""From this part of the limit on, usage is close to it; an attempt that stays there for a while may need little
more."""
CLOSE_S: Final = 1.0

MOST_NAMED: Final = 3

LARGE_INPUTS: Final = 0.25
"""Inputs of at least this part of the limit are named as a reason."""

_BOUND: Final = "It was killed, so how much it needs is unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """The known facts about an attempt that was killed at its limit.

    ``asked_bytes`` is the size of the last large allocation, and ``before_bytes`` the usage before it; ``None`` where
    there was none, or none was seen. ``inputs_bytes`` is the serialised size of the inputs. ``stage`` as in `outcome`.
    ``line_number`` and ``line_bytes`` are the line that memory grew on most, and by how much. ``machine_bytes`` is the
    most that a task can have on this machine, ``None`` where that is not known.
    """

    limit_bytes: int
    trace: MemoryTrace
    stage: str = "running"
    asked_bytes: int | None = None
    before_bytes: int = 0
    inputs_bytes: int = 0
    line_number: int | None = None
    line_bytes: int = 0
    machine_bytes: int | None = None
    killed_bytes: tuple[int, ...] = ()


def next_limit(kill: Kill) -> tuple[int, str]:
    """Return the limit to try, above the one that was used up, and a sentence that says why."""
    needed_bytes = 0 if kill.asked_bytes is None else kill.before_bytes + kill.asked_bytes
    lower = sorted({limit for limit in kill.killed_bytes if limit < kill.limit_bytes})
    if lower:  # an estimate has been wrong already
        limits = " and ".join(map(quantity_memory, lower[-MOST_NAMED:]))
        why = f"It was killed at {limits} as well; `%flyte fit` finds what it needs"
        return _said(
            kill, _rounded(max(2 * kill.limit_bytes, needed_bytes * (1 + MARGIN))), "at least twice the limit", why
        )
    if needed_bytes > kill.limit_bytes:
        asked = f"asked for {format_memory(kill.asked_bytes or 0)} more"
        why = f"It was using {format_memory(kill.before_bytes)} and {asked}. Later steps may need even more"
        return _said(kill, _rounded(needed_bytes * (1 + MARGIN)), "", why)
    return _by_stage(kill)


def _by_stage(kill: Kill) -> tuple[int, str]:
    """Return a limit and its sentence by what the attempt was doing, where no request for memory is known."""
    memory_bytes, how = 2 * kill.limit_bytes, "twice the limit"
    if kill.stage == "starting" and memory_bytes < SMALLEST_BYTES:
        return _said(kill, SMALLEST_BYTES, "room for Python, Flyte and a small library", _BOUND)
    if kill.stage == "loading":
        inputs = _rounded(2 * kill.inputs_bytes + (kill.trace.baseline_bytes or 0))
        read = f"It was still reading its inputs, which are {format_memory(kill.inputs_bytes)} when serialized"
        return _said(kill, max(memory_bytes, inputs), how if inputs <= memory_bytes else "", read)
    if kill.stage == "returning":
        return _said(kill, memory_bytes, how, "The work itself fitted; it was killed while it returned its result")
    close_s = _close_for_s(kill)
    if close_s >= CLOSE_S:
        more = _rounded(1.5 * kill.limit_bytes)
        near = f"It was close to the limit for the last {format_duration(close_s)}, so it may need only a little more"
        return _said(kill, more, "half as much again", near)
    return _said(kill, memory_bytes, how, _course(kill))


def _course(kill: Kill) -> str:
    """Estimate from the curve up to the kill how much memory is missing."""
    steady = _steady(kill)
    if steady is not None:
        on_line, longer = _on_line(kill), format_duration(kill.limit_bytes / steady)
        where = f", most of it{on_line}" if on_line else ""
        return f"It grew by {format_memory(steady)} a second until the end{where}. This lasts about {longer} longer"
    if kill.inputs_bytes >= LARGE_INPUTS * kill.limit_bytes:
        return f"Its inputs alone are {format_memory(kill.inputs_bytes)} when serialized. {_BOUND}"
    on_line = _on_line(kill)
    return f"Most of it came{on_line}. {_BOUND}" if on_line else _BOUND


def _on_line(kill: Kill) -> str:
    """Return the line that caused most of the growth, if there is one."""
    grew = kill.limit_bytes - (kill.trace.baseline_bytes or 0)
    return "" if kill.line_number is None or kill.line_bytes * 2 < grew else f" on line {kill.line_number}"


def _steady(kill: Kill) -> float | None:
    """Return the bytes per second if memory grew at an even rate up to the end, else ``None``."""
    points = _while_it_lived(kill)
    if len(points) < 4 or points[-1][0] - points[0][0] < STEADY_S:  # noqa: PLR2004 - two for each half
        return None
    (began_s, began), (ended_s, ended) = points[0], points[-1]
    middle_s, middle = min(points, key=lambda point: abs(point[0] - (began_s + ended_s) / 2))
    if not began_s < middle_s < ended_s or not began < middle < ended:
        return None
    first, second = (middle - began) / (middle_s - began_s), (ended - middle) / (ended_s - middle_s)
    return (ended - began) / (ended_s - began_s) if max(first, second) <= STEADY * min(first, second) else None


def _close_for_s(kill: Kill) -> float:
    """Return for how long memory was close to the limit before the kill, without a break."""
    points = _while_it_lived(kill)
    began_s = ended_s = points[-1][0] if points else 0.0
    for time_s, memory in reversed(points):
        if memory < CLOSE * kill.limit_bytes:
            break
        began_s = time_s
    close_s = ended_s - began_s
    steady = _steady(kill)
    # A slow leak over minutes is close to its limit for seconds, although it still grows.
    return 0.0 if steady is not None and close_s * steady > (1 - CLOSE) / STEADY * kill.limit_bytes else close_s


def _while_it_lived(kill: Kill) -> list[tuple[float, int]]:
    """Return the curve up to its highest point: after it the kernel only reclaims the memory of the killed process."""
    points = list(zip(kill.trace.times_s, kill.trace.memory_bytes, strict=False))
    last = max(range(len(points)), key=lambda index: (points[index][1], index), default=-1)
    return points[: last + 1]


def _said(kill: Kill, memory_bytes: int, how: str, why: str) -> tuple[int, str]:
    """Return a limit and its sentence; a limit above this machine's memory is reduced, or the sentence says so."""
    machine_bytes = kill.machine_bytes
    beyond = machine_bytes is not None and memory_bytes > machine_bytes
    all_of_it = 0 if machine_bytes is None else machine_bytes // MIB * MIB
    if beyond and how and all_of_it > kill.limit_bytes:  # a factor is only a guess, and less may do
        memory_bytes, how, beyond = all_of_it, "all that this machine has", False
    what = f"Try {quantity_memory(memory_bytes)}" + (f", {how}" if how else "")
    if beyond:
        what += f", which is more than this machine has ({format_memory(machine_bytes or 0)})"
    return memory_bytes, f"{what}. {why}."


def _rounded(memory_bytes: float) -> int:
    """Round up to a whole number of steps."""
    step = STEP_BYTES if memory_bytes < 1024 * MIB else COARSE_STEP_BYTES
    return -int(-memory_bytes // step) * step
