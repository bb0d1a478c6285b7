"""A limit found here is the limit of a container: what survives is what survives in a hand-made group."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import flyte
import flyte.errors
import pytest
from hand_made import HandMade, hand_made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.cgroup, pytest.mark.usefixtures("session")]

LIMIT_BYTES = 100 << 20
STEP_BYTES = 1 << 19
BAR_BYTES = 2 << 20

env = flyte.TaskEnvironment(name="threshold", resources=flyte.Resources(cpu=1, memory="100Mi"))


@env.task
def allocate(size: int) -> int:
    return len(bytearray(size))


# What a worker imports before it gets its job, and the same task run by the SDK itself in that process.
REFERENCE = """
import sys
import flyte_notebook.worker.process.child, flyte_notebook.sdk.inside
import flyte
env = flyte.TaskEnvironment(name="threshold")
@env.task
def allocate(size: int) -> int:
    return len(bytearray(size))
flyte.init()
print(flyte.run(allocate, int(sys.argv[1])).outputs()[0])
"""


@pytest.fixture
def group() -> Iterator[HandMade]:
    """Make a group of 100 MiB by hand."""
    with hand_made(LIMIT_BYTES) as group:
        yield group


def largest(survives: Callable[[int], bool]) -> int:
    """Return the largest size that survives, to half a MiB."""
    low, high = 0, LIMIT_BYTES
    while high - low > STEP_BYTES:
        middle = (low + high) // 2
        if survives(middle):
            low = middle
        else:
            high = middle
    return low


def test_the_threshold_is_that_of_a_container(group: HandMade, tmp_path: Path) -> None:
    """The largest bytearray under 100Mi is within 2 MiB of what a fresh Python survives in a group made by hand."""
    reference = tmp_path / "reference.py"
    reference.write_text(REFERENCE)

    def by_hand(size: int) -> bool:
        command = [*group.words, sys.executable, str(reference), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in {0, -9}, done.stderr
        return done.stdout.strip() == str(size)

    def as_a_task(size: int) -> bool:
        try:
            return bool(flyte.run(allocate, size).outputs()[0] == size)
        except flyte.errors.OOMError:
            return False

    in_group = largest(by_hand)
    assert in_group > LIMIT_BYTES // 2
    assert as_a_task(in_group - BAR_BYTES), f"by hand {in_group >> 20} MiB survive, as a task fewer"
    assert not as_a_task(in_group + BAR_BYTES), f"by hand {in_group >> 20} MiB survive, as a task more"
