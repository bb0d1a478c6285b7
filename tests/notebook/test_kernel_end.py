"""However a cell, a run or a kernel is ended, it is over at once, and nothing of ours goes on."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import leaks
import pytest
from bounds import under_load
from kernels import AT_REST, WARM, Kernel, Reply, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.jupyter, pytest.mark.cgroup, pytest.mark.slow]

PROMPT_S = 1.0
"""How soon a cell is idle after the interrupt, the bound that is promised."""
PLAIN_SHARE = 10
"""On a machine that is too busy for that: so many times as late as a cell that only sleeps, interrupted just then."""
GONE_S = 2.0
"""How soon after the end of a kernel everything is gone."""
OURS = frozenset({"descriptor", "thread"})
"""Of the process that tests, not of the kernel: looked at by the fixtures of all tests."""

SETUP = """
%load_ext flyte_notebook
import asyncio, os, subprocess, sys, threading, time
from datetime import timedelta
import flyte, flyte.errors
from flyte_notebook.sdk import enforcement
flyte.init()
env = flyte.TaskEnvironment(name="end", resources=flyte.Resources(cpu=1, memory="250Mi"))
kept = {"value": 1}

def start_a_grandchild():
    program = "import os, time; os.setsid(); time.sleep(120)"
    subprocess.Popen([sys.executable, "-c", program])

@env.task
def sleeper(seconds: int) -> int:
    start_a_grandchild()
    print("asleep", flush=True)
    time.sleep(seconds)
    return seconds

@env.task
async def parent() -> list[int]:
    try:
        return list(await asyncio.gather(sleeper.aio(100), sleeper.aio(100)))
    except Exception as error:
        print("the parent went on", type(error).__name__, flush=True)
        return [await sleeper.aio(0)]

@env.task
async def grandparent() -> list[int]:
    return await parent()

@env.task(retries=flyte.RetryStrategy(count=5, backoff=flyte.Backoff(base=timedelta(seconds=3))))
def fails(name: str) -> None:
    with open(name, "a") as file:
        file.write("attempt ")
    raise ValueError("again")

@env.task
async def calls_fails(name: str) -> None:
    await fails.aio(name)

def engine():
    return enforcement.current().engine

def active():
    "How much goes on; the engine hears of the end of processes a moment after they are gone."
    until_s = time.monotonic() + 10
    while engine().active and time.monotonic() < until_s:
        time.sleep(0.01)
    return engine().active

engine().wait_until_proven()
"""


@pytest.fixture(scope="module")
def fresh_kernel() -> Iterator[Kernel]:
    """Give a kernel with the extension loaded and the tasks of this module defined."""
    with started() as kernel:
        kernel.run(SETUP).ok()
        yield kernel


@pytest.fixture(scope="module")
def kernel(fresh_kernel: Kernel) -> Kernel:
    """Give the same when a first run has had loaded what is loaded once, which may take longer than an end."""
    fresh_kernel.run("flyte.run(sleeper, 0)" + WARM).ok()
    return fresh_kernel


def interrupted(kernel: Kernel, cell: str, *, after: str = "asleep") -> Reply:
    """Run a cell, interrupt it when it says the word; it must end at once, and nothing may go on."""
    before = leaks.Snapshot.take()
    reply = kernel.run(cell, interrupt_after=after)
    assert [] == leaks.settle(before, leave=OURS, grace_s=under_load(GONE_S))
    if reply.late_s >= under_load(PROMPT_S):
        plain = "import time; print('plain', flush=True); time.sleep(30)"
        plain_s = kernel.run(plain, interrupt_after="plain").late_s
        assert reply.late_s < PLAIN_SHARE * plain_s, f"idle {reply.late_s:.2f} s after the interrupt"
    assert kernel.value("(kept, active())") == ({"value": 1}, 0)
    return reply


def test_the_first_error_of_a_kernel_is_shown_at_once(fresh_kernel: Kernel) -> None:
    """■ in a plain cell of a fresh kernel: prompt, its first error too; pandas, put off by the SDK, is not loaded."""
    reply = interrupted(fresh_kernel, "print('asleep', flush=True)\ntime.sleep(100)")
    assert "KeyboardInterrupt" == reply.ename
    assert "_LazyModule" == fresh_kernel.value("type(sys.modules['pandas']).__name__")


def test_a_task_cell_ends_as_aborted(kernel: Kernel) -> None:
    """■ in a %%flyte_task cell: ActionAbortedError in two short lines; nothing is assigned."""
    reply = interrupted(
        kernel,
        "%%flyte_task napper --memory 200Mi\n"
        "start_a_grandchild()\nprint('asleep', flush=True)\ntime.sleep(100)\nassigned = 1",
    )
    assert "ActionAbortedError" == reply.ename
    lines = [line for line in reply.traceback.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 2, reply.traceback
    assert all(len(line) < 160 for line in lines)
    assert kernel.value("'assigned' in globals()") is False


@pytest.mark.parametrize(
    "body",
    ["flyte.run(sleeper, 100)", "sleeper(100)", "flyte.run(parent)", "flyte.run(grandparent)"],
)
def test_a_plain_cell_cannot_swallow_the_interrupt(kernel: Kernel, body: str) -> None:
    """■ in a plain cell: KeyboardInterrupt from the run's ActionAbortedError, past ``except Exception`` in a loop."""
    reply = interrupted(
        kernel,
        f"for _ in range(3):\n    try:\n        {body}\n    except Exception as error:\n        print('swallowed')",
    )
    assert "KeyboardInterrupt" == reply.ename
    assert "swallowed" not in reply.stdout
    assert "the parent went on" not in reply.stdout
    assert "aborted" in reply.traceback
    lines = [line for line in reply.traceback.splitlines() if line.strip()]
    assert len(lines) <= 2, reply.traceback


