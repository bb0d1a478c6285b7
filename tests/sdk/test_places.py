"""Where values and what the SDK writes lie: what travels goes, what is referred to stays, all is this user's alone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cloudpickle
import flyte
import flyte.errors
import flyte.io
import flyte.report
import pandas as pd
import pytest
from flyte.models import RawDataPath
from flyte.types import FlytePickle
from sessions import opened_for

from flyte_notebook.core import private
from flyte_notebook.limiters.life import LOCK, LOG
from flyte_notebook.sdk import places
from flyte_notebook.sdk.celltask import cell_task, read_cell
from flyte_notebook.sdk.types import CellInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = pytest.mark.cgroup

SIZE = 3_000_000
BOUND_S = 100

env = flyte.TaskEnvironment(name="places", resources=flyte.Resources(cpu=1, memory="350Mi"))
ballast = os.urandom(1_500_000)


@env.task
async def doubled(value: bytearray) -> bytearray:
    return value + value if ballast else value


@env.task
async def calls(value: bytearray) -> int:
    return len(await doubled(value)) + len(await doubled(value))


@env.task
async def table_sum(table: flyte.io.DataFrame) -> int:
    return int((await table.open(pd.DataFrame).all())["value"].sum())


@env.task
async def framed(size: int) -> pd.DataFrame:
    return pd.DataFrame({"value": range(size)})


@env.task
async def summed(frame: pd.DataFrame) -> int:
    return int(frame["value"].sum())


@env.task
async def calls_framed(size: int) -> int:
    return await summed(await framed(size))


@env.task
def filed(size: int) -> flyte.io.File:
    file: Any = flyte.io.File.new_remote("named")
    Path(file.path).write_bytes(bytes(size))
    return file


@env.task
async def filed_inside(size: int) -> int:
    return len(await asyncio.to_thread(Path((await filed.aio(size)).path).read_bytes))


@env.task(report=True)
async def reports() -> int:
    flyte.report.log("<p>said</p>")
    await flyte.report.flush.aio()
    return 1


@env.task
async def refuses(value: bytearray) -> None:
    raise ValueError(len(value))


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this module a cache directory and a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def session(_own_cache: None) -> Iterator[Session]:
    """Return the open session; the tasks of this module travel by value."""
    with opened_for(sys.modules[__name__]) as opened:
        yield opened


@pytest.fixture
def lasting(session: Session) -> Path:
    """Return the directory of what stays, with nothing in it."""
    found = places.current()
    assert found is not None
    assert found.lasting is not None
    return Path(found.lasting.path)


def files(place: Path) -> list[str]:
    """Return the files below a place, by their names in it, without those that a session always has."""
    found = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    return sorted(name for name in found if name not in {LOCK, LOG})


def travelled(session: Session, most: int = 0) -> list[str]:
    """Return what the session's directory holds once nothing runs any more; wait until that is at most so much."""
    until_s = time.monotonic() + 5
    place = Path(session.engine.directory.path)
    while len(files(place)) > most and time.monotonic() < until_s:
        time.sleep(0.02)
    return files(place)


def outputs(task: Any, *args: Any) -> Any:
    return flyte.run(task, *args).outputs()[0]


def test_what_travels_goes_with_its_run(session: Session, lasting: Path) -> None:
    """Payloads, inputs, results and answers, pickled or as tables, of runs and of calls: no file is left of them."""
    before = files(lasting)
    value = bytearray(os.urandom(SIZE))
    assert value + value == outputs(doubled, value)
    assert 4 * SIZE == outputs(calls, value)
    assert 300_000 == len(outputs(framed, 300_000))
    assert sum(range(300_000)) == outputs(calls_framed, 300_000)
    assert [] == travelled(session)
    parts = read_cell("grown = value + value\nlen(grown)", {"value": value}, outputs=["grown"])
    task = cell_task("grown", parts)
    assert 2 * SIZE == outputs(task, *parts.inputs.values())
    assert 1 >= len(travelled(session, most=1))  # what the notebook may still load
    assert before == files(lasting)
    assert [] == [path for path in lasting.rglob("*") if path.is_dir()]


