"""The polling-error handler on plain loops, under the SDK's own calls, and on the loop of a real kernel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import documents
import flyte.errors
import pytest
from flyte.syncify import syncify
from flyte.syncify._api import _configured_loops

from flyte_notebook.notebook.loop import PollingErrorHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give a loop of its own that is closed at the end."""
    loop = asyncio.new_event_loop()
    yield loop
    _configured_loops.discard(id(loop))
    loop.close()


def claim(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Tell the SDK that the loop has its handler already."""
    _configured_loops.add(id(loop))
    return lambda: _configured_loops.discard(id(loop))


@syncify
async def nothing() -> None:
    """Do nothing, through the SDK's loop."""


def fail_on(loop: asyncio.AbstractEventLoop, error: Exception) -> None:
    """Let a callback on ``loop`` raise ``error``."""

    def callback() -> None:
        raise error

    loop.call_soon(callback)
    loop.run_until_complete(asyncio.sleep(0))


class Recorder:
    """A handler that a user set before us."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep the exception."""
        self.seen.append(context["exception"])


def test_polling_errors_are_dropped_and_counted_and_the_rest_goes_to_the_handler_before(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """BlockingIOError is silenced; any other error reaches the handler that was there."""
    before = Recorder()
    loop.set_exception_handler(before)
    handler = PollingErrorHandler(loop)
    handler.install()
    error = ValueError("mine")
    fail_on(loop, BlockingIOError(11, "again"))
    fail_on(loop, error)
    assert handler.silenced == 1
    assert before.seen == [error]


def test_without_a_handler_before_the_loop_reports_other_errors_itself(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody had set a handler, other errors are logged as asyncio logs them."""
    handler = PollingErrorHandler(loop)
    handler.install()
    fail_on(loop, BlockingIOError(11, "again"))
    fail_on(loop, ValueError("mine"))
    assert [record.levelname for record in caplog.records if record.name == "asyncio"] == ["ERROR"]
    assert "mine" in caplog.text


def test_uninstall_puts_back_what_was_there(loop: asyncio.AbstractEventLoop) -> None:
    """The handler before stands again, and so does none; installing or uninstalling twice changes nothing."""
    for before in (None, Recorder()):
        loop.set_exception_handler(before)
        handler = PollingErrorHandler(loop)
        handler.install()
        handler.install()
        assert handler.in_force
        handler.uninstall()
        handler.uninstall()
        assert before is loop.get_exception_handler()
        assert handler.check() is False


def test_with_the_claim_the_sdk_sets_no_handler(loop: asyncio.AbstractEventLoop) -> None:
    """After ``.aio()`` calls ours is still in force, in the same moment; undone, the SDK is free to set its own."""
    handler = PollingErrorHandler(loop, claim=claim)
    handler.install()
    loop.run_until_complete(nothing.aio())
    assert handler.in_force
    handler.uninstall()
    assert id(loop) not in _configured_loops
    loop.run_until_complete(nothing.aio())
    assert loop.get_exception_handler() is flyte.errors.silence_polling_error


def test_without_the_claim_a_check_puts_ours_back(loop: asyncio.AbstractEventLoop) -> None:
    """The SDK's handler replaced ours: a check restores it, with the handler before still called for the rest."""
    before = Recorder()
    loop.set_exception_handler(before)
    handler = PollingErrorHandler(loop)
    handler.install()
    loop.run_until_complete(nothing.aio())
    assert loop.get_exception_handler() is flyte.errors.silence_polling_error
    assert handler.check() is True
    assert handler.check() is False
    error = ValueError("mine")
    fail_on(loop, error)
    assert before.seen == [error]
    handler.uninstall()
    assert before is loop.get_exception_handler()


def test_a_handler_set_later_by_the_user_is_kept(loop: asyncio.AbstractEventLoop) -> None:
    """A check chains to a newer handler of the user's; without a check, uninstall leaves that one where it is."""
    later = Recorder()
    handler = PollingErrorHandler(loop)
    handler.install()
    loop.set_exception_handler(later)
    assert handler.check() is True
    fail_on(loop, BlockingIOError(11, "again"))
    fail_on(loop, ValueError("mine"))
    assert [str(error) for error in later.seen] == ["mine"]
    assert handler.silenced == 1
    loop.set_exception_handler(later)
    handler.uninstall()
    assert later is loop.get_exception_handler()


def test_an_sdk_handler_that_was_there_first_comes_back(loop: asyncio.AbstractEventLoop) -> None:
    """Loaded after the first ``.aio()`` call, we chain to the SDK's handler and leave it in place at the end."""
    loop.run_until_complete(nothing.aio())
    handler = PollingErrorHandler(loop)
    handler.install()
    fail_on(loop, BlockingIOError(11, "again"))
    assert handler.silenced == 1
    handler.uninstall()
    assert loop.get_exception_handler() is flyte.errors.silence_polling_error


LOAD = """
import asyncio
from flyte_notebook.notebook.loop import PollingErrorHandler, apply_nest_asyncio2
from flyte.syncify import syncify
from flyte.syncify._api import _configured_loops

seen = []
loop = asyncio.get_running_loop()
loop.set_exception_handler(lambda loop, context: seen.append(type(context["exception"]).__name__))

def claim(loop):
    _configured_loops.add(id(loop))
    return lambda: _configured_loops.discard(id(loop))

handler = PollingErrorHandler(loop, claim=claim)
handler.install()

@syncify
async def nothing(): pass

def fail(error):
    raise error
"""
USE = """
await nothing.aio()
loop.call_soon(fail, BlockingIOError(11, "again"))
loop.call_soon(fail, ValueError("mine"))
await asyncio.sleep(0.01)
print(asyncio.get_running_loop() is loop, handler.in_force, handler.silenced, seen)
"""
NEST = """
print(apply_nest_asyncio2())
print(apply_nest_asyncio2())
async def main():
    await asyncio.sleep(0.01)
    return 42
print(asyncio.run(main()), asyncio.get_running_loop().run_until_complete(main()))
"""


@pytest.mark.jupyter
def test_in_a_kernel_the_handler_stays_across_cells_and_asyncio_run_works() -> None:
    """On the notebook's own loop: in force in later cells and after ``.aio()``, with nest-asyncio2 and after it."""
    sources = [LOAD, USE, NEST, USE, "handler.uninstall()\nprint(loop.get_exception_handler().__name__)"]
    notebook = documents.made(sources)
    documents.execute(notebook, timeout=60)
    printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert printed[1] == "True True 1 ['ValueError']\n"
    first, second, results = printed[2].splitlines()
    assert "only a kernel restart undoes that" in first
    assert "patched by nest-asyncio already" in second
    assert results == "42 42"
    assert printed[3] == "True True 2 ['ValueError', 'ValueError']\n"
    assert printed[4] == "<lambda>\n"
