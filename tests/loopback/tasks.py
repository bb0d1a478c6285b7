"""Small tasks for the tests of the plane. They travel by value: a pod has no tests."""

from __future__ import annotations

import os
import sys
import time

import cloudpickle
import flyte

cloudpickle.register_pickle_by_value(sys.modules[__name__])

IMAGE = "repo/image:1"
"""A plain name: nothing is built."""

env = flyte.TaskEnvironment("plane", image=IMAGE, resources=flyte.Resources(cpu=1, memory="300Mi"))


@env.task
def add(x: int) -> int:
    return x + 1


@env.task
def sees(path: str) -> list[str]:
    return sorted(os.listdir(path)) if os.path.isdir(path) else []  # noqa: PTH112, PTH208 - plain names are sent


@env.task
def eats(mebibytes: int) -> int:
    return len(b"x" * mebibytes * 2**20)


@env.task
async def feeds(mebibytes: int, memory: str) -> int:
    try:
        return await eats(mebibytes)
    except flyte.errors.OOMError:
        return await eats.override(resources=flyte.Resources(cpu=1, memory=memory))(mebibytes)


@env.task(retries=1)
def fails(where: str) -> int:
    print(f"attempt of {where}", flush=True)
    raise ValueError(where)


@env.task
def sleeps(seconds: float) -> float:
    print("begins", flush=True)
    time.sleep(seconds)
    print("ends", flush=True)
    return seconds
