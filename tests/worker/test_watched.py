"""What the supervisor records of one attempt, with a group that says what it is told to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from flyte_notebook.core.bound import monotonic_s
from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters.base import Counters
from flyte_notebook.worker.process.watched import LATE_S, Watched

if TYPE_CHECKING:
    from flyte_notebook.limiters.base import TaskGroup

MIB = 1 << 20


class Group:
    """A group without processes."""

    alarm = None
    used_bytes = 0

    def sample(self) -> int:
        return self.used_bytes

    def counters(self) -> Counters:
        return Counters()


def test_the_baseline_of_an_attempt_that_is_over_already_is_what_it_began_with() -> None:
    """The word that the worker is ready may come when it has given its memory back: that is no baseline."""
    group = Group()
    watched = Watched(1, cast("TaskGroup", group), Limits())
    group.used_bytes = 38 * MIB
    watched.take(Limits(memory_bytes=250 * MIB))
    group.used_bytes = MIB // 2
    watched.arm(None, None)
    assert 38 * MIB == watched.facts()["baseline_bytes"]


def test_the_baseline_is_what_a_worker_uses_when_it_is_ready() -> None:
    """What it loaded for its job since it was taken is there before any code of the user's, so it counts as that."""
    group = Group()
    watched = Watched(1, cast("TaskGroup", group), Limits())
    group.used_bytes = 38 * MIB
    watched.take(Limits(memory_bytes=250 * MIB))
    group.used_bytes = 45 * MIB
    watched.arm(None, None)
    assert 45 * MIB == watched.facts()["baseline_bytes"]


def test_the_baseline_is_that_of_the_moment_when_the_worker_was_ready() -> None:
    """The word may come when the task has taken memory: the sample of that moment counts, else what it began with."""
    group = Group()
    watched = Watched(1, cast("TaskGroup", group), Limits())
    group.used_bytes = 38 * MIB
    watched.take(Limits(memory_bytes=250 * MIB))
    group.used_bytes = 130 * MIB
    watched.arm(None, None, ready_s=monotonic_s() - 10)
    assert 38 * MIB == watched.facts()["baseline_bytes"], "there is no sample of that moment"
    watched.begin(Limits(memory_bytes=250 * MIB))
    watched._recorder.add(0.0, 40 * MIB)
    ready_s = monotonic_s()
    time.sleep(2 * LATE_S)
    watched.arm(None, None, ready_s=ready_s)
    assert 40 * MIB == watched.facts()["baseline_bytes"]
