"""What a run is for: one of these, from its beginning to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Call:
    """A program began it, by ``flyte.run`` or by a call of a task, and gets its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """It is a cell with ``%%flyte_task``. ``background``: no cell waits for it."""

    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """It runs again what failed.

    ``of`` is the worker that failed first, ``changed`` what is different this time, in a few words. ``cell``: what
    failed is the task of a cell. ``background``: no cell waits for it.
    """

    of: str
    changed: str = ""
    cell: bool = False
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """It runs again what was killed for memory, because its limit may grow; all these runs are shown together.

    ``of`` is the worker that was killed first, ``limit`` the new limit as a quantity. ``cell``: as of `Rerun`.
    """

    of: str
    limit: str
    cell: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FitTrial:
    """It finds out whether a limit passes. ``cell``: what is run is the task of a cell."""

    cell: bool = False


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """It is one of many runs of a sweep, which shows what they say together; the history does not list it."""


CALL: Final = Call()

Purpose = Call | Cell | Rerun | Grown | FitTrial | SweepPoint


def purpose_of(*, lands: bool, apart: bool, of_fit: bool, rerun_of: str | None, rerun_with: str) -> Purpose:
    """Return the purpose of a run that was saved, from the facts that `Run.to_dict` writes."""
    if of_fit:
        return FitTrial(cell=lands)
    if rerun_of is not None:
        return Rerun(of=rerun_of, changed=rerun_with, cell=lands, background=apart)
    return Cell(background=apart) if lands else CALL
