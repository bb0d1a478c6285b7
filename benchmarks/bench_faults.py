"""How soon everything is over after a fault: a kernel that is killed, and parts of a session that are lost.

Each row is the 95th percentile of many times in one run, and the worst beside it. The table goes to stdout and to
``build/bench/faults.md``, a plot of it to ``build/bench/faults.png``. ``--break`` leaves a process behind and slows
errors down, to see that the benchmark notices. ``--quick`` makes everything ten times shorter.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import budget
import flyte
import flyte.errors
from budget import Row

import flyte_notebook as fn
from flyte_notebook.sdk import enforcement

MARK = "FLYTE_NOTEBOOK_BENCH_FAULTS"
POLL_S = 0.002
PATIENCE_S = 30.0

BUSY = """
import asyncio, os, subprocess, sys, time
import flyte
import flyte_notebook as fn

env = flyte.TaskEnvironment(name="faults", resources=flyte.Resources(cpu=1, memory="250Mi"))

@env.task
def busy(held: bytes) -> int:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("busy", flush=True)
    time.sleep(600)
    return len(held)

@env.task
async def parent() -> None:
    await asyncio.gather(*(busy.aio(os.urandom(2 << 20)) for _ in range(2)))

flyte.init()
with fn.enable():
    flyte.run(parent)