def test_the_interrupt_carries_the_error_of_the_run(kernel: Kernel) -> None:
    """A cell that catches KeyboardInterrupt finds ActionAbortedError as its cause, and goes on."""
    reply = interrupted(
        kernel,
        "try:\n    flyte.run(sleeper, 100)\n"
        "except KeyboardInterrupt as interrupt:\n    print(type(interrupt.__cause__).__name__)\n"
        "print(flyte.run(sleeper, 0).outputs()[0])",
    )
    assert reply.ok().stdout.endswith("ActionAbortedError\nasleep\n0\n")


@pytest.mark.parametrize(
    "body",
    ["await flyte.run.aio(sleeper, 100)", "await flyte.run.aio(parent)", "await parent()", "await grandparent()"],
)
def test_a_cell_that_awaits_ends(kernel: Kernel, body: str) -> None:
    """■ in a cell that awaits a run: the cell ends with an error at once, and so does the run."""
    reply = interrupted(kernel, body)
    assert reply.ename in {"CancelledError", "KeyboardInterrupt", "ActionAbortedError"}
    assert "the parent went on" not in reply.stdout


def test_a_loop_that_awaits_cannot_swallow_the_interrupt(kernel: Kernel) -> None:
    """■ in a cell that awaits a run in a loop with ``except Exception``: the loop ends as well."""
    reply = interrupted(
        kernel,
        "for _ in range(3):\n    try:\n        await flyte.run.aio(sleeper, 100)\n"
        "    except Exception as error:\n        print('swallowed', repr(error))",
    )
    assert "swallowed" not in reply.stdout
    assert "error" == reply.status


def test_a_run_inside_asyncio_run_ends(kernel: Kernel) -> None:
    """■ while asyncio.run(main()) copied from a script awaits a run: the same."""
    reply = interrupted(
        kernel, "async def main():\n    await flyte.run.aio(sleeper, 100)\nasyncio.run(main())\nprint('went on')"
    )
    assert "error" == reply.status
    assert "went on" not in reply.stdout


@pytest.mark.parametrize("body", ["flyte.run(fails, name)", "flyte.run(calls_fails, name)", "fails(name)"])
def test_between_two_attempts_the_run_ends(kernel: Kernel, tmp_path: Path, body: str) -> None:
    """■ while the SDK sleeps before the next attempt, of a root task or of a nested one: no attempt follows."""
    name = str(tmp_path / "tries")
    watch = (
        "def say():\n"
        "    while not os.path.exists(name):\n        time.sleep(0.01)\n"
        "    time.sleep(1.0)\n    print('backing off', flush=True)\n"
        "watcher = threading.Thread(target=say)\nwatcher.start()\n"
    )
    reply = interrupted(kernel, f"name = {name!r}\n{watch}{body}", after="backing off")
    assert "KeyboardInterrupt" == reply.ename
    kernel.run("time.sleep(3)").ok()  # the next attempt would have begun by now
    assert "attempt " == kernel.value("open(name).read()")
    kernel.run("watcher.join()").ok()


def test_what_waits_for_admission_never_starts(kernel: Kernel) -> None:
    """■ while one task runs and two wait for memory: those never start."""
    reply = interrupted(
        kernel,
        "from flyte_notebook.limiters import machine\n"
        "large = flyte.Resources(memory=f'{int(machine.available_bytes() * 0.7) >> 20}Mi')\n"
        "@env.task\n"
        "async def three() -> None:\n"
        "    await asyncio.gather(*(sleeper.override(resources=large).aio(100) for _ in range(3)))\n"
        "flyte.run(three)",
    )
    assert "KeyboardInterrupt" == reply.ename
    kernel.run("time.sleep(0.5)").ok()  # output of a task that started all the same would come now
    assert 1 == reply.stdout.count("asleep")


def test_a_root_that_waits_for_admission_ends(kernel: Kernel) -> None:
    """■ while nothing runs yet, as other programs hold the memory: the run ends."""
    reply = interrupted(
        kernel,
        "scheduler = engine()._scheduler\n"
        "before, scheduler._memory = scheduler._memory, lambda: (1 << 40, 0)\n"
        "try:\n    print('waiting', flush=True)\n    flyte.run(sleeper, 100)\n"
        "finally:\n    scheduler._memory = before",
        after="waiting",
    )
    assert "KeyboardInterrupt" == reply.ename
    assert "asleep" not in reply.stdout


