"""Files with inputs that are too large for a literal, by the run that they were written for.

They are removed when their run has passed. Those of failed runs are kept for a while, so that the run can be repeated
with exactly the same inputs: for the last `KEPT_RUNS` runs, and at most `KEPT_BYTES` unless the last one alone has
more.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field

from flyte_notebook.core import private

KEPT_RUNS = 20
KEPT_BYTES = 768 << 20


@dataclass(slots=True, kw_only=True)
class _Files:
    paths: list[str] = field(default_factory=list)
    size_bytes: int = 0


class SpooledInputs:
    """The files of the runs of one process. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _Files] = {}
        self._failed: dict[str, _Files] = {}

    def add(self, run_name: str, path: str, size_bytes: int) -> None:
        """Note a file that was written for a run."""
        with self._lock:
            files = self._failed.pop(run_name, None) or self._running.get(run_name) or _Files()
            files.paths.append(path)
            files.size_bytes += size_bytes
            self._running[run_name] = files

    def end(self, run_name: str, *, failed: bool) -> None:
        """Remove the files of a run that has ended, or keep them for a while if it failed. Idempotent."""
        with self._lock:
            files = self._running.pop(run_name, None)
            if failed and files is not None:
                self._failed[run_name] = files
            elif not failed:
                _remove(files)
                _remove(self._failed.pop(run_name, None))
            while self._too_many():
                _remove(self._failed.pop(next(iter(self._failed))))

    def clear(self) -> None:
        """Remove all files."""
        with self._lock:
            for files in (*self._running.values(), *self._failed.values()):
                _remove(files)
            self._running.clear()
            self._failed.clear()

    def _too_many(self) -> bool:
        size_bytes = sum(files.size_bytes for files in self._failed.values())
        return len(self._failed) > KEPT_RUNS or (size_bytes > KEPT_BYTES and len(self._failed) > 1)


def _remove(files: _Files | None) -> None:
    for path in files.paths if files is not None else ():
        with contextlib.suppress(OSError):
            private.remove(path)


spooled = SpooledInputs()
"""The files of this process."""
