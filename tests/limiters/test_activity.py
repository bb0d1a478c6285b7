"""Whether a process does anything, and which of its own limits it has reached, for real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from bounds import under_load

from flyte_notebook.limiters.processes import activity, reached

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

SAID = "print('there', flush=True); "


@contextmanager
def process(program: str) -> Iterator[int]:
    """Run a program until the block is over; it has said that it is there."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert b"there\n" == running.stdout.readline()
            yield running.pid
        finally:
            running.kill()


def settled(pid: int) -> tuple[int, ...] | None:
    """Return what is seen twice in a row, or last."""
    until_s = time.monotonic() + under_load(10)
    before = activity(pid)
    while time.monotonic() < until_s:
        time.sleep(0.2)
        now = activity(pid)
        if now == before:
            return now
        before = now
    return before


def test_a_process_that_sleeps_does_nothing() -> None:
    """Its numbers stay as they are."""
    with process(SAID + "import time; time.sleep(60)") as pid:
        at_rest = settled(pid)
        assert at_rest
        time.sleep(0.5)
        assert at_rest == activity(pid)


def test_a_process_that_computes_does_something() -> None:
    """Its numbers change within a tenth of a second of its time, though it takes no memory."""
    with process(SAID + "\nwhile True: pass") as pid:
        before = activity(pid)
        time.sleep(under_load(0.5))
        assert before != activity(pid)


def test_of_a_process_that_is_stopped_nothing_is_said() -> None:
    """Whoever stopped it may let it go on."""
    with process(SAID + "import time; time.sleep(60)") as pid:
        os.kill(pid, signal.SIGSTOP)
        until_s = time.monotonic() + under_load(5)
        while activity(pid) is not None and time.monotonic() < until_s:
            time.sleep(0.01)
        assert activity(pid) is None


def test_a_process_that_is_gone_does_nothing() -> None:
    """It has neither activity nor limits."""
    with process(SAID) as pid:
        pass
    assert () == activity(pid)
    assert reached(pid) is None


@pytest.mark.parametrize(("name", "field"), [("RLIMIT_AS", 0), ("RLIMIT_DATA", 5)])
def test_the_limit_that_a_process_has_reached_is_known(name: str, field: int) -> None:
    """By name, with its bytes and those in use; none where there is room, or no limit."""
    set_it = "import resource; used = int(open('/proc/self/statm').read().split()[{}]) * resource.getpagesize(); "
    set_it = set_it.format(field) + "resource.setrlimit(resource.{}, (used {}, resource.RLIM_INFINITY)); "
    wait = SAID + "import signal; signal.pause()"
    with process("held = bytearray(50 << 20); import signal; " + set_it.format(name, "+ (1 << 20)") + wait) as pid:
        found = reached(pid)
        assert found is not None
        assert name == found[0]
        assert found[2] <= found[1] < found[2] + (3 << 20)
    with process(set_it.format(name, "* 10") + wait) as pid:
        assert reached(pid) is None
    with process(wait) as pid:
        assert reached(pid) is None
