"""Saved runs, which outlive their kernel: `facts` reads a run from plain values, `store` keeps them in one file.

This package starts nothing, and a loaded run cannot be started again.
"""

from __future__ import annotations

from flyte_notebook.storage.facts import FactsError, run_from
from flyte_notebook.storage.store import MAX_BYTES, MAX_RUNS, StoreError, default_path, load, save

__all__ = ["MAX_BYTES", "MAX_RUNS", "FactsError", "StoreError", "default_path", "load", "run_from", "save"]
