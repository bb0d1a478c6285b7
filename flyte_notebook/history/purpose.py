"""The purpose of a run: one of these classes; it does not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Call:
    """A program began the run, by ``flyte.run`` or by a call of a task, and gets its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The run is a cell with ``%%flyte_task``. ``background``: no cell waits for it; ``code``: the hash of its text."""

    background: bool = False
    code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """The run repeats a failed run.

    ``of`` is the worker that failed first, ``changed`` are the changed settings in a few words. ``cell``: the task of a
    cell failed. ``background``: no cell waits for it.
    """

    of: str
    changed: str = ""
    cell: bool = False
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """The run repeats a run that was killed for memory, because its limit may grow; all these runs are shown together.

    ``of`` is the worker that was killed first, ``limit`` the new limit as a quantity. ``cell``: as of `Rerun`.
    """

    of: str
    limit: str
    cell: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FitTrial:
    """The run finds out whether a limit passes. ``cell``: it runs the task of a cell."""

    cell: bool = False


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """The run is one of many of a sweep, which shows their results together; the history does not list it."""


CALL: Final = Call()

Purpose = Call | Cell | Rerun | Grown | FitTrial | SweepPoint


def purpose_of(*, lands: bool, apart: bool, of_fit: bool, rerun_of: str | None, rerun_with: str) -> Purpose:
    """Return the purpose of a saved run, from the facts that `Run.to_dict` writes."""
    if of_fit:
        return FitTrial(cell=lands)
    if rerun_of is not None:
        return Rerun(of=rerun_of, changed=rerun_with, cell=lands, background=apart)
    return Cell(background=apart) if lands else CALL