def test_inputs_of_a_failure_stay_for_as_long_as_it_can_be_repeated(session: Session) -> None:
    """A rerun finds them, although the run is over."""
    value = bytearray(os.urandom(SIZE))
    with pytest.raises(flyte.errors.RuntimeUserError) as caught:
        flyte.run(refuses, value)
    worker = caught.value.failure.worker  # type: ignore[attr-defined]  # every error that reaches the user has it
    assert value == session.repeats.find(worker).arguments()["value"]


def test_a_file_that_is_returned_stays(session: Session, lasting: Path) -> None:
    """In a directory of this user's alone; one that only a call returned, to a task that does not, goes."""
    found = Path(outputs(filed, 1000).path)
    assert found.is_relative_to(lasting)
    assert 1000 == found.stat().st_size
    assert 0o700 == stat.S_IMODE(lasting.stat().st_mode)
    before = files(lasting)
    assert 2000 == outputs(filed_inside, 2000)
    assert before == files(lasting)


def test_a_table_that_is_given_twice_is_there_twice(session: Session) -> None:
    """It is uploaded once, where the first run has its files, and says so itself from then on."""
    table = flyte.io.DataFrame.from_df(pd.DataFrame({"value": range(10)}))
    assert [45, 45] == [outputs(table_sum, table) for _ in range(2)]


def test_a_report_stays(session: Session, lasting: Path) -> None:
    """Where its run says that it is."""
    run = flyte.run(reports)
    (report,) = Path(run.url).rglob("*.html")
    assert report.is_relative_to(lasting)
    assert "said" in report.read_text()


def test_the_path_that_a_user_named_is_obeyed(session: Session, lasting: Path, tmp_path: Path) -> None:
    """Values lie there, readable by nobody else, and what a File refers to; nothing of them is in our places."""
    before = files(lasting)
    runner = flyte.with_runcontext(mode="local", raw_data_path=str(tmp_path / "raw"))
    value = bytearray(os.urandom(SIZE))
    parts = read_cell("len(value)", {"value": value})
    assert SIZE == runner.run(cell_task("length", parts), *parts.inputs.values()).outputs()[0]
    assert value + value == runner.run(doubled, value).outputs()[0]
    found = runner.run(filed, 1000).outputs()[0]
    assert Path(found.path).is_relative_to(tmp_path / "raw")
    large = [path for path in (tmp_path / "raw").rglob("*") if path.is_file() and path.stat().st_size > SIZE]
    assert large
    assert before == files(lasting)


class Planted:
    """What runs when somebody loads it."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("it was loaded",)


@pytest.mark.root
@pytest.mark.usefixtures("session")
def test_a_pickle_of_another_user_is_not_loaded(tmp_path: Path) -> None:
    """Wherever it lies: plain Flyte keeps what its cache refers to where everybody may write."""
    path = tmp_path / "value"
    path.write_bytes(cloudpickle.dumps([1, 2]))
    assert [1, 2] == asyncio.run(FlytePickle.from_pickle(str(path)))
    path.write_bytes(cloudpickle.dumps(Planted()))
    os.chown(path, 65534, 65534)
    with pytest.raises(private.NotPrivateError, match="belongs to user 65534"):
        asyncio.run(FlytePickle.from_pickle(str(path)))


def test_a_name_below_a_directory_that_was_replaced_is_refused(session: Session) -> None:
    """The SDK, and user code, open files by name: they get none where another directory stands now."""
    path = RawDataPath(path=f"{session.engine.directory.path}/run/raw_data")
    assert path.get_random_remote_path("named").endswith("/named")
    place = Path(session.engine.directory.path)
    moved = place.rename(place.with_name("moved"))
    try:
        place.mkdir(mode=0o700)
        with pytest.raises(private.NotPrivateError, match="another directory"):
            path.get_random_remote_path("named")
        place.rmdir()
    finally:
        moved.rename(place)


def test_two_runs_at_a_time_have_directories_of_their_own(session: Session) -> None:
    """A checkpoint of one is never the other's: the paths differ."""

    async def both() -> list[Any]:
        return await asyncio.gather(flyte.run.aio(filed, 10), flyte.run.aio(filed, 10))

    first, second = (Path(run.outputs()[0].path) for run in asyncio.run(both()))
    assert first != second
    assert {10} == {path.stat().st_size for path in (first, second)}


