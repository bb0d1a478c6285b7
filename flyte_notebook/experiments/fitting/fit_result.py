"""The results of a fit: for each task, and for the whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from flyte_notebook.core.units import format_memory, quantity_memory
from flyte_notebook.experiments.fitting.advice import POD_BYTES, Saying, others_say, recommend
from flyte_notebook.experiments.fitting.search import Measure, is_cached, smallest_passing, spread, step, varies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flyte_notebook.core.trace import MemoryTrace

Verdict: TypeAlias = Literal["found", "unconfirmed", "never_fits", "failed", "interrupted"]
"""``unconfirmed``: a limit passes, but it is not known to be the smallest. ``failed``: it fails at any limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFit:
    """The result of a fit for one task.

    ``declared_bytes`` is the limit that it declares, ``None`` without one. ``peak_bytes`` is the highest peak of a run
    that passed, with page cache, and ``counted_bytes`` the smallest limit for this peak. ``memory_bytes`` is the
    smallest limit that passes and ``recommended_bytes`` the one to keep, ``None`` where none was found. It includes
    ``pod_bytes`` for a Flyte pod's own entry point and ``margin_bytes`` for unmeasured cases. ``line`` is the code to
    keep.
    """

    task_name: str
    verdict: Verdict
    declared_bytes: int | None = None
    peak_bytes: int | None = None
    counted_bytes: int | None = None
    measures: tuple[Measure, ...] = field(default=(), repr=False)
    memory_bytes: int | None = None
    recommended_bytes: int | None = None
    margin_bytes: int = 0
    pod_bytes: int = 0
    line: str = ""

    @property
    def varies(self) -> bool:
        """Whether its peak differs between runs by more than the tolerance of the limit."""
        return varies(self.measures)

    @property
    def peaks(self) -> tuple[int, int]:
        """The lowest and the highest of the peaks that are known exactly; zeros without one."""
        return spread(self.measures)

    @property
    def others(self) -> tuple[Saying, ...]:
        """The limits that other methods would choose."""
        peaks = [one.counted_bytes for one in self.measures if one.ended == "passed" and one.counted_bytes]
        return others_say(peaks, declared_bytes=self.declared_bytes, memory_bytes=self.memory_bytes)

    @property
    def cached(self) -> bool:
        """Whether page cache was a part of its peak."""
        return is_cached([measure for measure in self.measures if measure.ended == "passed"])


