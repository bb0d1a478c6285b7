"""What the plain SDK does to its users on a cluster, one test for each trap.

Each test asserts the wrong behaviour, and says what a user wants: a version of the SDK that mends it shows here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiofiles
import cloudpickle
import flyte
import flyte.errors
import flyte.io
import flyte.remote
import pytest
from capabilities import another_python
from connectrpc.errors import ConnectError
from flyte.models import ActionPhase

from loopback import tasks, traps
from loopback.fixtures import connect
from loopback.handle import Plane
from loopback.sending import details, run, submit, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.leaves("descriptor", reason="the SDK's client keeps connections as long as the plane is there"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def test_a_large_value_is_refused_in_words_of_the_sdk(client: Plane) -> None:
    """A user wants it uploaded, or refused with the name of the input and its size."""
    with pytest.raises(ValueError, match="Raw data path has not been set"):
        submit(traps.size, bytes(20_000))


def test_a_file_that_is_only_here_is_missed_in_the_pod(client: Plane, tmp_path: Path) -> None:
    """A user wants it uploaded, or refused before anything is submitted."""
    path = tmp_path / "only_here"
    path.write_text("content")
    info = details(run(tasks.reads, flyte.io.File(path=str(path)))).error_info
    assert info is not None
    assert "FileNotFoundError" == info.code


def test_a_file_is_sent_line_by_line(client: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user wants the speed of the network: each line of a file is a step of its own, in another thread."""
    lines, sent = 2_000, []
    path = tmp_path / "lines"
    path.write_bytes(b"\n" * lines)

    class Counted:
        """An open file that counts what is asked of it."""

        def __init__(self, file: Any) -> None:
            self.file = file

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self.file:
                sent.append(part)
                yield part

    @contextlib.asynccontextmanager
    async def counted(*arguments: Any) -> AsyncIterator[Counted]:
        async with opens(*arguments) as file:
            yield Counted(file)

    opens = aiofiles.open
    monkeypatch.setattr(aiofiles, "open", counted)
    flyte.remote.upload_file(path)
    assert lines == len(sent)


def test_an_output_above_the_limit_cannot_be_read(client: Plane) -> None:
    """A user wants to hear it before the run, which succeeds; the value is lost after four attempts to read it."""
    sent = run(traps.says, 3 * 2**20)
    assert ActionPhase.SUCCEEDED == details(sent).phase
    with client.seen() as calls, pytest.raises(ConnectError, match="exceeds limit"):
        sent.outputs()
    assert 4 == calls.count("DataProxyService/GetActionData")


def test_code_for_another_python_crashes(tmp_path: Path) -> None:
    """A user wants to read that the image has another Python: the process dies of a signal and says nothing."""
    python = another_python()
    if python is None:
        pytest.skip("needs a CPython of another minor version")
    (tmp_path / "cloudpickle").symlink_to(Path(cloudpickle.__file__).parent)
    (tmp_path / "code").write_bytes(cloudpickle.dumps(lambda values: values[0] + 1))
    program = "import pickle; print(pickle.load(open('code', 'rb'))([1, 2]))"
    ended = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode < 0
    assert "" == ended.stdout + ended.stderr


WATCH = "RunService/WatchActionDetails"


@pytest.fixture
def fields() -> Iterator[None]:
    """Put the fields of a class back that loading one of its instances damages."""
    before = dict(traps.Point.__dataclass_fields__)
    yield
    traps.Point.__dataclass_fields__ = before


def test_loading_a_value_damages_the_dataclass_of_the_notebook(client: Plane, fields: None) -> None:
    """A user wants the value, and the class left alone: its fields have a default afterwards that they never had."""
    sent = run(traps.holds, 1)
    assert dataclasses.fields(traps.Point)[0].default is dataclasses.MISSING
    assert 1 == sent.outputs()[0].point.x
    assert dataclasses.fields(traps.Point)[0].default is not dataclasses.MISSING


