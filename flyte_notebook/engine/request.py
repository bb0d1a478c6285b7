"""The request to the supervisor when an attempt needs a worker: program, environment, search path, descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flyte_notebook.core.bound import to_json
from flyte_notebook.engine import around
from flyte_notebook.worker.process import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from flyte_notebook.core.job import Job, Surroundings

THREAD_COUNT_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(''.join(sys.argv[2:])); "
    "from flyte_notebook.worker.process.child import begin; begin(sys.argv[1:2])"
)


DESCRIPTORS = 6
"""The most descriptors that a starting attempt uses, in this process and in the supervisor; later about half of it."""

DESCRIPTORS_FOR_OTHERS = 16
MANY_DESCRIPTORS = 10_000

Start = Literal["any", "fresh", "cautious"]
"""Which worker runs a job: any; one with its own interpreter; or one with its own interpreter that starts with the
variables for interpreters which the notebook's interpreter was started with."""


def request(job: Job, surroundings: Surroundings, session: str, start: Start) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the request to the supervisor, and the variables that the worker has to set after its start."""
    variables = {**surroundings.environ, **_variables(job, surroundings, session)}
    now, later = around.at_start(around.sendable(variables), cautious=start == "cautious")
    search = list(surroundings.sys_path)
    asked = {
        "name": group_name(job),
        "argv": [around.interpreter(), "-c", _BOOT, job.entry, *around.pieces(to_json(search))],
        "entry": job.entry,
        "sys_path": search,
        "fresh": start != "any",
        "cwd": surroundings.cwd,
        "environ": now,
    }
    return asked, later


def _variables(job: Job, surroundings: Surroundings, session: str) -> dict[str, str]:
    variables = {
        "FLYTE_NOTEBOOK_SESSION": session,
        "FLYTE_NOTEBOOK_ATTEMPT": group_name(job),
        "FLYTE_ATTEMPT_NUMBER": str(job.attempt),
        "FLYTE_DISABLE_TELEMETRY": "1",
    }
    if job.limits.cpu_cores is not None:
        threads = str(max(1, round(job.limits.cpu_cores + 0.49)))
        variables |= {name: threads for name in THREAD_COUNT_VARIABLES if name not in surroundings.environ}
    return {**variables, **{str(name): str(value) for name, value in job.env_vars.items()}}


def group_name(job: Job) -> str:
    """Return a readable name that is safe as a file name and unique among the current attempts."""
    run = "".join(letter if letter.isalnum() else "-" for letter in job.run)[-40:]
    return f"{run}-{job.action}-{job.attempt}"


def opened() -> tuple[socket.socket, socket.socket, tuple[int, int], tuple[int, int]]:
    """Open the two ends of an attempt's channel, and two pipes. Raises OSError; then all are closed."""
    with above_standard(), contextlib.ExitStack() as so_far:
        ours, theirs = protocol.pair()
        so_far.callback(ours.close)
        so_far.callback(theirs.close)
        out = os.pipe()
        so_far.callback(os.close, out[0])
        so_far.callback(os.close, out[1])
        err = os.pipe()
        so_far.pop_all()
    return ours, theirs, out, err


def places(supervisor_pid: int | None) -> int:
    """Return how many attempts may run at one time, by the limit of open files; called when none runs."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most > MANY_DESCRIPTORS:
        return MANY_DESCRIPTORS
    taken = 0
    for directory in ("/dev/fd", f"/proc/{supervisor_pid}/fd"):
        with contextlib.suppress(OSError):  # no supervisor runs now, or no descriptor is free to read this
            taken = max(taken, len(list(Path(directory).iterdir())))
    return max(1, (most - taken - DESCRIPTORS_FOR_OTHERS) // DESCRIPTORS)


@contextlib.contextmanager
def above_standard() -> Iterator[None]:
    """Keep descriptors 0 to 2 from being used for newly opened files: prints would be written to them."""
    with contextlib.ExitStack() as filled:
        for number in range(3):
            if _is_closed(number):
                filled.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield


def _is_closed(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return True
    return False
