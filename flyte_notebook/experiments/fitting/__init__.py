"""The smallest memory limit that a task passes: what to try next (`search`), what was found, what to keep (`advice`).

Pure: runs are started by `flyte_notebook.sdk.fit`.
"""

from __future__ import annotations

from flyte_notebook.experiments.fitting.advice import (
    MARGIN,
    POD_BYTES,
    Saying,
    less_than,
    others_say,
    recommend,
    would_do,
)
from flyte_notebook.experiments.fitting.found import Fit, FitRun, TaskFit, Verdict, headline, task_fit
from flyte_notebook.experiments.fitting.search import MIB, MOST_RUNS, Measure, Step, TrialEnd, edge, step, tolerance

__all__ = [
    "MARGIN",
    "MIB",
    "MOST_RUNS",
    "POD_BYTES",
    "Fit",
    "FitRun",
    "Measure",
    "Saying",
    "Step",
    "TaskFit",
    "TrialEnd",
    "Verdict",
    "edge",
    "headline",
    "less_than",
    "others_say",
    "recommend",
    "step",
    "task_fit",
    "tolerance",
    "would_do",
]