def test_what_lasts_may_be_deleted(session: Session, lasting: Path) -> None:
    """A user who clears his cache while a session is open has the directory made again, and values in it."""
    private.find(str(lasting)).remove()
    found = Path(outputs(filed, 1000).path)
    assert found.is_relative_to(lasting)
    assert 0o700 == stat.S_IMODE(lasting.stat().st_mode)


CACHED = """
import json, os, sys
import flyte, flyte.io
from pathlib import Path
import pandas as pd
import flyte_notebook as fn
from flyte_notebook.sdk import enforcement, places
from flyte_notebook.sdk.celltask import cell_task, read_cell

env = flyte.TaskEnvironment(name="cached", resources=flyte.Resources(cpu=1, memory="350Mi"))

@env.task(cache="auto")
async def pickled(size: int) -> bytearray:
    return bytearray(os.urandom(size))

@env.task(cache="auto")
async def framed(size: int) -> pd.DataFrame:
    return pd.DataFrame({"value": list(os.urandom(size))})

@env.task(cache="auto")
async def filed(size: int) -> flyte.io.File:
    file = flyte.io.File.new_remote("named")
    Path(file.path).write_bytes(os.urandom(size))
    return file

@env.task
async def calls(size: int) -> str:
    found = bytes(await pickled(size + 1)), bytes((await framed(size + 1))["value"].tolist())
    return [part[:8].hex() for part in found].__repr__()

def of_cell(size):
    parts = read_cell("import os\\nvalue = os.urandom(size)\\nvalue", {"size": size})
    task = cell_task("cell", parts, cache="auto")
    return flyte.run(task, *parts.inputs.values()).outputs()[0]

flyte.init()
with fn.enable():
    def first(task, size):
        return flyte.run(task, size).outputs()[0]
    found = {
        "pickled": first(pickled, 3_000_000)[:8].hex(),
        "framed": bytes(first(framed, 1_000_000)["value"].tolist()[:8]).hex(),
        "filed": Path(first(filed, 3_000_000).path).read_bytes()[:8].hex(),
        "cell": of_cell(3_000_000)[:8].hex(),
        "called": first(calls, 1_000_000),
    }
    print("FOUND " + json.dumps({"found": found, "session": enforcement.current().engine.directory.path}), flush=True)
    if "kill" in sys.argv:
        os.kill(os.getpid(), 9)
"""


def test_a_result_in_the_cache_is_there_after_a_restart(tmp_path: Path) -> None:
    """3 MB, pickled, as a table, as a file, of a cell, of a call: each is what was computed before the kernel died."""
    script = tmp_path / "cached.py"
    script.write_text(CACHED)
    environ = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = []
    for words in (["kill"], []):
        done = subprocess.run(
            [sys.executable, str(script), *words],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert "FOUND " in done.stdout, done.stderr
        found.append(json.loads(done.stdout.partition("FOUND ")[2].splitlines()[0]))
    assert found[0]["found"] == found[1]["found"]
    until_s = time.monotonic() + 5
    while any(Path(one["session"]).exists() for one in found) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert [False] * 2 == [Path(one["session"]).exists() for one in found]
    values = tmp_path / "cache" / "flyte-notebook" / "values"
    assert 5 <= len(list(values.iterdir()))  # what a session that was closed left is there as well
    assert 0o700 == stat.S_IMODE(values.stat().st_mode)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in values.iterdir() if path.is_file())


