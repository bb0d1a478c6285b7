"""What runs in a pod around a cell: its memory is sampled, and an error is described in the log.

The cluster itself keeps the message of an error and neither its traceback nor the memory over time.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from flyte_notebook.core.bound import sleep_s
from flyte_notebook.errors import BaseRuntimeError
from flyte_notebook.sdk.cluster import sampling, tagged, usage
from flyte_notebook.worker.process.raised import describe
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXT_CHARS: Final = 50_000

EXIT_PAUSE_S: Final = 0.1
"""How long a pod waits before its interpreter ends. Threads of the SDK's object store may still call into Python then:
the process ends with SIGABRT, after its outputs were written, and the cluster tells a failure (9 of 168 runs)."""

here = False
"""Whether this process is a pod's; set by what loads this package there."""


def loaded(payload: bytes) -> Any:
    """Return the task in a payload of `ClusterTask`."""
    pickling.by_name_everywhere()
    if here:
        atexit.register(sleep_s, EXIT_PAUSE_S)
    kind, state = pickle.loads(payload)  # noqa: S301 - the notebook's own
    task = kind.__new__(kind)
    task.__setstate__(state)
    return task


@contextmanager
def watched() -> Iterator[None]:
    """Sample the memory of this process meanwhile, and describe an error in the log before it goes on its way."""
    sampler, pid = None, os.getpid()
    tagged.write(usage.record(pid))
    with contextlib.suppress(OSError):  # without it there are two samples
        sampler = sampling.start(pid)
    try:
        yield
    except BaseException as error:
        exited = error.__cause__
        tagged.write({"raised": described(exited if isinstance(exited, SystemExit) else error)})
        raise
    finally:
        if sampler is not None:
            sampler.kill()
            sampler.wait()
        tagged.write(usage.record(pid))


def described(error: BaseException) -> dict[str, Any]:
    """Return the facts of an error as JSON-like values: class, message, traceback and the user's lines."""
    facts = describe(error)
    return {
        "type_name": facts.type_name,
        "code": str(error.code) if isinstance(error, BaseRuntimeError) else facts.type_name,
        "module": facts.module,
        "message": facts.message[:MAX_TEXT_CHARS],
        "traceback": facts.traceback[-MAX_TEXT_CHARS:],
        "lines": [dataclasses.asdict(line) for line in facts.lines],
    }