def task_fit(
    task_name: str,
    seen: Sequence[Measure],
    *,
    room_bytes: int,
    declared_bytes: int | None,
    interrupted: bool = False,
) -> TaskFit:
    """Return the result for a task after these runs."""
    passed = [measure for measure in seen if measure.ended == "passed"]
    found = step(seen, room_bytes)
    verdict: Verdict = "found" if found.settled else "interrupted" if interrupted else "unconfirmed"
    memory_bytes = found.limit_bytes if found.settled else None
    if found.settled and found.limit_bytes is None:
        verdict = "never_fits"
    elif not passed and any(measure.ended == "other" for measure in seen):
        verdict = "failed"
    elif not found.settled and passed and not interrupted:
        low = max((one.limit_bytes for one in seen if one.ended in {"memory", "time"}), default=0)
        memory_bytes = smallest_passing(passed, low)
    lowest, highest = spread(seen)
    margin = None if memory_bytes is None else recommend(memory_bytes, spread_bytes=highest - lowest)
    return TaskFit(
        task_name=task_name,
        verdict=verdict,
        declared_bytes=declared_bytes,
        peak_bytes=max((one.peak_bytes or 0 for one in passed), default=0) or None,
        counted_bytes=max((one.counted_bytes or 0 for one in passed), default=0) or None,
        measures=tuple(seen),
        memory_bytes=memory_bytes,
        recommended_bytes=margin,
        margin_bytes=0 if margin is None or memory_bytes is None else margin - memory_bytes - POD_BYTES,
        pod_bytes=0 if margin is None else POD_BYTES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRun:
    """One run of a fit. ``measures`` are by task name; ``trace`` is that of the task that was fitted."""

    number: int
    name: str
    why: str
    measures: Mapping[str, Measure]
    duration_s: float
    trace: MemoryTrace = field(repr=False)


@dataclass(frozen=True, kw_only=True, repr=False)
class Fit:
    """The result of `flyte_notebook.fit`.

    ``memory`` is the smallest limit that passes, as a quantity (``"450Mi"``), and ``resources`` the ``flyte.Resources``
    to keep, with a margin; both ``None`` when nothing was found, and ``verdict`` and ``headline`` say why. ``line`` is
    those resources as code. ``tasks`` has the same for every task that the run called, the fitted one first; ``runs``
    are the runs that it took. ``error`` is the task's error, if it failed.
    """

    task_name: str
    verdict: Verdict
    headline: str
    tasks: tuple[TaskFit, ...]
    runs: tuple[FitRun, ...]
    resources: Any = None
    enforced: str = ""
    error: BaseException | None = None

    @property
    def task(self) -> TaskFit:
        """The result for the fitted task itself."""
        return self.tasks[0]

    @property
    def memory(self) -> str | None:
        """The smallest limit that passes, as a quantity."""
        return None if self.task.memory_bytes is None else quantity_memory(self.task.memory_bytes)

    @property
    def memory_bytes(self) -> int | None:
        """The same in bytes."""
        return self.task.memory_bytes

    @property
    def line(self) -> str:
        """The code to keep: ``resources=flyte.Resources(cpu=1, memory="464Mi")``; empty when nothing was found."""
        return self.task.line

    def to_dict(self) -> dict[str, Any]:
        """Return the fit for tools: plain values."""
        return {
            "task_name": self.task_name,
            "verdict": self.verdict,
            "headline": self.headline,
            "line": self.line,
            "tasks": [
                {
                    "task_name": task.task_name,
                    "verdict": task.verdict,
                    "declared_bytes": task.declared_bytes,
                    "peak_bytes": task.peak_bytes,
                    "counted_bytes": task.counted_bytes,
                    "memory_bytes": task.memory_bytes,
                    "recommended_bytes": task.recommended_bytes,
                    "line": task.line,
                }
                for task in self.tasks
            ],
            "runs": [
                {
                    "number": run.number,
                    "name": run.name,
                    "why": run.why,
                    "duration_s": round(run.duration_s, 3),
                    "limits": {name: one.limit_bytes for name, one in run.measures.items()},
                    "ended": {name: one.ended for name, one in run.measures.items()},
                }
                for run in self.runs
            ],
        }


def headline(task: TaskFit, runs: int, *, room_bytes: int, why: str = "") -> str:
    """Return one sentence with the result for a task, the number of runs, and the reason for this number.

    ``why`` is the headline of its failure, if it failed.
    """
    counted = f"{runs} run{'' if runs == 1 else 's'}"
    if task.verdict == "failed":
        return f"nothing to fit after {counted}: {why or f'{task.task_name} failed'}; more memory does not help"
    if task.verdict == "never_fits":
        return f"{task.task_name} does not fit on this machine: it needs more than {format_memory(room_bytes)}"
    if task.memory_bytes is None:
        peak = "" if task.peak_bytes is None else f"; its peak was {format_memory(task.peak_bytes)}"
        return (
            f"not found: it was interrupted after {counted}{peak}"
            if task.verdict == "interrupted"
            else (f"not found in {counted}{peak}")
        )
    found = f"needs at least {quantity_memory(task.memory_bytes)}"
    if task.varies:
        found = f"needs about {quantity_memory(task.memory_bytes)}; chance decides"
    elif task.verdict != "found":
        found = f"needs at most {quantity_memory(task.memory_bytes)}"
    return f"{found} (found in {counted}{_because(task)})"


def _because(task: TaskFit) -> str:
    """Return why it took more than two runs."""
    if task.varies:
        low, high = map(format_memory, task.peaks)
        return f", because its peak differs from run to run, from {low} to {high}"
    refused = any(measure.ended in {"memory", "time"} for measure in task.measures)
    if task.cached:
        files = ", because it reads files, and the file cache hides its peak"
        return f"{files}: the first limit was too small" if refused else files
    return ", because the first limit was too small" if refused else ""
