"""The history of runs: runs, their actions, their attempts."""

from flyte_notebook.history.history import KEPT_BYTES, KEPT_RUNS, History
from flyte_notebook.history.purpose import CALL, Call, Cell, FitTrial, Grown, Purpose, Rerun, SweepPoint, purpose_of
from flyte_notebook.history.runs import FACTS_VERSION, Action, Attempt, Run, Runs, draw_runs_with, unique_name

__all__ = [
    "CALL",
    "FACTS_VERSION",
    "KEPT_BYTES",
    "KEPT_RUNS",
    "Action",
    "Attempt",
    "Call",
    "Cell",
    "FitTrial",
    "Grown",
    "History",
    "Purpose",
    "Rerun",
    "Run",
    "Runs",
    "SweepPoint",
    "draw_runs_with",
    "purpose_of",
    "unique_name",
]
