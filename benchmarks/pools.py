"""Ways to run a function elsewhere: ours, the SDK alone, and pools that people know; each measured in a process alone.

A contestant gives one no-op, several at once, an array in and out, and a task that takes more memory than it may. Each
is measured by `in_a_process`, in an interpreter that ends with it: what it leaves running, and what it loads, does not
reach the next one. What cannot be imported, or fails, gives words instead of numbers.

Where a pool reuses its workers its no-op is a message to a process that is there, with all that earlier tasks left in
it; `CONTESTANTS` says which do.
"""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pool_work
import warming
from pool_work import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

HERE = Path(__file__).resolve().parent
PATIENCE_S = 120
LIMIT_BYTES = 250 * MIB
ROOM_BYTES = 6 << 30
"""What a task may use that is given an array."""
MOST_BYTES = 1024 * MIB
HOLD_S = 2.0
"""How long a task holds what it took beyond its limit, for somebody to notice."""
PAUSE_S = 0.15
"""Between two no-ops: what stands ready may be replaced."""
TOGETHER = 32
ENOUGH_S = 10.0
"""After so long no further round with an array is begun; with tasks at once, after half of it."""
CORES = os.cpu_count() or 1

Found = dict[str, Any]


class Contestant(Protocol):
    """One way, ready to be used."""

    def once_s(self, wait_s: float) -> float:
        """Run one no-op; return the seconds."""

    def together_s(self, count: int, wait_s: float) -> float:
        """Run so many at once; return the seconds."""

    def array_s(self, size: int) -> tuple[float, float]:
        """Pass an array in and one out; return the seconds of each."""

    def grow(self, place: str, limit_bytes: int, most_bytes: int, hold_s: float) -> None:
        """Run `pool_work.grow`, which takes too much memory; raises what its caller sees."""


