"""An interrupt stops the runs first and then does what it always did, in real kernels and in plain scripts."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from bounds import under_load
from kernels import started

from flyte_notebook.notebook.interrupts import heartbeat, install_for_script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

PATIENCE_S = under_load(60)
PROMPT_S = 1.0
"""How soon an interrupt must be over; the cells below would run for 30 s."""

LOAD = """
import asyncio, concurrent.futures, signal, threading, time
from flyte_notebook.notebook.interrupts import InterruptGuard, heartbeat

class ActionAbortedError(Exception):
    pass

stopped = []
def stop_all(reason):
    stopped.append(reason)
    return ActionAbortedError("stopped")

guard = InterruptGuard(stop_all)
guard.install(get_ipython())
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Give a kernel in which the guard is installed with a ``stop_all`` that records."""
    with started() as kernel:
        kernel.run(LOAD).ok()
        yield kernel


@pytest.mark.jupyter
def test_a_blocked_cell_is_interrupted_at_once_and_cannot_swallow_it(kernel: Kernel) -> None:
    """The runs are stopped first, then KeyboardInterrupt from their error passes ``except Exception``."""
    reply = kernel.run(
        """
stopped.clear()
for _ in range(3):
    try:
        print("waiting", flush=True)
        concurrent.futures.Future().result(timeout=30)
    except Exception as error:
        print("swallowed", type(error).__name__)
""",
        interrupt_after="waiting",
    )
    assert reply.ename == "KeyboardInterrupt"
    assert "swallowed" not in reply.stdout
    assert reply.late_s < under_load(PROMPT_S)
    assert "ActionAbortedError" in reply.traceback
    assert "['interrupt']" in kernel.run("print(stopped)").stdout


@pytest.mark.jupyter
def test_the_interrupt_of_a_blocked_cell_carries_the_error_of_the_runs_as_cause(kernel: Kernel) -> None:
    """What the cell catches is a KeyboardInterrupt whose cause is what ``stop_all`` returned."""
    reply = kernel.run(
        """
try:
    print("waiting", flush=True)
    time.sleep(30)
except KeyboardInterrupt as interrupt:
    print(repr(interrupt.__cause__), len(list(__import__("traceback").walk_tb(interrupt.__traceback__))))
""",
        interrupt_after="waiting",
    )
    assert reply.status == "ok"
    assert "ActionAbortedError('stopped') 2" in reply.stdout


@pytest.mark.jupyter
def test_a_cell_that_awaits_is_cancelled_at_once(kernel: Kernel) -> None:
    """The runs are stopped and the kernel's own handler cancels the cell, though nothing else wakes the loop."""
    reply = kernel.run(
        "stopped.clear()\nprint('waiting', flush=True)\nawait asyncio.sleep(30)", interrupt_after="waiting"
    )
    assert reply.ename == "CancelledError"
    assert reply.late_s < under_load(PROMPT_S)
    assert "['interrupt']" in kernel.run("print(stopped)").stdout


@pytest.mark.jupyter
def test_cells_run_on_after_interrupts_and_find_the_handler_of_the_kernel(kernel: Kernel) -> None:
    """A cell sees our handler over the kernel's, a cell inside it the same one, and none is left over."""
    reply = kernel.run(
        """
outer = signal.getsignal(signal.SIGINT)
get_ipython().run_cell("inner = signal.getsignal(signal.SIGINT)")
print(inner is outer, outer.previous is signal.default_int_handler, len(guard._handlers))
"""
    )
    assert reply.status == "ok"
    assert "True True 1" in reply.stdout
    reply = kernel.run(
        "await asyncio.sleep(0)\nprint(signal.getsignal(signal.SIGINT).previous.__qualname__, len(guard._handlers))"
    )
    assert "_cancel_on_sigint" in reply.stdout
    assert " 1\n" in reply.stdout


