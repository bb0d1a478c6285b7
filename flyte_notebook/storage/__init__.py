"""Runs that are kept beyond their kernel: what was written is read again (`facts`), one file holds them (`store`).

Nothing here starts anything, and a run that was read has nothing that could be started.
"""

from __future__ import annotations

from flyte_notebook.storage.facts import FactsError, run_from
from flyte_notebook.storage.store import MAX_BYTES, MAX_RUNS, StoreError, default_path, load, save

__all__ = ["MAX_BYTES", "MAX_RUNS", "FactsError", "StoreError", "default_path", "load", "run_from", "save"]
