"""Enforcement in scripts: on, off, and what is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import flyte
import flyte.errors
import pytest
from flyte._internal.controllers import _local_controller
from flyte._internal.runtime.entrypoints import direct_dispatch
from flyte.extend import TaskTemplate

import flyte_notebook as fn
from flyte_notebook.engine import EngineError
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cgroup


def test_enable_takes_the_seam_and_disable_gives_it_back() -> None:
    """While enabled the SDK's dispatch and its call outside of runs are ours; afterwards both are the SDK's own."""
    call = TaskTemplate.__call__
    with fn.enable():
        assert direct_dispatch is not _local_controller.direct_dispatch
        assert call is not TaskTemplate.__call__
    assert direct_dispatch is _local_controller.direct_dispatch
    assert call is TaskTemplate.__call__
    assert enforcement.current() is None


def test_every_error_of_flyte_has_a_failure_while_enabled() -> None:
    """Also one that the notebook raised itself: what it is, and that no task raised it; afterwards classes are bare."""
    error = flyte.errors.OOMError("OOMKilled", "by hand")
    with fn.enable():
        failure = error.failure
        assert ("user", "OOMKilled", "by hand") == (failure.kind, failure.code, failure.message)
        assert "raised in the notebook itself" in failure.headline
        assert failure.error is error
        assert isinstance(flyte.errors.ActionNotFoundError("x").failure, fn.Failure)
    assert not hasattr(error, "failure")


def test_enable_and_disable_may_be_called_twice() -> None:
    """A second enable changes nothing, a second disable does nothing."""
    fn.enable()
    first = enforcement.current()
    fn.enable()
    assert first is enforcement.current()
    fn.disable()
    fn.disable()
    assert enforcement.current() is None


def test_disable_leaves_no_thread_and_no_process() -> None:
    """The engine's thread and the supervisor are gone when disable returns."""
    fn.enable()
    session = enforcement.current()
    assert session is not None
    pid = session.engine.supervisor_pid
    assert pid is not None
    os.kill(pid, 0)
    fn.disable()
    assert "flyte-notebook-engine" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_machine_without_workers_is_refused_and_the_sdk_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the supervisor cannot start, enable raises with its last words, and nothing is patched."""
    monkeypatch.setenv("FLYTE_NOTEBOOK_LIMITER", "no_such_mechanism")
    with pytest.raises(EngineError, match=r"no_such_mechanism: it may be cgroup_v2, cgroup_v1, watchdog"):
        fn.enable()
    assert direct_dispatch is _local_controller.direct_dispatch
    assert enforcement.current() is None


def test_the_history_outlives_a_session() -> None:
    """Runs of an earlier session are still in fn.runs."""
    before = fn.last_run
    with fn.enable(), pytest.raises(flyte.errors.RuntimeUserError):
        flyte.run(fails)
    assert before is not fn.last_run
    assert fn.last_run is fn.runs[-1]
    assert fn.last_failure is not None
    assert "ZeroDivisionError" == fn.last_failure.code


@flyte.TaskEnvironment(name="enable").task
def fails() -> float:
    return 1 / 0


def test_the_doctor_in_a_terminal() -> None:
    """The command line says what is enforced, by what, how exact, after a worker really ran; status 0."""
    done = subprocess.run([sys.executable, "-m", "flyte_notebook"], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert "memory" in done.stdout
    assert "kernel (cgroup v" in done.stdout
    assert "works (tested just now)" in done.stdout


def test_the_doctor_says_when_limits_are_only_polled() -> None:
    """With the watchdog the report says polled, and by how much it may overshoot."""
    environ = {**os.environ, "FLYTE_NOTEBOOK_LIMITER": "watchdog"}
    command = [sys.executable, "-m", "flyte_notebook"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert "polled every 5 ms, may overshoot by about 100 MiB" in done.stdout


def test_a_module_next_to_the_script_cannot_break_the_supervisor(tmp_path: Path) -> None:
    """A user's socket.py in the current directory is not what the supervisor imports."""
    (tmp_path / "selectors.py").write_text("raise RuntimeError('the wrong module')\n")
    program = "import sys; sys.path[0:0] = ['/']; import flyte_notebook as fn; fn.enable(); fn.disable(); print('fine')"
    command = [sys.executable, "-P", "-c", program]  # without -P the program itself reads the wrong module
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "fine\n" == done.stdout, done.stderr


def test_an_engine_that_was_begun_is_closed_where_no_session_takes_it() -> None:
    """Settings that are none are found after the supervisor was begun: nothing of it is left."""
    program = (
        "import threading\nimport flyte_notebook as fn\nfrom flyte_notebook.sdk import ahead\n"
        "begun = []\nbegin = ahead.begin\nahead.begin = lambda: (begin(), begun.append(ahead._begun))\n"
        "try:\n    fn.enable(semantics='none')\nexcept ValueError:\n"
        "    ours = [thread.name for thread in threading.enumerate() if 'notebook' in thread.name]\n"
        "    print(begun[0] is not None, ahead._begun, begun[0].supervisor_pid, ours)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "True None None []" == done.stdout.strip()


SCRIPT = """
import sys
import flyte, flyte_notebook as fn

env = flyte.TaskEnvironment(name="e", resources=flyte.Resources(memory="150Mi"))

@env.task
def eat() -> int:
    large = bytearray(400 << 20)
    return len(large)

@env.task
def refuse() -> int:
    raise MemoryError

if __name__ == "__main__":
    with fn.enable():
        flyte.run(globals()[sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            "eat",
            [
                "e.eat: ran out of memory (limit 150 MiB)",
                "line 9, in eat",
                "    large = bytearray(400 << 20)",
                "\nTry ",
            ],
        ),
        ("refuse", ["e.refuse: raised MemoryError", "line 14, in refuse", "    raise MemoryError"]),
    ],
)
def test_a_script_that_fails_says_what_happened_and_where(tmp_path: Path, task: str, said: list[str]) -> None:
    """The error that ends it has a note with the headline, the line and what to try; the SDK's text alone has none."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run([sys.executable, script, task], capture_output=True, text=True, check=False, timeout=100)
    assert 1 == ran.returncode
    note = ran.stderr.partition("[flyte_notebook] ")[2]
    assert [] == [words for words in said if words not in note]
    assert 1 == ran.stderr.count("[flyte_notebook] ")
