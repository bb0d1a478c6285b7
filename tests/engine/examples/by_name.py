"""What looks classes and functions up by name in ``__main__``: pickle, process pools, generated code, text as types."""
# ruff: noqa: T201, S301 - a program prints, and loads pickles of its own

import enum
import pickle
import typing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import flyte
import pydantic

env = flyte.TaskEnvironment(name="by_name", resources=flyte.Resources(cpu=1, memory="300Mi"))


class Speed(enum.Enum):
    SLOW = "slow"
    FAST = "fast"


@dataclass
class Leg:
    length: float
    speed: typing.Literal[Speed.SLOW, Speed.FAST] = Speed.SLOW


@dataclass
class Trip:
    first: Leg
    rest: list[Leg] = field(default_factory=list)
    back: Leg | None = None


@dataclass
class Stop:
    name: str


Stops = list[Stop]


@dataclass
class Route:
    start: "Stop"
    others: "Stops" = field(default_factory=list)
    end: typing.Optional["Stop"] = None


class Plan(pydantic.BaseModel):
    start: Stop
    speed: "Speed"


class Sum(typing.NamedTuple):
    legs: int
    longest: Leg


def square(x: int) -> int:
    return x * x


@env.task
async def measure(trip: Trip) -> Sum:
    legs = [trip.first, *trip.rest, *([trip.back] if trip.back else [])]
    return Sum(len(legs), max(legs, key=lambda leg: leg.length))


@env.task
async def reverse(route: Route) -> Route:
    assert route.end
    return type(route)(route.end, route.others[::-1], route.start)


@env.task
async def hurry(plan: Plan, to: typing.Literal["slow", "fast"]) -> Plan:
    return plan.model_copy(update={"speed": Speed(to)})


@env.task
def in_a_pool(n: int) -> list[int]:
    with ProcessPoolExecutor(max_workers=1) as pool:
        return list(pool.map(square, range(n)))


@env.task
async def there_and_back(trip: Trip) -> Trip:
    return typing.cast("Trip", pickle.loads(pickle.dumps(trip)))


@env.task
async def main() -> dict[str, str]:
    trip = Trip(Leg(1.0), [Leg(2.5, Speed.FAST)], Leg(0.5))
    return {
        "generated": str(await measure(trip)),
        "text": str(await reverse(Route(Stop("a"), [Stop("b"), Stop("c")], Stop("d")))),
        "model": str(await hurry(Plan(start=Stop("a"), speed=Speed.SLOW), "fast")),
        "pool": str(await in_a_pool.aio(4)),
        "pickle": str(await there_and_back(trip)),
    }


if __name__ == "__main__":
    flyte.init()
    for name, value in flyte.run(main).outputs()[0].items():
        print(">", name, value)
