"""Fan-out and fan-in: gather, groups, a semaphore, results as they come, a tree that calls itself, sync leaves."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
from functools import partial

import flyte

env = flyte.TaskEnvironment(name="fanout", resources=flyte.Resources(cpu=1, memory="300Mi"))


@env.task
async def shout(word: str) -> str:
    return word.upper()


@env.task
def length(word: str) -> int:
    return len(word)


@env.task
async def half(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


@env.task
async def tree(depth: int, width: int = 2) -> int:
    """Count the nodes below this one."""
    if depth == 0:
        return 0
    below = partial(tree, width=width)
    return width + sum(await asyncio.gather(*(below(depth=depth - 1) for _ in range(width))))


@env.task
async def grouped(words: list[str]) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {"short": [], "long": []}
    for word in words:
        sides["long" if len(word) > 3 else "short"].append(word)
    results = {}
    for name, members in sides.items():
        with flyte.group(f"{name}-words"):
            results[name] = list(await asyncio.gather(*(shout(word) for word in members)))
    return results


@env.task
async def bounded(words: list[str], at_a_time: int) -> list[int]:
    gate = asyncio.Semaphore(at_a_time)

    async def one(word: str) -> int:
        async with gate:
            return await length.aio(word)

    return list(await asyncio.gather(*(one(word) for word in words)))


@env.task
async def some_fail(numbers: list[int]) -> list[str]:
    results = await asyncio.gather(*(half(number) for number in numbers), return_exceptions=True)
    return [f"{type(one).__name__}: {one}" if isinstance(one, Exception) else str(one) for one in results]


@env.task
async def as_they_come(words: list[str]) -> list[str]:
    return sorted([await done for done in asyncio.as_completed([shout(word) for word in words])])


@env.task
async def main(words: list[str]) -> dict[str, str]:
    first, second = await asyncio.gather(grouped(words), bounded(words, at_a_time=2))
    return {
        "grouped": str(sorted(first.items())),
        "bounded": str(second),
        "some_fail": str(await some_fail([2, 3, 8])),
        "as_they_come": str(await as_they_come(words)),
        "tree": str(await tree(depth=2)),
    }


if __name__ == "__main__":
    flyte.init()
    run = flyte.run(main, ["one", "three", "seven"])
    for name, value in run.outputs()[0].items():
        print(">", name, value)
