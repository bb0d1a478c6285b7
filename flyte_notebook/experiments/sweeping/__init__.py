"""Runs across limits and values of an input: the plan (`plan`), the results (`found`), and a fitted line (`trend`).

Pure functions: `flyte_notebook.sdk.sweep` starts the runs.
"""

from __future__ import annotations

from flyte_notebook.experiments.sweeping.plan import (
    RANGE,
    VALUES,
    MemoryRange,
    Over,
    Plan,
    Planned,
    SweepError,
    check_size,
    example,
    over_values,
    parse_over,
    parse_range,
)
from flyte_notebook.experiments.sweeping.sweep_result import (
    ENDS,
    Need,
    Point,
    PointEnd,
    Sweep,
    formula,
    plan_facts,
    value_words,
)
from flyte_notebook.experiments.sweeping.trend import Trend, trend_of

__all__ = [
    "ENDS",
    "RANGE",
    "VALUES",
    "MemoryRange",
    "Need",
    "Over",
    "Plan",
    "Planned",
    "Point",
    "PointEnd",
    "Sweep",
    "SweepError",
    "Trend",
    "check_size",
    "example",
    "formula",
    "over_values",
    "parse_over",
    "parse_range",
    "plan_facts",
    "trend_of",
    "value_words",
]
