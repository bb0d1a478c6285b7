"""Endurance: thousands of actions in one process, with failures of every kind mixed in, and what they leave.

The schedule is made from a seed, so that a run can be had again. Each action must end as its kind says. Each tenth of
the way a row says what is there now: memory of this process and of its supervisor, descriptors, threads, processes,
control groups and files. At the end it must be as much as after the warm-up, and memory flat over the second half.

``python benchmarks/soak.py 300`` runs fewer; an interrupt prints what there is so far.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import ctypes
import gc
import logging
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import astuple, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import flyte
import flyte.errors
import psutil

import flyte_notebook as fn
from flyte_notebook.limiters.control_groups import own
from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

MIB = 1 << 20
BATCH = 6
"""Actions that are asked for at the same time."""
GROWTH_BYTES = 10 * MIB
"""How much more memory the second half may end with than it began with."""
LARGE = 1_500_000
PATIENCE_S = 10.0
TABLE = sys.stdout
"""Where the table goes; what the tasks print goes nowhere."""

env = flyte.TaskEnvironment(name="soak", resources=flyte.Resources(cpu=1, memory="120Mi"))


@env.task
async def add(a: int, b: int) -> int:
    """Return a sum."""
    return a + b


@env.task
async def length(text: str) -> int:
    """Return the length of a large input."""
    return len(text)


@env.task
def talks(lines: int) -> int:
    """Print a lot."""
    for number in range(lines):
        print("line", number, "of many")
    return lines


@env.task
def leaves_a_daemon() -> int:
    """Start a program that leaves its family."""
    subprocess.Popen(["sleep", "300"], start_new_session=True)  # noqa: S607 - a program of every system
    return 0


@env.task
async def gathers(count: int) -> int:
    """Run tasks beside each other."""
    return sum(await asyncio.gather(*(add.aio(number, 1) for number in range(count))))


@env.task
async def gathers_with_an_oom() -> str:
    """Catch what becomes of one of two tasks."""
    done = await asyncio.gather(add.aio(1, 1), ends_by.aio("memory"), return_exceptions=True)
    return type(done[1]).__name__


@env.task
async def ends_by(how: str) -> int:
    """End badly."""
    if how == "raising":
        raise ValueError(how)
    if how == "memory":
        return len(bytearray(400 * MIB))
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "garbage":
        os.write(3, struct.pack("!Q", 1 << 40))
    if how in {"SIGKILL", "SIGSTOP", "SIGTERM"}:
        os.kill(os.getpid(), getattr(signal, how))
    time.sleep(120)  # noqa: ASYNC251 - as a task that hangs does
    return 0


@env.task(retries=flyte.RetryStrategy(count=1, backoff=flyte.Backoff(base=timedelta(0))))
async def fails_once() -> int:
    """Succeed at the second attempt."""
    if os.environ["FLYTE_ATTEMPT_NUMBER"] == "0":
        raise ValueError
    return 1


@dataclass(frozen=True)
class Kind:
    """One way for an action to go: the task, what it must end with, and how often it comes."""

    task: Any
    arguments: tuple[Any, ...]
    expected: Any
    weight: int
    actions: int = 1


SHORT = flyte.Timeout(max_runtime=1)
KINDS = {
    "sum": Kind(add, (1, 2), 3, 30),
    "large input": Kind(length, ("x" * LARGE,), LARGE, 6),
    "much output": Kind(talks, (2_000,), 2_000, 4),
    "daemon": Kind(leaves_a_daemon, (), 0, 6),
    "gather of 4": Kind(gathers, (4,), 10, 6, 5),
    "caught OOM": Kind(gathers_with_an_oom, (), "OOMError", 3, 3),
    "retry": Kind(fails_once, (), 1, 3),
    "exception": Kind(ends_by, ("raising",), "RuntimeUserError", 10),
    "OOM": Kind(ends_by, ("memory",), "OOMError", 10),
    "exit": Kind(ends_by, ("exit",), "RuntimeSystemError", 4),
    "segfault": Kind(ends_by, ("segfault",), "RuntimeSystemError", 4),
    "SIGKILL": Kind(ends_by, ("SIGKILL",), "RuntimeSystemError", 4),
    "SIGTERM": Kind(ends_by, ("SIGTERM",), "RuntimeSystemError", 3),
    "broken channel": Kind(ends_by, ("garbage",), "RuntimeSystemError", 3),
    "max_runtime": Kind(ends_by.override(timeout=SHORT), ("sleeping",), "MaxRuntimeExceededError", 2),
    "SIGSTOP": Kind(ends_by.override(timeout=SHORT), ("SIGSTOP",), "MaxRuntimeExceededError", 2),
    "never fits": Kind(add.override(resources=flyte.Resources(memory="900Ti")), (1, 2), "UnschedulableError", 2),
    "stopped": Kind(ends_by, ("sleeping",), "ActionAbortedError", 2),
    "supervisor killed": Kind(ends_by, ("sleeping",), "RuntimeSystemError", 1),
}
ALONE = {"stopped", "supervisor killed"}
"""Kinds that hit everything that runs beside them."""


@dataclass(frozen=True)
class Row:
    """What is there at one moment."""

    actions: int
    memory: int
    supervisor: int
    descriptors: int
    threads: int
    processes: int
    groups: int
    files: int

    def counts(self) -> dict[str, int]:
        """Return what must be as it was."""
        return {name: getattr(self, name) for name in ("descriptors", "threads", "processes", "groups", "files")}


def supervisor_of(session: Session) -> psutil.Process:
    """Return the supervisor's process; one may have been killed while the next one starts."""
    while True:
        pid = session.engine.supervisor_pid
        if pid is not None and psutil.pid_exists(pid):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
        time.sleep(0.05)


