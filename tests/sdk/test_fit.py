"""A fitted limit is the edge that the kernel holds: real tasks, real limits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from flyte._persistence._task_cache import LocalTaskCache
from hand_made import hand_made
from sessions import opened_for

import flyte_notebook as fn
from flyte_notebook.limiters import machine
from flyte_notebook.sdk import fit as fits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

MI = 1 << 20
env = flyte.TaskEnvironment(name="fitted", resources=flyte.Resources(cpu=1, memory="500Mi"))


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Open the session; the tasks of this module travel by value."""
    with opened_for(sys.modules[__name__]) as opened:
        yield opened


@env.task
def holds(size_mi: int) -> int:
    """Allocate so much."""
    print("allocating")  # noqa: T201 - what a task prints is shown
    return len(bytearray(size_mi << 20))


@env.task
def reads(path: str) -> int:
    """Read a file that nothing holds in page cache, so that its pages are charged to this task."""
    own_bytes, size = bytearray(60 << 20), 0
    with Path(path).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := file.read(MI):
            size += len(piece)
    return size + len(own_bytes)


@env.task
async def leaf(size_mi: int) -> int:
    """Allocate so much, called by another task."""
    return len(bytearray(size_mi << 20))


@env.task
async def root(sizes: list[int]) -> int:
    """Call another task for each size at one time, and hold some memory itself."""
    got = await asyncio.gather(*(leaf(size) for size in sizes))
    return sum(got) + len(bytearray(40 << 20))


