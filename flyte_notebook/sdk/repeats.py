"""Failed attempts that can be repeated: the same task, with the very same inputs, under other settings.

For each failure its job is kept: the payload has the task and the serialised inputs, large ones as names of files that
`flyte_notebook.sdk.spooled` keeps for the same time. A repeat is like any other run: the overridden task is called with
the inputs.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO

import flyte

from flyte_notebook.core import private
from flyte_notebook.core.bound import unique
from flyte_notebook.core.overrides import resources_with
from flyte_notebook.sdk import seam, tasks
from flyte_notebook.sdk.types import released

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyte_notebook.core.job import Job
    from flyte_notebook.core.overrides import Override

KEPT = 20
KEPT_BYTES = 256 << 20
"""The limit for payloads on disk; files of large inputs have a separate limit, and both together stay under 1 GiB."""

INLINE_BYTES = 256 << 10
"""A larger payload is kept in a file."""


class InputsGoneError(LookupError):
    """The inputs of a failed attempt are not kept any more; the text says what to do instead."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Kept:
    job: Job
    path: str | None
    size_bytes: int


class Repeats:
    """The failed attempts of one session that can be repeated: the last `KEPT`. Any method from any thread."""

    def __init__(self, directory: Callable[[], str]) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def keep(self, job: Job) -> None:
        """Keep the inputs of a failed attempt. A retry of the same action replaces the previous attempt."""
        kept = self._stored(job)
        with self._lock:
            for worker, earlier in list(self._kept.items()):
                if (earlier.job.run, earlier.job.action) == (job.run, job.action):
                    _remove(self._kept.pop(worker))
            if kept is not None:
                self._kept[job.worker] = kept
            while len(self._kept) > KEPT or self._too_large():
                _remove(self._kept.popitem(last=False)[1])

    def _stored(self, job: Job) -> _Kept | None:
        if job.payload_path is None and len(job.payload) <= INLINE_BYTES:
            return None if job.unsent else _Kept(job=job, path=None, size_bytes=0)
        path = f"{self._directory()}/{unique()}.repeat"
        size_bytes = len(job.payload)
        try:
            if job.payload_path is None:
                private.write(path, job.payload)
            else:
                size_bytes = private.link(job.payload_path, path)  # the job removes its own
        except OSError:
            return None  # a full disk: the card says that the inputs are not kept
        return _Kept(job=replace(job, payload=b"", payload_path=None), path=path, size_bytes=size_bytes)

    def _too_large(self) -> bool:
        return sum(kept.size_bytes for kept in self._kept.values()) > KEPT_BYTES

    def find(self, worker: str) -> Repeat:
        """Return the repeatable attempt of that name. Raises `InputsGoneError`."""
        with self._lock:
            kept = self._kept.get(worker)
            if kept is None:
                raise InputsGoneError(_gone(f"only those of the last {KEPT} failures are, up to 1 GiB"))
            try:
                file = io.BytesIO(kept.job.payload) if kept.path is None else private.read(kept.path)
            except OSError as error:
                raise InputsGoneError(_gone(str(error))) from error
        with file:
            return Repeat(file)

    def job(self, worker: str) -> Job | None:
        """Return the job of that name, perhaps without its payload; ``None`` when it is not kept."""
        with self._lock:
            kept = self._kept.get(worker)
        return None if kept is None else kept.job

    def clear(self) -> None:
        """Forget all attempts, and remove the files."""
        with self._lock:
            while self._kept:
                _remove(self._kept.popitem()[1])


class Repeat:
    """One failed attempt, ready to be repeated."""

    def __init__(self, payload: BinaryIO) -> None:
        call = tasks.unpack(payload)["call"]
        self._task: Any = call["task"]
        self._inputs: Any = call["inputs"]

    @property
    def task(self) -> Any:
        """The task as it was called."""
        return self._task

    def arguments(self) -> dict[str, Any]:
        """Return the inputs as Python values; in any thread. Raises `InputsGoneError`."""
        # In a separate thread: the loop of a notebook runs already, and would start the next cell.
        with ThreadPoolExecutor(1, thread_name_prefix="flyte-notebook inputs") as thread:
            return thread.submit(self._arguments).result()

    def _arguments(self) -> dict[str, Any]:
        loop = asyncio.new_event_loop()  # asyncio.run may be patched, and then leaves its loop open
        try:
            values = loop.run_until_complete(seam.native_inputs(self._inputs, self._task.native_interface))
        except Exception as error:
            if _is_of_a_missing_file(error):
                raise InputsGoneError(_gone(f"only those of the last {KEPT} failed runs are, up to 1 GiB")) from error
            fault = private.fault_in(error)
            if fault is not None:
                raise InputsGoneError(_gone(str(fault))) from error
            raise
        finally:
            loop.close()
        return {name: released(value) for name, value in values.items()}


def with_override(task: Any, override: Override) -> Any:
    """Return a task with other settings, by its own ``override``. Raises ValueError if the SDK does not allow it."""
    changes: dict[str, Any] = {}
    if override.memory_bytes is not None or override.cpu_cores is not None:
        changes["resources"] = flyte.Resources(**resources_with(tasks.declared_resources(task), override))  # type: ignore[arg-type]  # by name
    if override.max_runtime_s is not None:
        changes["timeout"] = _timeout(task.timeout, override.max_runtime_s)
    if override.retries is not None:
        changes["retries"] = flyte.RetryStrategy(count=override.retries)  # the SDK treats a plain 0 as not given
    return task.override(**changes) if changes else task


def _timeout(declared: Any, max_runtime_s: float) -> flyte.Timeout:
    runtime = timedelta(seconds=max_runtime_s)
    if isinstance(declared, flyte.Timeout):
        return replace(declared, max_runtime=runtime)
    return flyte.Timeout(max_runtime=runtime)


def _is_of_a_missing_file(error: BaseException | None) -> bool:
    """Whether an error, possibly wrapped by the SDK, says that a file does not exist."""
    while error is not None and not isinstance(error, FileNotFoundError):
        error = error.__cause__
    return error is not None


def _remove(kept: _Kept) -> None:
    if kept.path is not None:
        with contextlib.suppress(OSError):
            private.remove(kept.path)


def _gone(why: str) -> str:
    return f"the inputs of this attempt are not kept any more ({why}); run its cell again with another limit"