def test_a_module_beside_the_notebook_is_missing_or_stale(
    client: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user wants its name before the run, and the file as it is now."""
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "beside_the_notebook.py"
    file.write_text("VALUE = 1\n")
    module = importlib.import_module("beside_the_notebook")
    info = details(run(traps.asks_a_module(module))).error_info
    assert info is not None
    assert "No module named 'beside_the_notebook'" in info.message
    cloudpickle.register_pickle_by_value(module)
    file.write_text("VALUE = 2\n")
    assert 1 == run(traps.asks_a_module(module)).outputs()[0]
    cloudpickle.unregister_pickle_by_value(module)


def test_the_first_failure_is_not_the_deepest_one(client: Plane) -> None:
    """A user wants the task that raised: of three levels the SDK names the middle one."""
    assert "traps.middle" == run(traps.top).first_failure().task_name


def test_an_error_without_code_or_details_loses_its_class(client: Plane) -> None:
    """A user wants the same class as always: it is one of the system at first, and without a code any of the user."""
    with client.faults(omit_code=True, details_late_s=1.0):
        sent = run(tasks.eats, 400)
        with pytest.raises(flyte.errors.RuntimeSystemError, match="without error details"):
            sent.raise_for_status()
        until(lambda: details(sent).error_info, "the error")
        with pytest.raises(flyte.errors.RuntimeUserError) as without_code:
            flyte.remote.Run.get(name=sent.name).raise_for_status()
    assert not isinstance(without_code.value, flyte.errors.OOMError)
    with pytest.raises(flyte.errors.OOMError):
        flyte.remote.Run.get(name=sent.name).raise_for_status()


def test_after_a_retry_the_first_attempts_lines_are_gone(client: Plane) -> None:
    """A user wants to read why the first attempt failed: they have to be read while it runs."""
    sent = run(tasks.fails, "here")
    assert 2 == details(sent).attempts
    tail = flyte.remote._logs.Logs.tail
    with pytest.raises(flyte.errors.LogsNotYetAvailableError):
        list(tail(sent.action.action_id, 1, retry=1))
    assert "attempt of here" in [line.message for line in tail(sent.action.action_id, 2, retry=1)]


def test_a_run_cannot_be_aborted_after_the_client_went_elsewhere(client: Plane) -> None:
    """A user wants it aborted, or to hear that it is not: nothing is raised, and it goes on."""
    sent = submit(tasks.sleeps, 600.0)
    until(lambda: details(sent).phase == ActionPhase.RUNNING, "a pod to run")
    with Plane() as elsewhere:
        connect(elsewhere)
        with client.seen() as calls:
            sent.abort()
        connect(client)
    assert [] == calls
    assert ActionPhase.RUNNING == details(sent).phase
    sent.abort()


async def test_who_waits_no_more_still_watches(client: Plane) -> None:
    """A user wants quiet: the watch of a wait that was cancelled goes on, and warns into later cells."""
    sent = await flyte.with_runcontext(mode="remote", interactive_mode=True).run.aio(tasks.sleeps, 600.0)
    before = client.calls().count(WATCH)
    wait = asyncio.create_task(sent.wait.aio(quiet=True))
    await asyncio.to_thread(until, lambda: client.calls().count(WATCH) > before, "the wait to begin")
    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)
    client.cut()
    await asyncio.to_thread(until, lambda: client.calls().count(WATCH) > before + 1, "the watch to come back")
    await sent.abort.aio()


def test_who_looks_at_a_foreign_run_executes_what_it_returned(
    client: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user wants to look at literals alone: `outputs` unpickles what somebody else's task returned."""
    sent = run(traps.opens)
    monkeypatch.setenv("LOADED_HERE", str(tmp_path / "made"))
    flyte.remote.Run.get(name=sent.name).outputs()
    assert (tmp_path / "made").is_dir()


def test_a_context_made_before_init_runs_here(plane: Plane) -> None:
    """A user wants it on the cluster that is configured when it runs: it runs in this process, and nothing says so."""
    flyte.init()
    early = flyte.with_runcontext(interactive_mode=True)
    connect(plane)
    with plane.seen() as calls:
        assert 2 == early.run(tasks.add, 1).outputs()[0]
    assert [] == calls