@env.task
async def middle(size_mi: int) -> int:
    """Call another task twice, and hold less than it."""
    got = await leaf(size_mi // 4) + await leaf(size_mi)
    return got + len(bytearray(size_mi << 19))


@env.task
async def top(size_mi: int) -> int:
    """Call a task that calls another, and hold next to nothing."""
    return await middle(size_mi)


@env.task
def by_turns(directory: str, sizes_mi: list[int]) -> int:
    """Allocate another size each time, the last one ever after; 0 fails for a reason of its own."""
    turn = len(list(Path(directory).iterdir()))
    Path(directory, str(turn)).touch()
    size_mi = sizes_mi[min(turn, len(sizes_mi) - 1)]
    if not size_mi:
        raise ValueError("not this time")
    return len(bytearray(size_mi << 20))


@env.task
async def careful(directory: str, sizes_mi: list[int]) -> int:
    """Do with nothing when the task that it calls is killed for memory."""
    try:
        return await by_turns.aio(directory, sizes_mi)
    except flyte.errors.OOMError:
        return 0


@env.task
def wrong(word: str) -> int:
    """Fail for a reason of its own."""
    raise ValueError(word)


@env.task
def slow_the_second_time(marker: str) -> int:
    """Pass at once, and take long when called again."""
    if Path(marker).exists():
        Path(marker + ".again").touch()
        time.sleep(60)
    Path(marker).touch()
    return len(bytearray(50 << 20))


@env.task(cache=flyte.Cache(behavior="auto", version_override="1"))
def cached(size_mi: int) -> int:
    """Allocate so much, unless the result is known."""
    return len(bytearray(size_mi << 20))


def passes(size_mi: int, memory_bytes: int, task: Any = holds) -> bool:
    """Whether a task passes at a limit."""
    try:
        flyte.run(task.override(resources=flyte.Resources(memory=str(memory_bytes))), size_mi)
    except flyte.errors.OOMError:
        return False
    return True


def test_the_limit_passes_and_five_percent_less_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs, of which the first shows its output; the limit passes each time, and 95% of it never."""
    found = fn.fit(holds, size_mi=150)
    assert 1 == capsys.readouterr().out.count("allocating")
    assert ("found", 2) == (found.verdict, len(found.runs))
    assert found.memory_bytes is not None
    assert f"{found.memory_bytes // MI}Mi" == found.memory
    assert all(passes(150, found.memory_bytes) for _ in range(5))
    assert not any(passes(150, int(0.95 * found.memory_bytes)) for _ in range(2))
    assert (1, f"{found.task.recommended_bytes // MI}Mi") == (found.resources.cpu, found.resources.memory)
    assert f'resources=flyte.Resources(cpu=1, memory="{found.resources.memory}")' == found.line
    assert found.to_dict() == fn.last_fit.to_dict()


def test_page_cache_does_not_raise_the_limit(tmp_path: Path) -> None:
    """A task that holds 60 MiB and reads 200 MiB is fitted to what it holds."""
    large = tmp_path / "large"
    large.write_bytes(os.urandom(MI) * 200)
    os.sync()
    found = fn.fit(reads, path=str(large))
    assert "found" == found.verdict
    assert (found.task.peak_bytes or 0) > 200 * MI
    assert found.memory_bytes is not None
    assert 98 * MI < found.memory_bytes < 125 * MI
    assert "The file cache is not counted" in str(found)


def test_every_task_of_a_nested_run_is_fitted_at_once(session: Session) -> None:
    """Two runs find the limit of caller and called; calls of one task count together, by the largest."""
    found = fn.fit(root, sizes=[20, 120])
    rows = {task.task_name: task for task in found.tasks}
    assert ["fitted.root", "fitted.leaf"] == list(rows)
    assert 2 == len(found.runs)
    limits = {name: (task.memory_bytes or 0) // MI for name, task in rows.items()}
    base = (session.engine.baseline_bytes or 0) // MI  # more with one SDK than with another
    assert 37 <= limits["fitted.root"] - base <= 52
    assert 117 <= limits["fitted.leaf"] - base <= 132
    # The limit held where the called task's job arrived, not only in the table.
    run = fn.runs[-1]
    assert limits == {action.task_name: (action.limits.memory_bytes or 0) // MI for action in run.actions}
    assert 'memory="' in rows["fitted.leaf"].line


def test_the_edge_of_a_nested_task_is_exact() -> None:
    """One table for all tasks, however deep; a called task passes at its limit each time, and never at 95% of it."""
    found = fn.fit(top, size_mi=160)
    rows = {task.task_name: task for task in found.tasks}
    assert ["fitted.top", "fitted.middle", "fitted.leaf"] == list(rows)
    assert (2, "found") == (len(found.runs), found.verdict)
    table = [line.split()[0] for line in str(found).splitlines() if line.startswith("  fitted.")]
    assert [*rows, *list(rows)[1:]] == [name.rstrip(":") for name in table]  # with the lines to keep below
    limit_bytes = rows["fitted.leaf"].memory_bytes or 0
    assert all(passes(160, limit_bytes, leaf) for _ in range(3))
    assert not any(passes(160, int(0.95 * limit_bytes), leaf) for _ in range(2))
    limit_bytes = rows["fitted.middle"].memory_bytes or 0
    assert passes(160, limit_bytes, middle)
    assert not passes(160, int(0.95 * limit_bytes), middle)


def test_a_called_task_whose_death_is_caught_is_still_fitted(session: Session, tmp_path: Path) -> None:
    """A caller that does with nothing does not hide that the limit of what it called was too small."""
    found = fn.fit(careful, directory=str(tmp_path), sizes_mi=[60, 100])
    called = found.tasks[1]
    assert ["passed", "memory"] == [measure.ended for measure in called.measures[:2]]
    assert ["passed"] * len(found.runs) == [run.measures["fitted.careful"].ended for run in found.runs]
    assert 100 * MI < (called.memory_bytes or 0) - (session.engine.baseline_bytes or 0) < 113 * MI


def test_a_peak_that_differs_is_measured_again_and_its_spread_is_said(session: Session, tmp_path: Path) -> None:
    """Killed at the edge of its first peak, a task is measured with room again; the limit is above the highest."""
    with pytest.raises(flyte.errors.RuntimeUserError):
        flyte.run(wrong, "an older one")
    before = fn.last_failure
    found = fn.fit(by_turns, directory=str(tmp_path), sizes_mi=[60, 100, 80, 110])
    assert found.task.varies
    assert {"passed", "memory"} == {measure.ended for measure in found.task.measures}
    lowest, highest = (peak // MI for peak in found.task.peaks)
    base = (session.engine.baseline_bytes or 0) // MI  # more with one SDK than with another
    assert 58 <= lowest - base <= 68
    assert 108 <= highest - base <= 118
    assert found.memory_bytes is not None
    assert highest <= found.memory_bytes // MI <= highest + 4
    assert found.task.margin_bytes >= (highest - lowest - 1) * MI
    assert "chance decides" in found.headline
    assert "Its memory depends on chance" in str(found)
    assert before is not None
    assert before is fn.last_failure  # what was killed at the edge was to be


def test_a_failure_now_and_then_does_not_end_the_search(tmp_path: Path) -> None:
    """A task that fails once for a reason of its own is run again; one that goes on failing is given up, and said."""
    once = tmp_path / "once"
    once.mkdir()
    found = fn.fit(by_turns, directory=str(once), sizes_mi=[60, 0, 60])
    assert ("found", ["passed", "other", "passed"]) == (
        found.verdict,
        [measure.ended for measure in found.task.measures],
    )
    always = tmp_path / "always"
    always.mkdir()
    found = fn.fit(by_turns, directory=str(always), sizes_mi=[60, 0])
    assert ("unconfirmed", 3) == (found.verdict, len(found.runs))
    assert "needs at most" in found.headline


def test_a_task_that_fails_for_another_reason_ran_once() -> None:
    """Its own error is raised, and the fit says that more memory does not help."""
    before = {run.name for run in fn.runs}
    with pytest.raises(flyte.errors.RuntimeUserError, match="no such luck"):
        fn.fit(wrong, word="no such luck")
    assert 1 == len({run.name for run in fn.runs} - before)
    assert ("failed", None) == (fn.last_fit.verdict, fn.last_fit.memory)
    assert "nothing to fit after 1 run" in fn.last_fit.headline


def test_a_task_that_fits_nowhere_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one run with all the room there is, its OOMError is raised; ours stands for a small machine."""
    monkeypatch.setattr(fits, "ROOM", 150 * MI / machine.available_bytes())
    with pytest.raises(flyte.errors.OOMError):
        fn.fit(holds, size_mi=2_000)
    assert ("never_fits", 1) == (fn.last_fit.verdict, len(fn.last_fit.runs))
    assert "does not fit on this machine" in fn.last_fit.headline


def test_what_the_machine_cannot_even_promise_fits_nowhere() -> None:
    """One allocation larger than any memory here is refused, and known after one run to fit at no limit."""
    with pytest.raises(flyte.errors.RuntimeUserError):
        fn.fit(holds, size_mi=500_000_000)
    assert ("never_fits", 1) == (fn.last_fit.verdict, len(fn.last_fit.runs))
    assert fn.last_fit.memory is None


async def test_what_was_measured_before_it_was_cancelled_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancelled in the second run, the peak of the first is shown and kept; nothing goes on."""
    marker = tmp_path / "marker"
    search = asyncio.create_task(fn.fit.aio(slow_the_second_time, marker=str(marker)))
    while not Path(f"{marker}.again").exists():  # noqa: ASYNC240 - another process makes it
        await asyncio.sleep(0.05)
        assert not search.done()
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert "interrupted" == fn.last_fit.verdict
    assert 85 * MI < (fn.last_fit.task.peak_bytes or 0) < 100 * MI
    assert "interrupted after 2 runs; its peak was" in capsys.readouterr().out


def test_a_cache_does_not_answer_for_a_task() -> None:
    """A task whose result is cached runs each time all the same."""
    flyte.run(cached, 30)
    found = fn.fit(cached, 30)
    assert [1, 1] == [len(run.measures) for run in found.runs]
    assert "found" == found.verdict
    asyncio.run(LocalTaskCache.close())  # the SDK keeps it open for the life of the process


@pytest.mark.parametrize(("what", "words"), [(3, "of type int"), (len, "a function: decorate it with @env.task")])
def test_what_is_no_task_is_refused(what: object, words: str) -> None:
    """Anything but a task gets one sentence that says what it is."""
    with pytest.raises(TypeError, match=words):
        fn.fit(what)


REFERENCE = """
import sys
import flyte_notebook.worker.process.child, flyte_notebook.sdk.inside
import flyte
env = flyte.TaskEnvironment(name="by_hand")
@env.task
def holds(size_mi: int) -> int:
    return len(bytearray(size_mi << 20))
flyte.init()
print(flyte.run(holds, int(sys.argv[1])).outputs()[0])
"""


@pytest.mark.cgroup
def test_the_limit_holds_in_a_group_made_by_hand(tmp_path: Path) -> None:
    """A fresh Python with what a worker imports passes at the fitted limit, and is killed at 92% of it."""
    limit_bytes = fn.fit(holds, size_mi=200).memory_bytes
    assert limit_bytes is not None
    reference = tmp_path / "reference.py"
    reference.write_text(REFERENCE)
    for share, status in ((1.0, 0), (0.92, -9)):
        with hand_made(int(share * limit_bytes)) as group:
            command = [*group.words, sys.executable, str(reference), "200"]
            assert status == subprocess.run(command, capture_output=True, check=False).returncode