@pytest.mark.jupyter
def test_a_stop_that_fails_does_not_hold_up_the_interrupt(kernel: Kernel) -> None:
    """When ``stop_all`` raises, the cell is interrupted all the same."""
    kernel.run("def failing(reason): raise ValueError(reason)\nguard._stop_all = failing")
    reply = kernel.run("print('waiting', flush=True)\ntime.sleep(30)", interrupt_after="waiting")
    kernel.run("guard._stop_all = stop_all")
    assert reply.ename == "KeyboardInterrupt"
    assert reply.late_s < under_load(PROMPT_S)


@pytest.mark.jupyter
def test_uninstall_leaves_the_kernel_as_it_was(kernel: Kernel) -> None:
    """After uninstall the kernel's own handler stands in the same cell, and in the next no run is stopped."""
    reply = kernel.run(
        "guard.uninstall()\nguard.uninstall()\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    assert "True" in reply.stdout
    reply = kernel.run("stopped.clear()\nprint('waiting', flush=True)\ntime.sleep(30)", interrupt_after="waiting")
    assert reply.ename == "KeyboardInterrupt"
    assert "[]" in kernel.run("print(stopped)\nguard.install(get_ipython())").stdout


SCRIPT = """
import os, signal, sys, time
from flyte_notebook.notebook.interrupts import install_for_script

def stop_all(reason):
    print("stopped", reason, flush=True)
    return ValueError("aborted")

if "default" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
with install_for_script(stop_all):
    try:
        signal.raise_signal(signal.SIGINT)
        time.sleep(30)
    except KeyboardInterrupt as interrupt:
        print(repr(interrupt.__cause__), flush=True)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
"""


def test_a_script_stops_its_runs_and_gets_keyboard_interrupt_from_their_error() -> None:
    """In a plain script the handler that stood before acts after the stop, and stands again at the end."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=under_load(30), check=True
    )
    assert done.stdout.splitlines() == ["stopped interrupt", "ValueError('aborted')", "True"]


def test_a_script_that_dies_of_an_interrupt_still_dies_of_it() -> None:
    """Where SIGINT had its default action, the runs are stopped and then the process ends by that signal."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "default"], capture_output=True, text=True, timeout=under_load(30), check=False
    )
    assert done.stdout.splitlines() == ["stopped interrupt"]
    assert done.returncode == -signal.SIGINT


def test_outside_of_the_main_thread_nothing_is_installed() -> None:
    """In another thread the guard does nothing, and says nothing."""
    before = signal.getsignal(signal.SIGINT)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(install_for_script(lambda _reason: None)))
    thread.start()
    thread.join()
    seen[0].uninstall()
    assert before is signal.getsignal(signal.SIGINT)


def test_a_handler_set_later_is_left_alone() -> None:
    """Uninstalling does not take away a handler that someone set after us."""
    before = signal.getsignal(signal.SIGINT)

    def later(_signum: int, _frame: object) -> None:
        """Do nothing."""

    try:
        guard = install_for_script(lambda _reason: None)
        signal.signal(signal.SIGINT, later)
        guard.uninstall()
        assert later is signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.linux
def test_the_heartbeat_hears_a_signal_that_another_thread_received() -> None:
    """A signal delivered to another thread reaches its handler within a beat, and the beat ends when nothing runs."""
    heard: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda _signum, _frame: heard.append(time.monotonic()))
    waiting = threading.Event()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        beat = heartbeat(loop, lambda: not heard)
        other = threading.Thread(target=waiting.wait, args=(PATIENCE_S,))
        other.start()
        timer = threading.Timer(0.2, lambda: signal.pthread_kill(other.ident or 0, signal.SIGUSR1))
        timer.start()
        started_s = time.monotonic()
        await asyncio.wait_for(beat, 30)
        waiting.set()
        other.join()
        timer.join()
        return started_s + 0.2

    try:
        sent_s = asyncio.run(main())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard[0] - sent_s < under_load(PROMPT_S)