KILLED = """
import os, time
from pathlib import Path
import flyte, flyte.io
import flyte_notebook as fn
from flyte_notebook.sdk import enforcement

env = flyte.TaskEnvironment(name="killed", resources=flyte.Resources(cpu=1, memory="250Mi"))

@env.task
async def filed(size: int) -> flyte.io.File:
    file = flyte.io.File.new_remote("named")
    Path(file.path).write_bytes(os.urandom(size))
    Path(os.environ["PLACE"]).touch()
    time.sleep(60)
    return file

flyte.init()
with fn.enable():
    flyte.run(filed, 1_000_000)
"""


def test_what_a_run_wrote_goes_with_a_kernel_that_is_killed(tmp_path: Path) -> None:
    """A file that would have stayed, had the run come to its end."""
    place = tmp_path / "place"
    environ = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PLACE": str(place),
        "HOME": str(tmp_path),
    }
    values = tmp_path / "cache" / "flyte-notebook" / "values"
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=environ, cwd=tmp_path)
    try:
        until_s = time.monotonic() + BOUND_S
        while not place.exists():
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.02)
        assert ["named"] == [path.name for path in values.rglob("*") if path.is_file()]
    finally:
        process.kill()
        process.wait()
    until_s = time.monotonic() + 5
    while list(values.iterdir()) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert [] == list(values.iterdir())


def test_without_a_home_everything_goes_with_the_session(tmp_path: Path) -> None:
    """Runs work all the same, cached ones too; and the doctor says that nothing stays, and why."""
    program = """
import flyte, os
import flyte_notebook as fn
env = flyte.TaskEnvironment(name="homeless")

@env.task(cache="auto")
async def grown(size: int) -> bytearray:
    return bytearray(size)

flyte.init()
with fn.enable():
    print(len(flyte.run(grown, 3_000_000).outputs()[0]))
    print(fn.doctor())
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    (tmp_path / "file").touch()
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert "3000000\n" in done.stdout, done.stderr
    assert "cached ones too" in done.stdout


@dataclass
class Holds:
    """Has a table of the SDK."""

    table: flyte.io.DataFrame


@dataclass
class Itself:
    """Has others of its kind."""

    others: list[Itself]


@pytest.mark.parametrize(
    ("kind", "remembers"),
    [
        (int, False),
        (bytearray, False),
        (pd.DataFrame, False),
        (list[str], False),
        (object, False),
        (Any, False),
        (Annotated[CellInput, "x"], False),
        (flyte.io.DataFrame, True),
        (flyte.io.File, True),
        (list[flyte.io.Dir], True),
        (flyte.io.File | None, True),
        (Holds, True),
        (dict[str, Holds], True),
        (Itself, False),
    ],
)
def test_which_inputs_remember_their_files(kind: Any, remembers: bool) -> None:  # noqa: FBT001 - a table
    """Those of the SDK, and what has one; what is pickled does not, and neither does a cell's input."""
    assert remembers == places._remembers(kind)


@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        (int, True),
        (bytearray, True),
        (type(None), True),
        (list[str], True),
        (dict[str, list[float]], True),
        (tuple[int, ...], True),
        (int | None, True),
        (pd.DataFrame, True),
        (type("LazyFrame", (), {"__module__": "polars.lazyframe.frame"}), False),
        (flyte.io.File, False),
        (list[flyte.io.File], False),
        (flyte.io.Dir, False),
        (flyte.io.DataFrame, False),
        (list, False),
        (object, False),
        (Path, False),
        (Any, False),
        (Callable[[int], int], False),
    ],
)
def test_which_values_refer_to_files(kind: Any, whole: bool) -> None:  # noqa: FBT001 - a table
    """What is whole in memory needs no file afterwards; of what is not known a file may be part."""
    assert whole == places._is_whole(kind)
