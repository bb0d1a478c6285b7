"""Only the owner clears up: a fork of a notebook or a task, or a supervisor that is ended, removes nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import facts_of

pytestmark = [pytest.mark.cgroup, pytest.mark.linux]

FORKS = """
@env.task
async def fails(value: bytearray) -> None:
    raise ValueError("no")

def forked(end):
    "Fork; the child ends in that way, and the parent waits for it."
    pid = os.fork()
    if pid == 0:
        end()
    os.waitpid(pid, 0)

def raises():
    raise RuntimeError("the child ends")

def closes():
    enforcement.close_session()
    os._exit(0)

with fn.enable():
    session = enforcement.current()
    session.engine.wait_until_proven()
    facts_of(fails, bytearray(1_500_000))
    worker = fn.last_failure.worker
    before = sorted(os.listdir(session.engine.directory.path))
    after = []
    for end in (sys.exit, raises, closes):
        forked(end)
        after.append(sorted(os.listdir(session.engine.directory.path)))
    kept = len(session.repeats.find(worker).arguments()["value"])
    facts(same=[before == one for one in after], kept=kept, found=facts_of(add, 1, 2))
"""


def test_a_fork_of_a_script_removes_nothing(tmp_path: Path) -> None:
    """Its child leaves the block that enforces limits, raises, or closes the session: all stays, and runs go on."""
    said = facts_of(FORKS, tmp_path)
    assert {"same": [True] * 3, "kept": 1_500_000, "found": {"outputs": ["3"]}} == said


IN_TASKS = """
from flyte_notebook.sdk.celltask import cell_task, read_cell

ends = {
    "returns": lambda: None,
    "exit": lambda: sys.exit(3),
    "exit with words": lambda: sys.exit("the child says why"),
    "raise": lambda: 1 / 0,
}

@env.task
async def length(value: bytearray) -> int:
    return len(value)

def forked(how):
    pid = os.fork()
    if pid == 0:
        return ends[how]()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@env.task
async def in_a_coroutine(how: str) -> list[int]:
    value = bytearray(1_500_000)
    status = forked(how)
    return [] if status is None else [status, await length(value)]

@env.task
def in_a_thread(how: str) -> list[int]:
    status = forked(how)
    return [] if status is None else [status, 1_500_000]

@env.task
async def speaks(how: str) -> int:
    pid = os.fork()
    if pid == 0:
        from flyte_notebook.worker.process import child, context
        context.publish({"data": {"text/plain": "not here"}})
        os._exit(0 if child.channel is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def in_a_cell(how):
    parts = read_cell("status = forked(how)\\nstatus", {"forked": forked, "how": how, "ends": ends})
    return cell_task("cell", parts), tuple(parts.inputs.values())

with fn.enable():
    enforcement.current().engine.wait_until_proven()
    found = {}
    for how in ends:
        cell, inputs = in_a_cell(how)
        found[how] = [facts_of(in_a_coroutine, how), facts_of(in_a_thread, how), facts_of(cell, *inputs)]
    facts(found=found, speaks=facts_of(speaks, ""))
"""


def test_a_fork_of_a_task_answers_nothing_and_removes_nothing(tmp_path: Path) -> None:
    """It ends where the user's code does, as a script would: the attempt is that of the worker, with its own answer."""
    said = facts_of(IN_TASKS, tmp_path)
    statuses = {"returns": 0, "exit": 3, "exit with words": 1, "raise": 1}
    for how, status in statuses.items():
        pair = {"outputs": [f"[{status}, 1500000]"]}
        assert [pair, pair, {"outputs": [str(status)]}] == said["found"][how], how
    assert {"outputs": ["0"]} == said["speaks"]


ENDED = """
from concurrent.futures import ThreadPoolExecutor

ballast = os.urandom(1_500_000)

@env.task
def waits(place: str) -> int:
    Path(place).touch()
    while not Path(place + ".end").exists():
        time.sleep(0.02)
    return len(ballast)

@env.task
def length(value: bytearray) -> int:
    return len(value) + len(ballast)

with fn.enable(max_processes=1):
    session = enforcement.current()
    session.engine.wait_until_proven()
    place = os.environ["PLACE"]
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(facts_of, waits, place)
        while not Path(place).exists():
            time.sleep(0.01)
        queued = [threads.submit(facts_of, length, bytearray(1_500_000)) for _ in range(3)]
        while session.engine.active < 4:
            time.sleep(0.01)
        kept = sorted(os.listdir(session.engine.directory.path))
        os.kill(session.engine.supervisor_pid, signal.SIGTERM)
        found = [one.result() for one in (first, *queued)]
    process = session.engine._link._process
    os.kill(process.pid, signal.SIGTERM)
    process.wait()
    there = Path(session.engine.directory.path, "lock").exists()
    facts(found=found, there=there, after=facts_of(add, 3, 4), directory=session.engine.directory.path)
"""


def test_a_supervisor_that_is_ended_removes_no_file_of_the_notebook(tmp_path: Path) -> None:
    """What runs is lost, as a system error; what waits in line has its inputs still, and runs with the next one.

    The same when nothing runs: the next run has another supervisor, and the same directory.
    """
    place = tmp_path / "place"
    said = facts_of("import signal\n" + ENDED, tmp_path, environ={"PLACE": str(place)})
    first, *queued = said["found"]
    assert "RuntimeSystemError" == first["error"]
    assert [{"outputs": ["3000000"]}] * 3 == queued
    assert (True, {"outputs": ["7"]}) == (said["there"], said["after"])
    assert not Path(said["directory"]).exists()
