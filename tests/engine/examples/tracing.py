"""Traced functions, reports, custom context, cached tasks, environments that depend on each other, run from a loop."""
# ruff: noqa: T201 - a program prints

import asyncio
import uuid

import flyte
import flyte.report

base = flyte.TaskEnvironment(name="tracing", resources=flyte.Resources(cpu=1, memory="300Mi"))
cached = base.clone_with(name="tracing_cached", cache="auto")
env = base.clone_with(name="tracing_main", depends_on=[base, cached], env_vars={"TRACING": "on"})


@flyte.trace
async def dive(level: int, bottom: int) -> int:
    return level if level == bottom else await dive(level + 1, bottom)


@flyte.trace
def double(x: int) -> int:
    return 2 * x


@base.task
async def diver(bottom: int) -> int:
    return await dive(0, bottom)


@base.task
def doubles(count: int) -> int:
    with flyte.group("doubles"):
        return sum(double(x) for x in range(count))


@cached.task
async def token(salt: str) -> str:
    return f"{salt}{uuid.uuid4().hex}"


@base.task(report=True)
async def reported(text: str) -> bool:
    flyte.report.get_tab("Details").log(f"<p>{text}</p>")
    await flyte.report.replace.aio(f"<h1>{text}</h1>")
    await flyte.report.flush.aio()
    return flyte.ctx() is not None


@base.task
def plain_report(text: str) -> str:
    return text[::-1]


@env.task
async def where() -> dict[str, str]:
    return {"team": flyte.ctx().custom_context.get("team", "")}


@env.task
async def main(salt: str) -> dict[str, str]:
    first, second = await token(salt), await token(salt)
    with flyte.custom_context(team="inner"):
        inner = await where()
    return {
        "diver": str(await diver(4)),
        "doubles": str(await doubles.aio(5)),
        "cache_hits": str(first == second),
        "cache_misses": str(first != await token(salt + "x")),
        "reported": str(await reported("a report")),
        "context": str([(await where())["team"], inner["team"]]),
        "sync": await plain_report.override(short_name="reversed").aio("abc"),
    }


async def program() -> None:
    await flyte.init.aio()
    run = await flyte.with_runcontext(mode="local", custom_context={"team": "outer"}).run.aio(main, uuid.uuid4().hex)
    for name, value in (await run.outputs.aio())[0].items():
        print(">", name, value)


if __name__ == "__main__":
    asyncio.run(program())
