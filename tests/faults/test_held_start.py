"""A worker that the kernel holds on the way to its program, as a dead file system does: only its own task fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from programs import facts_of

from flyte_notebook.engine.link import WORKERS_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.cgroup, pytest.mark.linux]

# In the supervisor each group of a run that is called so has one more door, a pipe without a reader: who writes waits.
PROGRAM = """
from flyte_notebook.engine import link

link._BOOT = link._BOOT.replace("from flyte_notebook.worker.process.supervisor", '''
from flyte_notebook.limiters import selection
from flyte_notebook.worker.process import launching
launching.LAUNCH_BOUND_S = 4.0
choose = selection.choose
def choosing(*, session):
    limiter = choose(session=session)
    make = limiter.group
    def group(name, limits):
        made = make(name, limits)
        if name.startswith("held"):
            made.procs_files = (*made.procs_files, PIPE)
        return made
    limiter.group = group
    return limiter
selection.choose = choosing
from flyte_notebook.worker.process.supervisor''')

@env.task
def counts() -> int:
    for number in range(300):
        time.sleep(0.02)
    return number + 1

def held():
    began_s = time.monotonic()
    try:
        flyte.with_runcontext(mode="local", name="held").run(add, 1, 2)
    except flyte.errors.BaseRuntimeError as error:
        found["held"] = {"error": type(error).__name__, "message": str(error), "took_s": time.monotonic() - began_s}

found = {}
with fn.enable():
    engine = enforcement.current().engine
    engine.wait_until_proven()
    supervisor = engine.supervisor_pid
    threads = [threading.Thread(target=held), threading.Thread(target=lambda: found.update(counts=facts_of(counts)))]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    found["meanwhile"] = facts_of(add, 3, 4)
    found["before"] = "held" not in found
    for thread in threads:
        thread.join()
    found["after"] = facts_of(add, 5, 6)
    facts(same=supervisor == engine.supervisor_pid, **found)
"""


def test_a_worker_that_is_held_fails_alone(tmp_path: Path) -> None:
    """Its task fails within the bound with a system error that says why; the others run on, and new ones start."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = facts_of(PROGRAM.replace("PIPE", repr(str(pipe))), tmp_path, environ={WORKERS_VARIABLE: "fresh"})
    assert ({"outputs": ["300"]}, {"outputs": ["7"]}, {"outputs": ["11"]}) == (
        found["counts"],
        found["meanwhile"],
        found["after"],
    )
    assert (True, True) == (found["same"], found["before"])
    assert "RuntimeSystemError" == found["held"]["error"]
    words = "no worker could be started: its process took more than 4 s to start, and was killed"
    assert words in found["held"]["message"]
    assert 4 <= found["held"]["took_s"] < 8
