"""Tasks that a user of the plain SDK stumbles over. They travel by value, as those of a notebook do."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import cloudpickle
import flyte

cloudpickle.register_pickle_by_value(sys.modules[__name__])

env = flyte.TaskEnvironment("traps", image="repo/image:1", resources=flyte.Resources(cpu=1, memory="300Mi"))


@dataclasses.dataclass
class Point:
    x: int
    more: list[int] = dataclasses.field(default_factory=list)


class Holder:
    """A class that the SDK does not know: it is pickled."""

    def __init__(self, point: Point) -> None:
        self.point = point


class Opens:
    """Whoever loads it makes a directory where the environment says."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _make, ("LOADED_HERE",)


def _make(variable: str) -> None:
    if variable in os.environ:
        Path(os.environ[variable]).mkdir()


@env.task
def size(value: bytes) -> int:
    return len(value)


@env.task
def says(number: int) -> str:
    return "x" * number


@env.task
def holds(x: int) -> Holder:
    return Holder(Point(x))


@env.task
def opens() -> Opens:
    return Opens()


@env.task
async def deepest() -> int:
    raise ValueError("the deepest one")


@env.task
async def middle() -> int:
    return await deepest()


@env.task
async def top() -> int:
    return await middle()


def asks_a_module(module: object) -> flyte.TaskTemplate:  # type: ignore[type-arg]
    """Make a task that mentions a module."""

    @env.task
    def asks() -> int:
        return int(module.VALUE)  # type: ignore[attr-defined]

    return asks
