"""Whatever legal state a process is in, what the SDK alone runs there runs under limits: begun before it, or in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_states import NO_SHELL, STATES, TOGETHER
from programs import facts_of

pytestmark = pytest.mark.linux

HERE = Path(__file__).parent

RUN = f"""
sys.path.insert(0, {str(HERE)!r})
import odd_states

def once():
    assert 7 == flyte.run(add, 3, 4).outputs()[0]
"""

IN_A_SHELL = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
import odd_states
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
undo = odd_states.all_at_once(NAMES)
try:
    for cell in ("%load_ext flyte_notebook", "%%flyte_task -m 250Mi\\nfound = 3 + 4", "%unload_ext flyte_notebook"):
        shell.run_cell(cell).raise_error()
finally:
    undo()
facts(found=shell.user_ns["found"])
"""


def test_an_open_session_runs_a_task_in_each_of_these_states(tmp_path: Path) -> None:
    """The SDK alone runs a task in each of them, and so does a session that is open; after all of them, too."""
    program = """
alone = odd_states.tried(odd_states.STATES, once)
with fn.enable():
    once()
    wrong = odd_states.tried(odd_states.STATES, once)
    once()
facts(alone=alone, wrong=wrong)
"""
    facts = facts_of(RUN + program, tmp_path)
    assert ({}, {}) == (facts["alone"], facts["wrong"])
    assert {name for names in TOGETHER.values() for name in names} <= set(STATES)


def test_a_session_begins_and_runs_where_no_shell_can(tmp_path: Path) -> None:
    """Begun where the standard streams are closed or gone, the session isolates, runs, and ends."""
    program = f"""
undo = odd_states.all_at_once({sorted(NO_SHELL)!r})
try:
    with fn.enable():
        found = flyte.run(add, 3, 4).outputs()[0]
finally:
    undo()
facts(found=found)
"""
    assert 7 == facts_of(RUN + program, tmp_path)["found"]


@pytest.mark.parametrize("names", TOGETHER.values(), ids=list(TOGETHER))
def test_the_extension_loads_in_odd_states(tmp_path: Path, names: tuple[str, ...]) -> None:
    """``%load_ext``, a cell and ``%unload_ext`` work where the session begins in many odd states at once."""
    assert 7 == facts_of(IN_A_SHELL.replace("NAMES", repr(names)), tmp_path)["found"]


def test_a_task_sees_what_could_not_be_said_at_its_start(tmp_path: Path) -> None:
    """A variable that no program can be started with, a directory that has no path, and a bad setting of Python."""
    program = """
@env.task
async def seen() -> str:
    there = Path("here").read_text() if Path("here").exists() else "nothing"
    found = [len(os.environ["HUGE"]), os.environ["PYTHONHASHSEED"], os.environ["ODD"] == chr(0xDCFF), there]
    return json.dumps(found)

names = ["huge variable", "bad hash seed", "surrogates in the environment", "long directory"]
with fn.enable():
    undo = odd_states.all_at_once(names)
    Path("here").write_text("there")
    found = json.loads(flyte.run(seen).outputs()[0])
    undo()
    undo = odd_states.all_at_once(["deleted directory", *names[:3]])
    gone = json.loads(flyte.run(seen).outputs()[0])
    undo()
facts(found=found, gone=gone)
"""
    facts = facts_of(RUN + program, tmp_path)
    assert ([200_000, "None", True, "there"], [200_000, "None", True, "nothing"]) == (facts["found"], facts["gone"])