def look(session: Session, actions: int) -> Row:
    """Return what is there now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    me, supervisor = psutil.Process(), supervisor_of(session)
    directory = Path(session.engine.directory.path)
    tops = [found[0] for controller in ("memory", "cpu", "pids", "") if (found := own(controller))]
    groups = [path for top in tops for path in Path(top, directory.name).glob("fnb-*")]
    shared = Path("/dev/shm").glob(f"*{directory.name}*")  # noqa: S108 - looked at
    spooled = [path for path in directory.parent.glob("fnb-*") if path != directory]
    # What failed runs were given is kept on purpose, up to a bound.
    kept = [path for path in directory.iterdir() if path.name == "supervisor.log" or path.name.startswith("repeat-")]
    return Row(
        actions=actions,
        memory=me.memory_info().rss,
        supervisor=supervisor.memory_info().rss,
        descriptors=me.num_fds() + supervisor.num_fds(),
        threads=threading.active_count(),
        processes=len(me.children(recursive=True)),
        groups=len(groups),
        files=len([*shared, *spooled, *directory.iterdir()]) - len(kept),
    )


def settled(session: Session, actions: int, before: Row | None) -> Row:
    """Look, again for a while when there is more than before: the system gives some things back late."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        row = look(session, actions)
        more = before is not None and any(row.counts()[name] > count for name, count in before.counts().items())
        if not more or time.monotonic() > until_s:
            return row
        time.sleep(0.2)


async def ended(kind: Kind) -> object:
    """Run an action, and return its result or the name of its error."""
    try:
        run = await flyte.run.aio(kind.task, *kind.arguments)
    except flyte.errors.BaseRuntimeError as error:
        return type(error).__name__
    return run.outputs()[0]


async def hit(session: Session, name: str) -> None:
    """Do to the action that runs alone what its kind says."""
    while not session.engine.active:  # noqa: ASYNC110 - what is waited for happens on another thread
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    pid = session.engine.supervisor_pid
    if name == "stopped":
        session.stop_all("the soak")
    elif pid is not None:
        os.kill(pid, signal.SIGKILL)


async def batch(session: Session, names: list[str]) -> list[str]:
    """Run some actions at the same time; return what went otherwise than expected."""
    runs = [asyncio.ensure_future(ended(KINDS[name])) for name in names]
    if names[0] in ALONE:
        await hit(session, names[0])
    found = await asyncio.gather(*runs)
    wrong = zip(names, found, strict=True)
    return [f"{name}: {what!r}" for name, what in wrong if what != KINDS[name].expected]


