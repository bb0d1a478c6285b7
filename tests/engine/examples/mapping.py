"""flyte.map: in order, with a bound on how many run at a time, with partials, with failures as values."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import time
from functools import partial

import flyte
import flyte.errors

env = flyte.TaskEnvironment(name="mapping", resources=flyte.Resources(cpu=1, memory="300Mi"))


@env.task
def scaled(value: int, factor: int, label: str) -> str:
    return f"{label}{value * factor}"


@env.task
async def reciprocal(value: int) -> float:
    return 1 / value


@env.task
async def interval(_number: int) -> list[float]:
    """Say from when to when it ran."""
    began = time.time()
    time.sleep(0.5)  # noqa: ASYNC251 - a task has a process, or the loop, to itself
    return [began, time.time()]


@env.task
def all_sync(values: list[int]) -> list[str]:
    return list(flyte.map(partial(scaled, factor=3, label="x"), values))


@env.task
def several_arguments(values: list[int], factors: list[int]) -> list[str]:
    return list(flyte.map(scaled, values, factors, ["a", "b", "c"]))


@env.task
def wrong_partial() -> str:
    """Bind an argument that the mapped one would take."""
    try:
        return str(list(flyte.map(partial(scaled, value=1, label="y"), [1, 2])))
    except TypeError as error:
        return type(error).__name__


@env.task
async def failures_as_values(values: list[int]) -> list[str]:
    results = [result async for result in flyte.map.aio(reciprocal, values, return_exceptions=True)]
    return [one.code if isinstance(one, flyte.errors.RuntimeUserError) else str(one) for one in results]


@env.task
async def most_at_a_time(count: int, concurrency: int) -> int:
    spans = [tuple(span) async for span in flyte.map.aio(interval, range(count), concurrency=concurrency)]
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


@env.task
async def main() -> dict[str, str]:
    return {
        "all_sync": str(await all_sync.aio([1, 2, 3])),
        "several_arguments": str(await several_arguments.aio([1, 2, 3], [10, 20, 30])),
        "wrong_partial": await wrong_partial.aio(),
        "failures_as_values": str(await failures_as_values([1, 0, 4])),
        "most_at_a_time": str(await most_at_a_time(6, 2)),
    }


if __name__ == "__main__":
    flyte.init()
    for name, value in flyte.run(main).outputs()[0].items():
        print(">", name, value)