def test_an_interrupt_of_a_cell_without_runs_is_as_ever(kernel: Kernel) -> None:
    """■ where nothing of ours runs: a plain KeyboardInterrupt."""
    reply = interrupted(kernel, "print('asleep', flush=True)\ntime.sleep(100)")
    assert "KeyboardInterrupt" == reply.ename
    assert "time.sleep(100)" in reply.traceback


def test_runs_work_after_all_these_interrupts(kernel: Kernel) -> None:
    """The same kernel runs tasks and cells as before."""
    kernel.run("flyte.run(sleeper, 0).outputs()").ok()
    kernel.run("%%flyte_task\nanswer = kept['value'] + 41").ok()
    assert 42 == kernel.value("answer")


def busy(kernel: Kernel, cell: str) -> leaks.Snapshot:
    """Set the kernel up, start a cell and return when its task runs; the snapshot is from before that."""
    kernel.run(SETUP).ok()
    before = leaks.Snapshot.take()
    message = kernel.client.execute(cell)
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        event = kernel.client.get_iopub_msg(timeout=30)
        if event["parent_header"].get("msg_id") == message and "asleep" in event["content"].get("text", ""):
            return before
    pytest.fail("the task did not start")


ENDS = ["kill", "shutdown", "shutdown now", "restart", "restart now"]


WITH_LARGE_INPUT = "%%flyte_task\nlen(large)\nsleeper.forward(100)"


@pytest.mark.parametrize(
    ("end", "cell"),
    [*((end, "flyte.run(parent)") for end in ENDS), ("kill", WITH_LARGE_INPUT), ("shutdown", WITH_LARGE_INPUT)],
)
def test_the_end_of_a_kernel_is_the_end_of_everything(end: str, cell: str) -> None:
    """SIGKILL, shutdown or restart while tasks with grandchildren run: two seconds later nothing of ours is there."""
    nothing = leaks.Snapshot.take()
    with started() as kernel:
        kernel.run("import os\nlarge = os.urandom(9_000_000)").ok()
        before = busy(kernel, cell)
        assert [line for line in leaks.leaked(before, leaks.Snapshot.take(), leave=OURS) if line.startswith("process")]
        began_s = time.monotonic()
        if end == "kill":
            os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
        elif end.startswith("shutdown"):
            kernel.manager.shutdown_kernel(now=end.endswith("now"))
        else:
            kernel.manager.restart_kernel(now=end.endswith("now"))
        assert time.monotonic() - began_s < under_load(8)
        while kernel.manager.is_alive() != end.startswith("restart"):
            assert time.monotonic() - began_s < under_load(8 + GONE_S)
            time.sleep(0.01)
        until_s = time.monotonic() + under_load(GONE_S)
        while left := still_there(nothing):
            assert time.monotonic() < until_s, left
            time.sleep(0.02)


def still_there(nothing: leaks.Snapshot) -> list[str]:
    """Return what was not there before, but for a kernel that was started again, with nothing in it."""
    left = leaks.leaked(nothing, leaks.Snapshot.take(), leave=OURS)
    return [line for line in left if "ipykernel_launcher" not in line]


def test_unloading_leaves_no_thread_and_no_process() -> None:
    """%unload_ext while nothing runs: no thread, child or descriptor of ours stays; loading again brings no more."""
    look = (
        AT_REST
        + """
import gc, psutil, threading
def look():
    rest()
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("flyte-notebook")]
    process = psutil.Process()
    # Those that stand ready come and go while the session is open, and must be gone after it.
    session = "flyte-notebook-engine" in names
    children = [child for child in process.children(recursive=True) if not (session and stands_ready(child))]
    gc.collect()  # a socket of the kernel's, one for each thread that printed, goes with its thread
    fonts = sum(file.path.endswith(".ttf") for file in process.open_files())  # matplotlib keeps them
    return names, len(children), process.num_fds() - fonts
def stands_ready(child):
    try:
        return child.name() in ("fnb-spare", "fnb-server", "fnb-launcher")
    except psutil.NoSuchProcess:
        return True
"""
    )
    with started() as kernel:
        kernel.run(SETUP + look).ok()
        kernel.run("flyte.run(sleeper, 0)").ok()
        threads, children, descriptors = kernel.value("look()")
        assert (["flyte-notebook-engine"], 1) == (threads, children)
        kernel.run("%unload_ext flyte_notebook").ok()
        assert ([], 0) == kernel.value("look()")[:2]
        assert kernel.value("look()")[2] < descriptors
        for _ in range(2):
            kernel.run("%load_ext flyte_notebook\nengine().wait_until_proven()\nflyte.run(sleeper, 0)").ok()
            assert (["flyte-notebook-engine"], 1) == kernel.value("look()")[:2]
            kernel.run("%unload_ext flyte_notebook").ok()
        # The kernel itself opens a few for a moment, and one for each thread that printed.
        assert kernel.value("look()")[2] <= descriptors + 4
