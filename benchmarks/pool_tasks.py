"""What every pool is given to do, as Flyte tasks."""

from __future__ import annotations

import asyncio
import time

import flyte
import pool_work

env = flyte.TaskEnvironment(name="beside", resources=flyte.Resources(cpu=1, memory="250Mi"))


@env.task
async def nothing(wait_s: float) -> float:
    """Do nothing, or wait a while."""
    return pool_work.nothing(wait_s)


@env.task
async def together(count: int, wait_s: float) -> float:
    """Return how long so many take beside each other, in seconds."""
    began_s = time.perf_counter()
    await asyncio.gather(*(nothing.aio(wait_s) for _ in range(count)))
    return time.perf_counter() - began_s


@env.task
def grow(place: str, limit_bytes: int, most_bytes: int, hold_s: float) -> int:
    """Take memory."""
    return pool_work.grow(place, limit_bytes, most_bytes, hold_s)
