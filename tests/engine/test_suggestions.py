"""What is suggested after a real kill comes from what the task did."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

import flyte
import flyte.errors
import pytest
from sessions import opened_for

from flyte_notebook.errors import failure_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flyte_notebook.sdk.session import Session

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

MI = 1 << 20
env = flyte.TaskEnvironment(name="suggested", resources=flyte.Resources(memory="150Mi"))


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Open the session; the tasks of this module travel by value."""
    with opened_for(sys.modules[__name__]) as opened:
        yield opened


@env.task
def large(count: int) -> int:
    """Make a list at once."""
    return len([0] * count)


@env.task
def leak() -> None:
    """Grow evenly."""
    held = []
    while True:
        held.append(bytearray(1 << 18))
        time.sleep(0.004)


def suggested(task: object, *args: object) -> tuple[int, str]:
    """Return what is suggested after the kill of a task, in MiB and in words."""
    with pytest.raises(flyte.errors.OOMError) as told:
        flyte.run(task, *args)  # type: ignore[call-overload]  # any task
    (suggestion,) = failure_in(told.value).suggestions
    return suggestion.limits.memory_bytes // MI, suggestion.sentence


def test_the_size_of_one_large_allocation_is_known_and_passes() -> None:
    """A list of 763 MiB that died at 150 MiB: what is suggested is enough, in one step."""
    memory_mi, sentence = suggested(large, 100_000_000)
    asked = re.search(r"It was using \d\S* MiB and asked for (\d+) MiB more", sentence)
    assert asked is not None
    assert 760 < int(asked[1]) < 800
    assert 810 < memory_mi < 960
    again = large.override(resources=flyte.Resources(memory=f"{memory_mi}Mi"))
    assert 100_000_000 == flyte.run(again, 100_000_000).outputs()[0]


def test_a_leak_is_told_its_rate_and_its_line() -> None:
    """No limit is enough for it, and the sentence says how long twice the limit would last."""
    memory_mi, sentence = suggested(leak)
    assert 300 == memory_mi
    assert "a second until the end, most of it on line" in sentence
    assert "longer" in sentence
