"""Files, directories and data frames made in one task and read in others, also inside of a model."""
# ruff: noqa: T201 - a program prints

import asyncio
import tempfile
from pathlib import Path

import flyte
import pandas as pd
import pydantic
from flyte.io import DataFrame, Dir, File

env = flyte.TaskEnvironment(name="files", resources=flyte.Resources(cpu=1, memory="700Mi"))


class Predictions(pydantic.BaseModel):
    values: list[float]
    file: File


def place() -> Path:
    return Path(tempfile.mkdtemp(prefix="example-"))


@env.task
async def predict(values: list[float]) -> Predictions:
    path = place() / "predictions.csv"
    path.write_text("".join(f"{2 * value}\n" for value in values))
    return Predictions(values=values, file=await File.from_local(str(path)))


@env.task
async def mean_of_file(predictions: Predictions) -> float:
    async with predictions.file.open("rb") as handle:
        numbers = [float(line) for line in bytes(await handle.read()).decode().split()]
    return sum(numbers) / len(numbers)


@env.task
def write_sync() -> File:
    path = place() / "note.txt"
    path.write_text("written without await")
    return File.from_local_sync(str(path))


@env.task
def read_sync(file: File) -> str:
    with file.open_sync("rb") as handle:
        return handle.read().decode()


@env.task
async def make_dir() -> Dir:
    top = place()
    (top / "below").mkdir()
    for name in ("one.txt", "two.txt", "below/three.txt"):
        (top / name).write_text(f"text of {name}")
    return await Dir.from_local(str(top))


@env.task
async def size_of(file: File) -> int:
    async with file.open("rb") as handle:
        return len(await handle.read())


@env.task
async def sizes(directory: Dir) -> dict[str, int]:
    files = [file async for file in directory.walk(recursive=True)]
    found = await asyncio.gather(*(size_of(file) for file in files))
    return dict(zip((file.name for file in files), found, strict=True))


@env.task
async def people() -> pd.DataFrame:
    return pd.DataFrame({"id": [1, 2, 3], "name": ["Ada", "Bea", "Cyd"]})


@env.task
async def salaries() -> DataFrame:
    return DataFrame.from_df(pd.DataFrame({"id": [2, 3, 4], "salary": [20.5, 30.0, 40.0]}))


@env.task
async def joined() -> pd.DataFrame:
    left, right = await asyncio.gather(people(), salaries())
    return left.merge(await right.open(pd.DataFrame).all(), on="id")


@env.task
async def main() -> dict[str, str]:
    table = await joined()
    return {
        "mean_of_file": str(await mean_of_file(await predict([1.0, 2.0, 6.0]))),
        "sync": await read_sync.aio(await write_sync.aio()),
        "sizes": str(sorted((await sizes(await make_dir())).items())),
        "joined": table.to_csv(index=False).replace("\n", ";"),
    }


if __name__ == "__main__":
    flyte.init()
    for name, value in flyte.run(main).outputs()[0].items():
        print(">", name, value)
