"""What depends on the text of functions: cached calls in a task, a map over a cached task, sources and tracebacks."""
# ruff: noqa: T201 - a program prints

import inspect
import time
import traceback
import uuid
from collections.abc import Callable

import flyte

env = flyte.TaskEnvironment(name="cached_calls", resources=flyte.Resources(cpu=1, memory="300Mi"))
cached = env.clone_with(name="cached_calls_cached", cache="auto")


@cached.task
async def when(salt: str) -> float:
    return time.time()


@cached.task
def tenfold(x: int) -> int:
    return 10 * x


def half(x: int) -> float:
    return 1 / x


@env.task
async def calls_cached(salt: str) -> bool:
    return await when(salt) == await when(salt) != await when(salt + "x")


@env.task
def maps_cached(first: int) -> list[int]:
    return [tenth - 10 * first for tenth in flyte.map(tenfold, range(first, first + 3))]


@env.task
def source_of_a_helper() -> str:
    return inspect.getsource(half).splitlines()[-1].strip()


@env.task
def traceback_of_a_helper() -> str:
    try:
        half(0)
    except ZeroDivisionError:
        return str("return 1 / x" in traceback.format_exc())
    return ""


@env.task
def file_of_an_argument(function: Callable[[int], float]) -> str:
    return function.__code__.co_filename.rpartition("/")[2]


@env.task
def made() -> Callable[[int], int]:
    def inside(x: int) -> int:
        return x + 1

    return inside


if __name__ == "__main__":
    flyte.init()
    salt = uuid.uuid4().hex
    print(">", "calls_cached", flyte.run(calls_cached, salt).outputs()[0])
    print(">", "maps_cached", flyte.run(maps_cached, int(salt[:12], 16)).outputs()[0])
    print(">", "source_of_a_helper", flyte.run(source_of_a_helper).outputs()[0])
    print(">", "traceback_of_a_helper", flyte.run(traceback_of_a_helper).outputs()[0])
    # Of these two the SDK alone may lose the file: its releases of cloudpickle differ.
    print(">", "file_of_an_argument", flyte.run(file_of_an_argument, half).outputs()[0])
    function = flyte.run(made).outputs()[0]
    print(">", "file_of_a_result", function(1), function.__code__.co_filename.rpartition("/")[2])
