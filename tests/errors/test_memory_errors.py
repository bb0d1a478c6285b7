"""A MemoryError of Python is told apart from an OOM kill, with the size that was asked for where it can be known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
import pytest
from kernels import started

import flyte_notebook as fn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernels import Kernel

pytestmark = pytest.mark.cgroup

PIB = 1 << 50

env = flyte.TaskEnvironment(name="refused", resources=flyte.Resources(cpu=1, memory="400Mi"))


class TooLargeError(MemoryError):
    """A class of the user's, below Python's."""


@env.task
def asks(how: str, size: int) -> int:
    large: Any = None
    if how == "bytearray":
        large = bytearray(size)
    elif how == "list":
        large = [0] * (size // 8)
    elif how == "text":
        large = "x" * size
    elif how == "range":
        large = list(range(size // 8))
    elif how == "by a call":
        large = bytearray(int(str(size)))
    elif how == "numpy":
        import numpy as np  # noqa: PLC0415 - only where it is asked for

        large = np.zeros(size // 8)
    elif how == "pandas":
        import pandas as pd  # noqa: PLC0415 - only where it is asked for

        large = pd.DataFrame({"a": 1.5}, index=range(size // 8))
    else:
        raise TooLargeError("more than I want")
    return len(large)


@env.task
async def calls_asks(how: str, size: int) -> int:
    return await asks.aio(how, size)


def error_of(task: Any, *args: Any) -> Any:
    with pytest.raises(flyte.errors.BaseRuntimeError) as caught:
        flyte.run(task, *args)
    return caught.value


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    ("how", "size"),
    [
        ("bytearray", "of about 1 PiB"),
        ("list", "of about 1 PiB"),
        ("text", "of about 1 PiB"),
        ("range", "of about 1 PiB"),
        ("by a call", "(size not known)"),
        ("numpy", "of 1 PiB"),
        ("pandas", "of 1 PiB"),
    ],
)
def test_the_headline_says_how_much_was_asked_for(how: str, size: str) -> None:
    """RuntimeUserError, code MemoryError, as on a cluster; the failure says how large, and that nothing was killed."""
    if how in {"numpy", "pandas"}:
        pytest.importorskip(how)
    error = error_of(asks, how, PIB)
    assert (flyte.errors.RuntimeUserError, "user", "MemoryError") == (type(error), error.kind, error.code)
    assert error.worker.endswith("-a0-0")
    assert isinstance(error.__cause__, MemoryError)
    headline = error.failure.headline
    assert headline.startswith(f"one allocation {size} was larger than the machine can give")
    assert "; this is not an OOM kill, on line " in headline
    assert ("raised", 0) == (error.failure.reason, error.failure.report.oom_kills)
    assert () == error.failure.suggestions  # more memory for the task would not help


@pytest.mark.usefixtures("session")
def test_an_error_that_code_raised_is_not_explained_away() -> None:
    """A MemoryError raised by hand says what it says, and keeps the name of its class."""
    error = error_of(asks, "by hand", 0)
    assert ("TooLargeError", "more than I want") == (error.code, str(error))
    assert error.failure.headline.startswith(
        "raised TooLargeError: more than I want; the code raised it, so this is not"
    )


@pytest.mark.usefixtures("session")
def test_it_is_the_same_through_a_parent() -> None:
    """The failure that the caller gets is that of the child, with its size."""
    error = error_of(calls_asks, "bytearray", PIB)
    assert ("MemoryError", "refused.asks") == (error.code, error.failure.task_name)
    assert "one allocation of about 1 PiB was larger" in error.failure.headline
    assert fn.last_run is not None
    assert fn.last_run.actions[1].attempts[0].worker == error.worker


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Give a kernel with the extension loaded."""
    with started() as kernel:
        kernel.run("%load_ext flyte_notebook\nimport flyte\nflyte.init()").ok()
        yield kernel


CELLS = {
    "a cell that is a task": "%%flyte_task\nn = 10**14\nlarge = [0] * n * x",
    "a cell with lines for IPython": "%%flyte_task\n%precision 3\nlarge = [0] * 10**14 * x",
    "a function of another cell": "%%flyte_task\nlarge = make(x)",
    "a task of another cell": "flyte.run(task, x)",
}


@pytest.mark.jupyter
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cells_of_a_notebook_are_read_too(kernel: Kernel, cell: str) -> None:
    """In a real kernel the card says how large the first list would be, wherever in the notebook the line stands."""
    kernel.run(
        "x = 2\ndef make(times):\n    return [0] * 10**14 * times\n"
        "env = flyte.TaskEnvironment(name='refused')\n"
        "@env.task\ndef task(times: int) -> int:\n    return len(make(times))"
    ).ok()
    reply = kernel.run(cell)
    assert ("RuntimeUserError", "MemoryError") == (reply.ename, reply.failure["code"])
    assert "one allocation of about 728 TiB was larger than the machine can give" in reply.failure["headline"]
    assert "not an OOM kill" in reply.card["text/plain"]
    assert "not an OOM kill" in reply.card["text/html"]
