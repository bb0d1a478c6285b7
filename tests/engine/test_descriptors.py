"""A task holds standard input, output, error and its channel, and nothing that another process of ours holds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import flyte
import pytest

from flyte_notebook.sdk import enforcement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.linux, pytest.mark.usefixtures("session")]

env = flyte.TaskEnvironment(name="descriptors", resources=flyte.Resources(cpu=1, memory="300Mi"))


@env.task
def held() -> dict[str, str]:
    return descriptors(os.getpid())


def descriptors(pid: int) -> dict[str, str]:
    """Return what a process holds, by number; one that has ended holds nothing."""
    found = {}
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed since it was listed
                found[path.name] = str(path.readlink())
    return found


def family(pid: int) -> Iterator[int]:
    """Yield the supervisor and every process that descends from it."""
    yield pid
    children: list[str] = []
    with contextlib.suppress(OSError):  # it has ended
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        yield from family(int(child))


@pytest.mark.parametrize("workers", ["forked", "fresh"])
def test_a_task_holds_nothing_of_ours(session: Session, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, pipe or file of the supervisor, of what it forks from, of the kernel or of another worker is open."""
    if workers == "fresh":
        monkeypatch.setenv("PYTHONHASHSEED", "7")  # another interpreter: such a task is not forked
    assert enforcement.current() is session
    supervisor = session.engine.supervisor_pid
    assert supervisor is not None
    ours = {}
    for pid in [os.getpid(), *family(supervisor)]:
        ours.update(dict.fromkeys(descriptors(pid).values(), pid))
    task = flyte.run(held).outputs()[0]
    assert {"0", "1", "2", "3"} <= set(task)
    assert "/dev/null" == task["0"]
    own = {number: what for number, what in task.items() if number != "0" and not what.startswith("anon_inode")}
    assert {} == {number: what for number, what in own.items() if what in ours}
    assert {number for number, what in own.items() if what.startswith(("pipe:", "/"))} <= {"1", "2"}
