"""The smallest memory limit that a task passes: the next try (`search`), the results, the limit to keep (`advice`).

Pure functions: `flyte_notebook.sdk.fit` starts the runs.
"""

from __future__ import annotations

from flyte_notebook.experiments.fitting.advice import (
    MARGIN,
    POD_BYTES,
    Saying,
    kept_after,
    others_say,
    recommend,
    would_do,
)
from flyte_notebook.experiments.fitting.fit_result import Fit, FitRun, TaskFit, Verdict, headline, task_fit
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
    "kept_after",
    "others_say",
    "recommend",
    "step",
    "task_fit",
    "tolerance",
    "would_do",
]
