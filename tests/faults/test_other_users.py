"""Another user of the machine gets nothing of a session's, and can make it run nothing.

He looks at everything that can be reached while a session works; and he is there first, or comes afterwards, with a
directory of his own wherever one of ours is to be.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from programs import PRELUDE, facts_of, groups, read_until, started

from flyte_notebook.limiters.life import LOCK, LOG
from flyte_notebook.worker.process.spool import Spool
from flyte_notebook.worker.values import named_pickles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.cgroup, pytest.mark.root, pytest.mark.linux]

OTHER = 65534
LOOKS = 40
WORKS = """
ballast = os.urandom(1_500_000)

@env.task
async def doubled(value: bytearray) -> bytearray:
    time.sleep(0.2)
    return value + value if ballast else value

@env.task(cache="auto")
async def cached(value: bytearray) -> bytearray:
    time.sleep(0.2)
    return value + value

@env.task
async def filed(size: int) -> flyte.io.File:
    file = flyte.io.File.new_remote("named")
    Path(file.path).write_bytes(bytes(size))
    return file

@env.task
async def parent(value: bytearray) -> bytearray:
    return await doubled(value)

@env.task
async def fails(value: bytearray) -> None:
    raise ValueError(len(ballast))
"""
AT_WORK = f"""
import flyte.io
{WORKS}
with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    print("AT WORK", session.engine.directory.path, flush=True)
    value = bytearray(os.urandom(1_500_000))
    for number in range(3):
        assert value + value == flyte.run(parent, value).outputs()[0]
        value[0] = number
        assert value + value == flyte.run(cached, value).outputs()[0]
        assert 2_000_000 == os.path.getsize(flyte.run(filed, 2_000_000).outputs()[0].path)
        facts_of(fails, value)
    print("DONE", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """Give a directory where everybody may write and enter, as /tmp is; its owner alone removes what is in it."""
    above = next(path for path in Path(tempfile.gettempdir()).parents if path.stat().st_mode & stat.S_IXOTH)
    place = Path(tempfile.mkdtemp(prefix="tests-everybodys-", dir=above))
    place.chmod(0o1777)
    yield place
    shutil.rmtree(place)


def as_other(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a process of another user's."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            os.write(write, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is: said here, as nobody above may hear of it
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        data = said.read()
    assert 0 == os.waitpid(pid, 0)[1], "see what it wrote to stderr"
    return json.loads(data)


def reached(place: Path) -> dict[str, str]:
    """Return what can be looked into below a place, or written to, with how."""
    found = {}
    assert os.access(place, os.R_OK | os.W_OK | os.X_OK)
    for directory, names, files in os.walk(place):
        for name in (*names, *files):
            path = os.path.join(directory, name)  # noqa: PTH118 - as walk gives it
            ways = [how for how, way in (("read", os.R_OK), ("write", os.W_OK)) if os.access(path, way)]
            if ways and not os.path.islink(path):  # noqa: PTH114 - as above
                found[path] = ",".join(ways)
    return found


def replaceable(place: Path) -> list[str]:
    """Return what could be renamed, and so replaced."""
    found = []
    for path in place.iterdir():
        with contextlib.suppress(OSError):
            path.rename(path.with_name(path.name + ".moved"))
            found.append(path.name)
    return found


def test_nobody_else_can_read_or_replace_anything_while_a_session_works(everybodys: Path, tmp_path: Path) -> None:
    """Directories, values, payloads, results that are cached, files that are returned, inputs that are kept, logs."""
    cache, own = everybodys / "cache", everybodys / "tmp"
    for place in (cache, own):
        place.mkdir()
        place.chmod(0o1777)
    environ = {"TMPDIR": str(own), "XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path)}
    seen: set[str] = set()
    with started(AT_WORK, tmp_path, environ=environ, stdin=subprocess.PIPE) as process:
        directory = read_until(process, "AT WORK").split()[-1]
        looked = 0
        while looked < LOOKS:
            assert {} == as_other(lambda: {**reached(own), **reached(cache)})
            assert [] == as_other(lambda: [*replaceable(own), *replaceable(cache)])
            for _, directories, files in os.walk(everybodys):  # which tolerates what goes meanwhile
                seen.update(directories, files)
            looked += 1
            time.sleep(0.05)
        read_until(process, "DONE")
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (Path(directory), cache / "flyte-notebook")}
        assert {0o700} == set(modes.values())
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        process.wait(30)
    assert {LOCK, LOG} <= seen
    for suffix in (".payload", ".repeat", "named"):
        assert any(name.endswith(suffix) for name in seen), (suffix, seen)
    assert [] == list(own.iterdir())
    assert {} == as_other(lambda: {**reached(own), **reached(cache)})


def test_a_directory_where_the_sdk_would_write_does_not_matter() -> None:
    """Whoever was first to make /tmp/flyte, and whatever it is: runs go on, and nothing of theirs is there."""
    program = AT_WORK.replace("    sys.stdin.readline()\n", "    print(os.listdir('/tmp'), flush=True)\n")
    program = program.replace("range(3)", "range(1)")
    shell = 'mount -t tmpfs tmpfs /tmp && touch /tmp/flyte && cat >/tmp/program.py && exec "$0" /tmp/program.py'
    environ = {**os.environ, "TMPDIR": "/tmp", "XDG_CACHE_HOME": "/tmp/cache", "HOME": "/tmp"}  # noqa: S108 - its own
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, sys.executable],
        input=PRELUDE + program,
        env=environ,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "DONE" in done.stdout, done.stderr
    assert "'flyte'" in done.stdout


SQUATTED = """
import signal
from flyte_notebook.sdk.repeats import InputsGoneError

ballast = os.urandom(1_500_000)

@env.task
async def length(value: bytearray) -> int:
    return len(value)

@env.task
async def grown(size: int) -> bytearray:
    return bytearray(size)

@env.task
async def fails(value: bytearray) -> None:
    raise ValueError(len(value) + len(ballast))

with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    assert facts_of(length, bytearray(1_500_000)) == {"outputs": ["1500000"]}
    facts_of(fails, bytearray(1_500_000))
    worker = fn.last_failure.worker
    found = session.repeats.find(worker)
    print("READY", session.engine.directory.path, flush=True)
    sys.stdin.readline()
    beside, gone = facts_of(add, 1, 2), []
    refused = [facts_of(length, bytearray(1_500_000)), facts_of(grown, 1_500_000)]
    for repeat in (found.arguments, lambda: session.repeats.find(worker)):
        try:
            repeat()
        except InputsGoneError as error:
            gone.append(str(error))
    os.kill(session.engine.supervisor_pid, signal.SIGKILL)
    while session.engine._link.alive:
        time.sleep(0.01)
    facts(beside=beside, refused=[*refused, facts_of(add, 1, 2)], gone=gone)
"""


class Planted:
    """What runs when somebody loads it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


def planted(proof: Path) -> bytes:
    """Return what a file of a session's would be like, and runs something when it is loaded."""
    spool = Spool(str)
    named_pickles.dump(Planted(proof), spool, name="planted", end=True)
    data = spool.finish()
    assert data is not None
    return data


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_directory_in_place_of_the_sessions_is_refused(everybodys: Path, tmp_path: Path, how: str) -> None:
    """When the session's directory is gone and somebody makes one of that name, nothing goes there, or comes from it.

    What needs a file is a system error that says so; what needs none goes on, until the supervisor is lost. Files of
    the names that were there run something when they are loaded: nobody loads them.
    """
    proof = everybodys / "proof"
    environ = {"TMPDIR": str(everybodys), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with started(SQUATTED, tmp_path, environ=environ, stdin=subprocess.PIPE) as process:
        directory = Path(read_until(process, "READY").split()[-1])
        names = [path.name for path in directory.iterdir() if path.is_file()]
        assert any(name.endswith(".repeat") for name in names)
        if how == "removed":
            shutil.rmtree(directory)
        else:
            directory.rename(directory.with_name("elsewhere"))

        def squat() -> None:
            directory.mkdir()
            directory.chmod(0o777)
            for name in names:
                (directory / name).write_bytes(planted(proof))

        as_other(squat)
        before = {path.name: path.read_bytes() for path in directory.iterdir()}
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        said = json.loads(read_until(process, "FACTS").partition("FACTS ")[2])
        process.wait(30)
    assert {"outputs": ["3"]} == said["beside"]
    for one in said["refused"]:
        assert ("RuntimeSystemError", "Interrupted") == (one["error"], one["code"])
    assert 2 == len(said["gone"])
    for words in (*said["gone"], *(one["message"] for one in said["refused"])):
        assert str(directory) in words
        assert f"user {OTHER}" in words
    assert before == {path.name: path.read_bytes() for path in directory.iterdir()}
    assert not proof.exists()
    assert OTHER == directory.stat().st_uid
    assert set() == groups(directory.name)


CACHES = """
@env.task(cache="auto")
async def cached(size: int) -> bytearray:
    return bytearray(size)

with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    found = facts_of(cached, 1_500_000)
    try:
        saved = str(fn.save(fn.last_run))
    except Exception as error:
        saved = repr(error)
    facts(found=found, saved=saved, report=str(fn.doctor()))
"""


@pytest.mark.parametrize("level", ["flyte-notebook", "flyte-notebook/values"])
def test_a_directory_in_place_of_what_lasts_is_refused(everybodys: Path, tmp_path: Path, level: str) -> None:
    """Whoever made it first keeps it, and gets nothing: values go with the session then, and the doctor says so."""
    squatted = everybodys / level

    def squat() -> None:
        squatted.mkdir(parents=True)
        squatted.chmod(0o777)

    if "/" in level:
        squatted.parent.mkdir(mode=0o777)
        squatted.parent.chmod(0o777)
    as_other(squat)
    environ = {"XDG_CACHE_HOME": str(everybodys), "HOME": str(tmp_path)}
    said = facts_of(CACHES, tmp_path, environ=environ)
    assert [] == list(squatted.iterdir())
    assert "outputs" in said["found"]
    assert "StoreError" in said["saved"]
    assert "go with the session" in said["report"]
    assert str(everybodys) in said["report"]
