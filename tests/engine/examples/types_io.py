"""Values of many types between tasks: dataclasses, models, enums, named tuples, unions, functions, several outputs."""
# ruff: noqa: T201 - a program prints

import datetime as dt
import enum
import typing
from dataclasses import dataclass, field

import flyte
import pydantic

env = flyte.TaskEnvironment(name="types_io", resources=flyte.Resources(cpu=1, memory="300Mi"))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Address:
    street: str
    number: int = 1


@dataclass
class Person:
    name: str
    home: Address
    tags: list[str] = field(default_factory=list)
    nick: str | None = None


class Policy(pydantic.BaseModel):
    most: int = 3
    codes: list[int] = [429, 503]


class Settings(pydantic.BaseModel):
    name: str
    colour: Colour = Colour.RED
    policy: Policy = Policy()
    spare: Policy | None = None
    stages: dict[str, Policy] = {}


class Summary(typing.NamedTuple):
    text: str
    score: float


@env.task
async def move(person: Person, street: str) -> Person:
    return Person(person.name, Address(street, person.home.number + 1), [*person.tags, "moved"], person.nick)


@env.task
def adjust(settings: Settings | None = None) -> Settings:
    settings = settings or Settings(name="default")
    return settings.model_copy(update={"colour": Colour.BLUE, "stages": {"fetch": Policy(most=9)}})


@env.task
async def swap(first: int, second: str) -> tuple[str, int]:
    return second, first


@env.task
async def summarise(values: list[float]) -> Summary:
    return Summary(f"{len(values)} values", sum(values) / len(values))


@env.task
async def kind_of(value: int | str | None) -> str:
    return type(value).__name__


@env.task
async def later(when: dt.datetime, by: dt.timedelta) -> dt.datetime:
    return when + by


async def plus_two(x: int) -> int:
    return x + 2


@env.task
async def times_three(x: int) -> int:
    return x * 3


@env.task
async def apply(x: int, function: typing.Callable[[int], typing.Awaitable[int]]) -> int:
    return await function(x)


@env.task
async def count(words: dict[str, list[int]], *, twice: bool = False) -> dict[str, int]:
    return {word: sum(numbers) * (2 if twice else 1) for word, numbers in words.items()}


@env.task
async def nothing() -> None:
    return None


@env.task
async def main(colour: Colour) -> dict[str, str]:
    when = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
    return {
        "colour": colour.value,
        "dataclass": str(await move(Person("Ada", Address("High St"), nick="A"), "Low St")),
        "model": str(await adjust.aio(Settings(name="given", spare=Policy(most=1)))),
        "default": str(await adjust.aio()),
        "two_outputs": str(await swap(1, "one")),
        "named_tuple": str(await summarise([1.0, 2.0, 6.0])),
        "union": str([await kind_of(1), await kind_of("1"), await kind_of(None)]),
        "datetime": str(await later(when, dt.timedelta(hours=36))),
        "functions": str([await apply(1, plus_two), await apply(2, times_three)]),
        "dict": str(sorted((await count({"a": [1, 2], "b": []}, twice=True)).items())),
        "none": str(await nothing()),
    }


if __name__ == "__main__":
    flyte.init()
    for name, value in flyte.run(main, Colour.BLUE).outputs()[0].items():
        print(">", name, value)
