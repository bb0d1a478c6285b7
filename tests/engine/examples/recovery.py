"""Failing and going on: retries with backoff, errors that no retry helps, timeouts, more memory, cancelled siblings."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import flyte
import flyte.errors

env = flyte.TaskEnvironment(name="recovery", resources=flyte.Resources(cpu=1, memory="250Mi"))

QUICK = flyte.Backoff(base=timedelta(seconds=0.1), factor=2.0, cap=timedelta(seconds=0.3))
TIERS = ("100Mi", "200Mi", "400Mi")


@env.task(retries=flyte.RetryStrategy(count=3, backoff=QUICK))
async def flaky() -> int:
    """Fail twice: each attempt knows its number."""
    number = flyte.ctx().attempt_number
    if number < 2:
        raise RuntimeError(f"attempt {number} failed")
    return number


@env.task(retries=3)
async def hopeless(x: int) -> int:
    raise flyte.errors.NonRecoverableError(f"{x} can never succeed")


@env.task(timeout=flyte.Timeout(max_runtime=timedelta(seconds=1)))
async def slow() -> str:
    time.sleep(60)  # noqa: ASYNC251 - as a task that never yields
    return "done"


@env.task(timeout=flyte.Timeout(max_runtime=60, max_queued_time=60, deadline=120))
async def in_time() -> str:
    return "done"


@env.task
async def fussy(x: int) -> int:
    raise flyte.errors.RuntimeUserError("TooSmall", f"{x} is too small")


@env.task
async def hog(level: int) -> int:
    held = bytearray((57 + 110 * level) << 20)
    return len(held) >> 20


async def with_more_memory(level: int) -> str:
    """OomEscalation the tiers until it fits; a plain function, not a task."""
    for memory in TIERS:
        try:
            await hog.override(resources=flyte.Resources(cpu=1, memory=memory))(level)
        except flyte.errors.OOMError as error:
            print(f"{error.code} at {memory}")
        else:
            return memory
    return "too large"


@env.task
async def sleeper(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@env.task
async def cancels() -> str:
    """Cancel what sleeps when a sibling fails."""
    sleepers = [asyncio.create_task(sleeper(60.0)) for _ in range(2)]
    try:
        await fussy(1)
    except flyte.errors.RuntimeUserError as error:
        for task in sleepers:
            task.cancel()
        ends = await asyncio.gather(*sleepers, return_exceptions=True)
        return f"{error.code} {[type(end).__name__ for end in ends]}"
    return "nothing failed"


async def code_of(awaitable: object) -> str:
    try:
        await awaitable  # type: ignore[misc]  # any call of a task
    except flyte.errors.BaseRuntimeError as error:
        return f"{type(error).__name__} {error.code}"
    return "no error"


@env.task
async def main() -> dict[str, str]:
    return {
        "flaky": str(await flaky()),
        "hopeless": await code_of(hopeless(-1)),
        "slow": await code_of(slow()),
        "in_time": await in_time(),
        "fussy": await code_of(fussy(3)),
        "tiers": str(await asyncio.gather(*(with_more_memory(level) for level in range(4)))),
        "cancels": await cancels(),
    }


if __name__ == "__main__":
    flyte.init()
    began = time.monotonic()
    for name, value in flyte.run(main).outputs()[0].items():
        print(">", name, value)
    print("> soon", time.monotonic() - began < 50)
