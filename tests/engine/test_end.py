"""Whatever ends a kernel or a script, nothing of ours is left two seconds later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import leaks
import pytest
from bounds import under_load

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cgroup

GONE_S = 2.0
OURS = frozenset({"descriptor", "thread"})
"""Of the process that tests."""

PROGRAM = """
import asyncio, os, subprocess, sys, time
import flyte, flyte.errors
import flyte_notebook as fn

env = flyte.TaskEnvironment(name="end", resources=flyte.Resources(cpu=1, memory="250Mi"))

@env.task
def sleeper(seconds: int) -> int:
    eater = "import os, time; os.setsid(); time.sleep(120)"
    subprocess.Popen([sys.executable, "-c", eater])
    print("asleep", flush=True)
    time.sleep(seconds)
    return seconds

@env.task
async def parent() -> None:
    await asyncio.gather(sleeper.aio(100), sleeper.aio(100))

@env.task(retries=5)
def fails() -> None:
    raise ValueError("again")
"""

INTERRUPTED = """
fn.enable()
flyte.init()
print("ready", flush=True)
try:
    flyte.run({call})
except KeyboardInterrupt as error:
    print("interrupted " + type(error.__cause__).__name__, flush=True)  # one write: a log line may come between two
print("after", flush=True)
fn.disable()
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a script in a session of its own, and end what is left of it."""
    path = tmp_path / "script.py"
    started: list[subprocess.Popen[str]] = []

    def start(body: str) -> subprocess.Popen[str]:
        path.write_text(PROGRAM + body)
        process = subprocess.Popen(
            [sys.executable, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start  # type: ignore[misc]  # a function that makes one
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def read_until(process: subprocess.Popen[str], word: str, count: int = 1) -> str:
    """Return the line that is the so-manieth with the word."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        count -= word in line
        if count == 0:
            return line
    return pytest.fail(f"the script ended before it said {word!r}:\n{text}")


def assert_all_gone(before: leaks.Snapshot) -> None:
    assert [] == leaks.settle(before, leave=OURS, grace_s=under_load(GONE_S))


def test_a_killed_kernel_leaves_nothing(script) -> None:  # noqa: ANN001 - a fixture that makes processes
    """SIGKILL of the process with two tasks and their grandchildren running: all gone within two seconds."""
    before = leaks.Snapshot.take()
    process = script("\nfn.enable(); flyte.init(); flyte.run(parent)\n")
    read_until(process, "asleep", 2)
    during = leaks.leaked(before, leaks.Snapshot.take())
    assert len([line for line in during if line.startswith("process")]) >= 6
    process.kill()
    process.wait()
    assert_all_gone(before)


def test_a_killed_kernel_with_a_forked_child_leaves_nothing(script) -> None:  # noqa: ANN001 - as above
    """A child that the kernel forked and that outlives it does not keep the tasks alive."""
    process = script(
        "\nfn.enable(); flyte.init()\nif os.fork() == 0:\n    time.sleep(100); os._exit(0)\nflyte.run(parent)\n"
    )
    before = leaks.Snapshot.take()
    read_until(process, "asleep", 2)
    process.kill()
    process.wait()
    until_s = time.monotonic() + under_load(GONE_S)
    while True:
        late = time.monotonic() > until_s
        left = leaks.leaked(before, leaks.Snapshot.take(), leave=OURS)
        others = [line for line in left if "script.py" not in line]
        if not others or late:
            break
    assert [] == others
    assert left, "the child is still there"
    os.killpg(process.pid, signal.SIGKILL)


def test_a_killed_supervisor_ends_the_tasks_and_the_next_run_works(script) -> None:  # noqa: ANN001 - as above
    """Without its supervisor a run fails as a system error; the next one gets a new supervisor; disable cleans up."""
    before = leaks.Snapshot.take()
    process = script(
        "\nfrom flyte_notebook.sdk import enforcement\n"
        "fn.enable(); flyte.init()\n"
        "session = enforcement.current()\n"
        "session.engine.wait_until_proven()\n"
        "pid = session.engine.supervisor_pid\n"
        "print('supervisor', pid, flush=True)\n"
        "try:\n    flyte.run(parent)\n"
        "except flyte.errors.RuntimeSystemError as error:\n    print(f'lost {error.code} {error}', flush=True)\n"
        "assert flyte.run(sleeper, 0).outputs()[0] == 0\n"
        "assert session.engine.supervisor_pid != pid\n"
        "fn.disable()\nprint('done', flush=True)\n"
    )
    supervisor = int(read_until(process, "supervisor").split()[1])
    read_until(process, "asleep", 2)
    os.kill(supervisor, signal.SIGKILL)
    read_until(process, "lost Interrupted")
    read_until(process, "done")
    process.wait(10)
    assert_all_gone(before)


@pytest.mark.parametrize("call", ["sleeper, 100", "parent"])
def test_an_interrupt_ends_a_run_within_a_second(script, call: str) -> None:  # noqa: ANN001 - as above
    """Ctrl-C in a script: KeyboardInterrupt from the ActionAbortedError of the run, and nothing goes on."""
    before = leaks.Snapshot.take()
    process = script(INTERRUPTED.format(call=call))
    read_until(process, "asleep", 1 if call != "parent" else 2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    read_until(process, "interrupted ActionAbortedError")
    assert time.monotonic() - began < under_load(1.0)
    process.wait(10)
    assert 0 == process.returncode
    assert_all_gone(before)


def test_an_interrupt_between_two_attempts_ends_the_run(script) -> None:  # noqa: ANN001 - as above
    """Ctrl-C while the SDK sleeps before the next attempt: that attempt never starts."""
    process = script(INTERRUPTED.format(call="fails").replace('print("after"', 'time.sleep(3)\nprint("after"'))
    read_until(process, "retrying in 1.00s")
    process.send_signal(signal.SIGINT)
    read_until(process, "interrupted ActionAbortedError")
    assert process.stdout is not None
    assert "failed on attempt 3" not in process.stdout.read()
    process.wait(10)


def test_an_exit_without_disable_leaves_nothing(script) -> None:  # noqa: ANN001 - as above
    """A script that just ends, by its last line or by sys.exit, leaves nothing."""
    before = leaks.Snapshot.take()
    process = script("\nfn.enable(); flyte.init(); print(flyte.run(sleeper, 0).outputs()); sys.exit(5)\n")
    assert 5 == process.wait(30)
    assert_all_gone(before)


def test_leftovers_of_a_dead_kernel_are_swept(script) -> None:  # noqa: ANN001 - as above
    """Groups and files of a kernel and a supervisor that both died at once go at the next start."""
    process = script(
        "\nfrom flyte_notebook.sdk import enforcement\nimport signal\n"
        "fn.enable(); flyte.init(); flyte.run(sleeper, 0)\n"
        "os.kill(enforcement.current().engine.supervisor_pid, signal.SIGKILL)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert -signal.SIGKILL == process.wait(30)
    pattern = f"fnb-{process.pid}-*"
    assert list(Path(tempfile.gettempdir()).glob(pattern))
    second = script("\nfn.enable(); fn.disable()\n")
    assert 0 == second.wait(30)
    assert [] == list(Path(tempfile.gettempdir()).glob(pattern))
    # Not glob, which fails when a directory goes while it looks.
    groups = [path.name for path in leaks._walk(leaks.CGROUP_ROOT, leaks.CGROUP_DEPTH)]
    assert [] == [name for name in groups if name.startswith(f"fnb-{process.pid}-")]
