"""A kernel that is killed with fifty tasks in flight leaves nothing, as soon as all of them can be killed."""

from __future__ import annotations

from pathlib import Path

import leaks
import pytest
from bounds import under_load
from programs import started, until

pytestmark = [pytest.mark.cgroup, pytest.mark.slow]

TASKS = 50
GONE_S = 10.0
"""Many times what two hundred processes take to end on a machine with nothing else to do."""

PROGRAM = """
@env.task
def sleeps(place: str) -> None:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(place).touch()
    time.sleep(600)

@env.task
async def parent(directory: str, count: int) -> None:
    small = sleeps.override(resources=flyte.Resources(memory="80Mi"))
    await asyncio.gather(*(small.aio(f"{directory}/{number}") for number in range(count)))

fn.enable()
flyte.run(parent, DIRECTORY, COUNT)
"""


def test_a_kernel_killed_with_fifty_tasks_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL while fifty tasks run, each with a daemon: soon no process, no group and no file of them."""
    places = Path(tmp_path, "places")
    places.mkdir()
    before = leaks.Snapshot.take()
    program = PROGRAM.replace("DIRECTORY", repr(str(places))).replace("COUNT", str(TASKS))
    with started(program, tmp_path) as process:
        until(lambda: TASKS == len(list(places.iterdir())) or process.poll() is not None, 100)
        assert process.poll() is None
        found = leaks.leaked(before, leaks.Snapshot.take())
        assert 2 * TASKS < len([line for line in found if line.startswith("process")])
        process.kill()
        process.wait()
        assert [] == leaks.settle(before, leave=frozenset({"descriptor", "thread"}), grace_s=under_load(GONE_S))