def schedule(actions: int, seed: int) -> Iterator[list[str]]:
    """Yield the names of kinds, by batches: each kind once, then as the seed says."""
    chance = random.Random(seed)  # noqa: S311 - to be had again, not secret
    left, pending = actions, list(KINDS)
    names, weights = list(KINDS), [kind.weight for kind in KINDS.values()]
    together: list[str] = []
    while left > 0:
        name = pending.pop(0) if pending else chance.choices(names, weights)[0]
        left -= KINDS[name].actions
        if name in ALONE:
            yield [name]
            continue
        together.append(name)
        if len(together) == BATCH:
            yield together
            together = []
    if together:
        yield together


def say(text: str) -> None:
    """Print where the table goes."""
    print(text, file=TABLE, flush=True)


def as_line(row: Row) -> str:
    """Return a line of the table."""
    cells = [
        f"{value / MIB:.1f}" if key.name in {"memory", "supervisor"} else str(value)
        for key, value in zip(fields(row), astuple(row), strict=True)
    ]
    return "".join(f"{cell:>12}" for cell in cells)


def idle(session: Session, seconds: float) -> str:
    """Do nothing for a while; return what an hour of it would cost."""
    programs = [psutil.Process(), supervisor_of(session)]
    before = [sum(program.cpu_times()[:2]) for program in programs]
    time.sleep(seconds)
    costs = [
        (sum(program.cpu_times()[:2]) - was) * 3600 / seconds for program, was in zip(programs, before, strict=True)
    ]
    return (
        f"an hour of idle, from {seconds:g} s: {costs[0]:.1f} s CPU of this process, {costs[1]:.1f} s of its supervisor"
    )


def soak(session: Session, options: argparse.Namespace) -> list[str]:
    """Run it all, print the table, and return what is wrong."""
    say("".join(f"{key.name:>12}" for key in fields(Row)))
    rows: list[Row] = []
    wrong: list[str] = []
    counts: collections.Counter[str] = collections.Counter()
    done = 0
    began_s = time.monotonic()
    try:
        for names in schedule(options.actions, options.seed):
            wrong += asyncio.run(batch(session, names))
            counts.update(names)
            done += sum(KINDS[name].actions for name in names)
            if done >= options.actions * (len(rows) + 1) / 10:
                rows.append(settled(session, done, rows[0] if rows else None))
                say(as_line(rows[-1]))
        if options.at_once:
            at_once_s = time.monotonic()
            total = flyte.run(gathers, options.at_once).outputs()[0]
            wrong += [] if total == sum(range(1, options.at_once + 1)) else [f"{options.at_once} at once: {total}"]
            rows.append(settled(session, done + options.at_once + 1, rows[0]))
            say(as_line(rows[-1]))
            say(f"{options.at_once} tasks at once: {time.monotonic() - at_once_s:.0f} s")
        say(idle(session, options.idle))
    except KeyboardInterrupt:
        wrong.append("interrupted before its end")
    say(f"{done} actions of {len(counts)} kinds in {time.monotonic() - began_s:.0f} s, seed {options.seed}")
    return [*wrong, *(_grown(rows) if len(rows) > 2 else [])]  # noqa: PLR2004 - a beginning, a middle, an end


def _grown(rows: list[Row]) -> list[str]:
    first, middle, last = rows[0], rows[len(rows) // 2], rows[-1]
    more = [
        f"{count - first.counts()[name]} more {name}"
        for name, count in last.counts().items()
        if count > first.counts()[name]
    ]
    for name in ("memory", "supervisor"):
        growth_bytes = getattr(last, name) - getattr(middle, name)
        if growth_bytes > GROWTH_BYTES:
            more.append(f"{name}: {growth_bytes / MIB:.1f} MiB more in the second half")
    return more


def main() -> None:
    """Soak; the exit status says whether anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actions", type=int, nargs="?", default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of doing nothing at the end")
    options = parser.parse_args()
    cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        os.environ["TMPDIR"] = tempfile.tempdir = place  # what is left there is ours, whoever else is on this machine
        wrong = enforced(options)
    say("\n".join(["nothing leaked, memory is flat"] if not wrong else ["WRONG", *wrong]))
    sys.exit(bool(wrong))


def enforced(options: argparse.Namespace) -> list[str]:
    """Soak with limits enforced; return what is wrong."""
    flyte.init()
    logging.getLogger("flyte").setLevel(logging.CRITICAL)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), fn.enable():
        session = enforcement.current()
        assert session is not None
        session.engine.wait_until_proven()
        return soak(session, options)


if __name__ == "__main__":
    main()
