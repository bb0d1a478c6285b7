"""Small tasks for the tests of the plane. They travel by value: a pod has no tests."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import cloudpickle
import flyte
import flyte.io
import flyte.report

cloudpickle.register_pickle_by_value(sys.modules[__name__])

IMAGE = "repo/image:1"
"""A plain name: nothing is built."""

env = flyte.TaskEnvironment("plane", image=IMAGE, resources=flyte.Resources(cpu=1, memory="300Mi"))


@env.task
def add(x: int) -> int:
    return x + 1


@env.task
async def adds(x: int) -> int:
    return await add.aio(x)


@env.task
def sees(paths: list[str]) -> list[list[str]]:
    return [os.listdir(path) if os.path.isdir(path) else [] for path in paths]  # noqa: PTH112, PTH208 - plain names


@env.task
def eats(mebibytes: int) -> int:
    return len(b"x" * mebibytes * 2**20)


@env.task
async def feeds(mebibytes: int, memory: str) -> int:
    try:
        return await eats.aio(mebibytes)
    except flyte.errors.OOMError:
        return await eats.override(resources=flyte.Resources(cpu=1, memory=memory)).aio(mebibytes)


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


@env.task
def exits(code: int) -> None:
    os._exit(code)


@env.task
def crashes() -> None:
    ctypes.string_at(0)


@env.task
def writes(size_bytes: int) -> flyte.io.File:
    with open("big", "wb") as file:  # noqa: PTH123 - what a user writes
        file.write(bytes(size_bytes))
    return flyte.io.File.from_local_sync("big")


@env.task
def reads(file: flyte.io.File) -> int:
    with file.open_sync("rb") as content:
        return len(content.read())


@env.task(report=True)
def reports() -> None:
    flyte.report.replace("<b>a report</b>")
    flyte.report.flush()


@flyte.trace
async def step(x: int) -> int:
    return x * 2


@env.task
async def traced(x: int) -> int:
    return await step(x)