class ByFunctions:
    """A contestant that calls functions: ``start`` gives something with which ``wait`` gets the result."""

    def __init__(self, start: Callable[..., Any], wait: Callable[[Any], Any]) -> None:
        self._start = start
        self._wait = wait

    def once_s(self, wait_s: float) -> float:
        """See `Contestant`."""
        return self.together_s(1, wait_s)

    def together_s(self, count: int, wait_s: float) -> float:
        """See `Contestant`."""
        began_s = time.perf_counter()
        for started in [self._start(pool_work.nothing, wait_s) for _ in range(count)]:
            self._wait(started)
        return time.perf_counter() - began_s

    def array_s(self, size: int) -> tuple[float, float]:
        """See `Contestant`."""
        import numpy as np  # noqa: PLC0415 - pools start interpreters that load this module and need no numpy

        array = np.full(size // 8, 1.0)
        warming.touch(warming.PASSES * size)
        began_s = time.monotonic()
        in_s = self._wait(self._start(pool_work.take, array)) - began_s
        del array
        warming.touch(warming.PASSES * size)
        array, done_s = self._wait(self._start(pool_work.make, size // 8))
        out_s = time.monotonic() - done_s
        assert array[0] == array[-1] == 1.0
        return in_s, out_s

    def grow(self, place: str, limit_bytes: int, most_bytes: int, hold_s: float) -> None:
        """See `Contestant`."""
        self._wait(self._start(pool_work.grow, place, limit_bytes, most_bytes, hold_s))


class ByFlyte:
    """A contestant that runs Flyte tasks; ``array`` passes an array, because ways to do that differ."""

    def __init__(self, array: Callable[[int], tuple[float, float]]) -> None:
        import flyte  # noqa: PLC0415 - a contestant loads its own libraries only
        import pool_tasks  # noqa: PLC0415 - as above

        flyte.init()
        self._run, self._tasks, self._array = flyte.run, pool_tasks, array

    def once_s(self, wait_s: float) -> float:
        """See `Contestant`."""
        began_s = time.perf_counter()
        self._run(self._tasks.nothing, wait_s)
        return time.perf_counter() - began_s

    def together_s(self, count: int, wait_s: float) -> float:
        """See `Contestant`."""
        took_s: Any = self._run(self._tasks.together, count, wait_s).outputs()[0]
        return float(took_s)

    def array_s(self, size: int) -> tuple[float, float]:
        """See `Contestant`."""
        return self._array(size)

    def grow(self, place: str, limit_bytes: int, most_bytes: int, hold_s: float) -> None:
        """See `Contestant`."""
        self._run(self._tasks.grow, place, limit_bytes, most_bytes, hold_s)


@contextmanager
def ours(memory_bytes: int, workers: str) -> Iterator[Contestant]:
    """Enforced tasks; an array goes through cells of a kernel, where its way is the shortest."""
    os.environ["FLYTE_NOTEBOOK_WORKERS"] = workers
    import kernels  # noqa: PLC0415 - a contestant loads its own libraries only

    import flyte_notebook as fn  # noqa: PLC0415 - as above

    with ExitStack() as opened:
        if memory_bytes == LIMIT_BYTES:
            opened.enter_context(fn.enable())
            fn.doctor()  # waits until a worker is proven

        @functools.cache
        def kernel() -> kernels.Kernel:
            started = opened.enter_context(kernels.Kernel(workers))
            started.load()
            return started

        def array_s(size: int) -> tuple[float, float]:
            passage = kernels.pass_array(kernel(), size)
            return passage.in_s, passage.out_s

        yield ByFlyte(array_s)


@contextmanager
def sdk_alone(_: int) -> Iterator[Contestant]:
    """Tasks in this process; values go through files of the SDK's."""
    import flyte  # noqa: PLC0415 - a contestant loads its own libraries only

    env = flyte.TaskEnvironment(name="alone")
    tasks: dict[Any, Any] = {function: env.task(function) for function in (pool_work.take, pool_work.make)}
    # The SDK leaves its files where they are; this directory goes with the process.
    context = flyte.with_runcontext(mode="local", raw_data_path=tempfile.gettempdir())
    by_functions = ByFunctions(
        lambda function, *arguments: context.run(tasks[function], *arguments).outputs(),
        lambda outputs: outputs if len(outputs) > 1 else outputs[0],
    )
    yield ByFlyte(by_functions.array_s)


@contextmanager
def concurrent_futures(_: int) -> Iterator[Contestant]:
    """Give the standard library's pool, with an interpreter for each task."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(CORES, mp_context=context, max_tasks_per_child=1) as pool:
        yield ByFunctions(pool.submit, lambda future: future.result())


@contextmanager
def pebble(_: int) -> Iterator[Contestant]:
    """Give Pebble's pool, with an interpreter for each task."""
    from pebble import ProcessPool  # noqa: PLC0415 - it may not be installed

    with ProcessPool(max_workers=CORES, max_tasks=1, context=multiprocessing.get_context("spawn")) as pool:
        yield ByFunctions(
            lambda function, *arguments: pool.schedule(function, args=arguments), lambda future: future.result()
        )


@contextmanager
def loky(_: int) -> Iterator[Contestant]:
    """Give loky's pool, which keeps its workers."""
    from loky import ProcessPoolExecutor  # noqa: PLC0415 - it may not be installed

    with ProcessPoolExecutor(max_workers=CORES) as pool:
        yield ByFunctions(pool.submit, lambda future: future.result())


@contextmanager
def dask(memory_bytes: int) -> Iterator[Contestant]:
    """Give a cluster of Dask's on this machine; a nanny holds each worker to a limit, and the first death counts."""
    import dask.config  # noqa: PLC0415 - it may not be installed
    from distributed import Client, LocalCluster  # noqa: PLC0415 - as above

    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with (
        LocalCluster(
            n_workers=CORES,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory_bytes,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):

        def start(function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - any task
            sent = [client.scatter(one, hash=False) if hasattr(one, "nbytes") else one for one in arguments]
            return client.submit(function, *sent, pure=False)

        yield ByFunctions(start, lambda future: future.result())


@contextmanager
def ray(memory_bytes: int) -> Iterator[Contestant]:
    """Give Ray on this machine; the memory of a task is what it is scheduled by."""
    import ray  # noqa: PLC0415 - it may not be installed

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        num_cpus=CORES,
        object_store_memory=ROOM_BYTES if memory_bytes > LIMIT_BYTES else None,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=tempfile.gettempdir(),
    )
    try:
        remote = functools.cache(ray.remote(memory=min(memory_bytes, 1 << 30)))
        yield ByFunctions(lambda function, *arguments: remote(function).remote(*arguments), ray.get)
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contestant: how to open it with a memory limit, who holds that, and whether each task has its own process."""

    open: Callable[[int], AbstractContextManager[Contestant]]
    keeper: str
    own_process: bool


CONTESTANTS = {
    "flyte_notebook": Entry(open=lambda limit: ours(limit, ""), keeper="kernel", own_process=True),
    "flyte_notebook, fresh": Entry(open=lambda limit: ours(limit, "fresh"), keeper="kernel", own_process=True),
    "SDK alone": Entry(open=sdk_alone, keeper="", own_process=False),
    "concurrent.futures": Entry(open=concurrent_futures, keeper="", own_process=True),
    "pebble": Entry(open=pebble, keeper="", own_process=True),
    "loky": Entry(open=loky, keeper="", own_process=False),
    "dask.distributed": Entry(open=dask, keeper="nanny", own_process=False),
    "ray": Entry(open=ray, keeper="", own_process=False),
}


def in_a_process(name: str, what: str, size: int, rounds: int, wait_s: float = 0.0) -> Found:
    """Measure a contestant in an interpreter of its own; what: ``array``, or ``tasks`` for no-ops and growth.

    An array gives ``in_s`` and ``out_s``; tasks give ``once_s``, ``together_s``, ``caught``, ``late_s`` (``None`` when
    nobody caught it) and ``over_bytes``. What cannot be measured gives ``failed``, with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="beside-") as place:
        process = subprocess.Popen(
            [sys.executable, "-c", "import pools; pools.main()", name, what, str(size), str(rounds), str(wait_s)],
            cwd=HERE,
            env={**os.environ, "TMPDIR": place},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"failed": f"not done after {PATIENCE_S} s"}
    last = (printed.splitlines() or [""])[-1]
    if not last.startswith("{"):
        return {"failed": f"exit status {process.returncode}"}
    found: Found = json.loads(last)
    return found


def main() -> None:
    """Measure what the command line says, and print it as a last line of JSON."""
    name, what, size, rounds, wait_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    entry = CONTESTANTS[name]
    try:
        with entry.open(ROOM_BYTES if what == "array" else LIMIT_BYTES) as contestant:
            if what == "array":
                found = _array(contestant, size, rounds)
            else:
                found = _tasks(contestant, rounds, wait_s) | _growth(contestant, entry.keeper)
            print("\n" + json.dumps(found), flush=True)
    except ImportError as error:
        print("\n" + json.dumps({"failed": f"cannot be imported ({error.name})"}))
    except Exception as error:  # noqa: BLE001 - one contestant that fails is a word in the table
        print("\n" + json.dumps({"failed": f"{type(error).__name__}: {error}".splitlines()[-1][:120]}))


def _array(contestant: Contestant, size: int, rounds: int) -> Found:
    """Pass arrays; the first time does not count, unless it takes so long that it is the only one."""
    began_s, times = time.monotonic(), [contestant.array_s(size)]
    while len(times) <= rounds and time.monotonic() - began_s < ENOUGH_S:
        times.append(contestant.array_s(size))
    in_s, out_s = (statistics.median(column) for column in zip(*(times[1:] or times), strict=True))
    return {"in_s": in_s, "out_s": out_s}


def _tasks(contestant: Contestant, rounds: int, wait_s: float) -> Found:
    once = []
    for _ in range(rounds + 2):
        time.sleep(PAUSE_S)
        once.append(contestant.once_s(wait_s))
    began_s, together = time.monotonic(), [contestant.together_s(TOGETHER, wait_s)]
    while len(together) < rounds // 4 and time.monotonic() - began_s < ENOUGH_S / 2:
        together.append(contestant.together_s(TOGETHER, wait_s))
    return {"once_s": statistics.median(once[2:]), "together_s": statistics.median(together)}


def _growth(contestant: Contestant, keeper: str) -> Found:
    place = Path(tempfile.gettempdir(), "growth")
    pool_work.lay_out(place)
    caught, late_s = "nobody", None
    try:
        contestant.grow(str(place), LIMIT_BYTES, MOST_BYTES, HOLD_S)
    except Exception as error:  # noqa: BLE001 - whatever its caller gets to see
        late_s = time.monotonic() - pool_work.noted(place).since_s
        caught = f"{keeper or 'somebody'}: {type(error).__name__}"
    over_bytes = max(0, pool_work.noted(place).held_bytes - LIMIT_BYTES)
    return {"caught": caught, "late_s": late_s, "over_bytes": over_bytes}