"""

ROWS = {
    "kernel": Row(
        name="SIGKILL of a notebook's kernel to the end of its processes, groups, directory and values",
        unit="s",
        bar=0.5,
        why="processes take a while to give their memory back",
    ),
    "supervisor": Row(name="SIGKILL of the supervisor to the error of the task that runs", unit="s", bar=2.0),
    "stopped": Row(name="SIGSTOP of the supervisor to the error of the task that runs", unit="s", bar=2.0),
    "worker": Row(name="SIGKILL of a worker to the error of its task", unit="s", bar=2.0),
    "server": Row(name="SIGKILL of the server that forks workers to the result of the next run", unit="s", bar=2.0),
    "loop": Row(name="a result that ends the SDK's loop when it is loaded, to its error", unit="s", bar=2.0),
    "descriptors": Row(name="a run that begins without descriptors, to its error", unit="s", bar=2.0),
    "disk": Row(name="a large input on a full disk, to its error", unit="s", bar=2.0),
    "next": Row(name="the next run after the supervisor was lost, as a whole", unit="s", bar=5.0),
}

env = flyte.TaskEnvironment(name="bench_faults", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
def waits(place: str) -> None:
    """Say which process this is, and wait."""
    Path(place).write_text(str(os.getpid()), encoding="ascii")
    time.sleep(600)


@env.task
def nothing() -> int:
    """Do nothing."""
    return 0


class Exits:
    """Ends the thread that loads it, unless something is in the way."""

    def __setstate__(self, _state: object) -> None:
        """Exit."""
        raise SystemExit(3)


@env.task
def gives_exits() -> Exits:
    """Return what cannot be loaded."""
    made = Exits()
    made.__dict__["one"] = 1
    return made


@env.task
def length(value: bytes) -> int:
    """Return how long a value is."""
    return len(value)


def marked(mark: str) -> list[int]:
    """Return the processes that have the mark of this round, but for those that are dead."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - only the names
        try:
            if mark.encode() in Path("/proc", name, "environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def groups_of(pid: int) -> list[str]:
    """Return the control groups of the session of a kernel."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    places = [f"/sys/fs/cgroup/{controllers or 'unified'}{path}" for _, controllers, path in lines] + ["/sys/fs/cgroup"]
    return [str(group) for place in places for group in Path(place).glob(f"fnb-{pid}-*")]


def killed_kernel_s(place: Path, *, broken: bool) -> float:
    """Kill a kernel while two tasks run, each with a daemon and a large value; return how long it all takes to go."""
    mark = uuid.uuid4().hex
    kernel = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        env={**os.environ, MARK: mark, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert kernel.stdout is not None
    said = 0
    while said < 2:  # noqa: PLR2004 - both tasks
        line = kernel.stdout.readline()
        assert line, "the program ended"
        said += "busy" in line
    assert len(marked(mark)) > 4  # noqa: PLR2004 - kernel, supervisor, two workers with a daemon each
    assert list(place.glob("fnb-*"))
    if broken:
        subprocess.Popen(["/bin/sleep", "1"], env={**os.environ, MARK: mark})
    began_s = time.monotonic()
    kernel.kill()
    kernel.wait()
    while marked(mark) or groups_of(kernel.pid) or list(place.glob("fnb-*")):
        assert time.monotonic() - began_s < PATIENCE_S
        time.sleep(POLL_S)
    took_s = time.monotonic() - began_s
    kernel.stdout.close()
    return took_s


def lost_s(place: Path, *, supervisor: bool, broken: bool, by: signal.Signals = signal.SIGKILL) -> float:
    """Kill or stop the supervisor or the worker while a task runs; return how long its error takes to come."""
    file = place / uuid.uuid4().hex
    run = flyte.with_runcontext(mode="local")
    killed_s: list[float] = []

    def kill() -> None:
        while not (file.exists() and file.read_text()):
            time.sleep(POLL_S)
        session = enforcement.current()
        assert session is not None
        pid = session.engine.supervisor_pid if supervisor else int(file.read_text())
        assert pid is not None
        killed_s.append(time.monotonic())
        os.kill(pid, by)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        run.run(waits, str(file))
    except flyte.errors.BaseRuntimeError:
        if broken:
            time.sleep(3)
        return time.monotonic() - killed_s[0]
    finally:
        thread.join()
    raise AssertionError("the task did not fail")


def error_s(task: Any, *arguments: Any, broken: bool) -> float:  # noqa: ANN401 - any task, any inputs
    """Run what fails; return how long that takes."""
    began_s = time.monotonic()
    try:
        flyte.run(task, *arguments)
    except (flyte.errors.BaseRuntimeError, OSError, TypeError):
        if broken:
            time.sleep(3)
        return time.monotonic() - began_s
    raise AssertionError("it did not fail")


def without_server_s() -> float:
    """Kill the server that workers are forked from; return how long the next run takes, as a whole."""
    session = enforcement.current()
    assert session is not None
    supervisor = session.engine.supervisor_pid
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with contextlib.suppress(OSError):
            if "fnb-server" in Path(f"/proc/{pid}/comm").read_text():
                os.kill(int(pid), signal.SIGKILL)
    began_s = time.monotonic()
    flyte.run(nothing)
    return time.monotonic() - began_s


def without_descriptors_s(*, broken: bool) -> float:
    """Have a run begin when no descriptor is left; return how long its error takes."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(name) for name in os.listdir("/proc/self/fd")) + 2  # noqa: PTH208 - only the names
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    filled: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                filled.append(os.open(os.devnull, os.O_RDONLY))
        return error_s(nothing, broken=broken)
    finally:
        for fd in filled:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def full_disk_s(rounds: int, place: Path, *, broken: bool) -> list[float]:
    """Give tasks an input that a disk of 4 MiB has no room for; return how long each error takes. Root only."""
    if os.geteuid() != 0:
        return []
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    tempfile.tempdir = str(place)
    try:
        with fn.enable():
            session = enforcement.current()
            assert session is not None
            session.engine.wait_until_proven()
            return [error_s(length, os.urandom(8 << 20), broken=broken) for _ in range(rounds)]
    finally:
        tempfile.tempdir = None
        subprocess.run(["/bin/umount", str(place)], check=True)


def measured(rounds: int, *, broken: bool) -> dict[str, list[float]]:
    """Return all times by the key of their row."""
    found: dict[str, list[float]] = {key: [] for key in ROWS}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        found["kernel"] = [killed_kernel_s(place, broken=broken) for _ in range(rounds)]
        few = max(3, rounds // 5)
        disk = place / "disk"
        disk.mkdir()
        found["disk"] = full_disk_s(few, disk, broken=broken)
        with fn.enable():
            for _ in range(few):
                found["worker"].append(lost_s(place, supervisor=False, broken=broken))
                found["supervisor"].append(lost_s(place, supervisor=True, broken=broken))
                found["stopped"].append(lost_s(place, supervisor=True, broken=broken, by=signal.SIGSTOP))
                began_s = time.monotonic()
                flyte.run(nothing)
                found["next"].append(time.monotonic() - began_s)
                found["server"].append(without_server_s())
                found["loop"].append(error_s(gives_exits, broken=broken))
                found["descriptors"].append(without_descriptors_s(broken=broken))
    return {key: times for key, times in found.items() if times}


def main() -> None:
    """Measure, print and write the table, and draw it."""
    options = budget.options(__doc__, "leave a process behind, and slow errors down by 3 s")
    flyte.init()
    found = measured(10 if options.quick else 100, broken=options.broken)
    columns = {
        "95th percentile": {key: statistics.quantiles(times, n=20)[-1] for key, times in found.items()},
        "worst": {key: max(times) for key, times in found.items()},
        "median": {key: statistics.median(times) for key, times in found.items()},
    }
    late = sum(took_s > 0.5 for took_s in found["kernel"])  # noqa: PLR2004 - the bar of that row
    note = f"{len(found['kernel']) - late} of {len(found['kernel'])} kernels were gone within 0.5 s"
    budget.report("faults", {key: ROWS[key] for key in found}, columns, (note,))


if __name__ == "__main__":
    main()
