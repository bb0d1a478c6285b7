"""What ran: runs, their actions, their attempts."""

from flyte_notebook.history.history import KEPT_BYTES, KEPT_RUNS, History
from flyte_notebook.history.runs import FACTS_VERSION, Action, Attempt, Run, Runs, draw_runs_with

__all__ = [
    "FACTS_VERSION",
    "KEPT_BYTES",
    "KEPT_RUNS",
    "Action",
    "Attempt",
    "History",
    "Run",
    "Runs",
    "draw_runs_with",
]
