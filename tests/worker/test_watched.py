"""What the supervisor records of one attempt, with a group that says what it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters.base import Counters
from flyte_notebook.worker.process.watched import Watched

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


def test_the_baseline_of_an_attempt_is_what_its_spare_used() -> None:
    """The word that the worker is ready may come when the task uses memory, or has given all back: no baseline."""
    group = Group()
    watched = Watched(1, cast("TaskGroup", group), Limits())
    group.used_bytes = 38 * MIB
    watched.take(Limits(memory_bytes=250 * MIB))
    for used_bytes in (130 * MIB, MIB // 2):
        group.used_bytes = used_bytes
        watched.arm(None, None)
        assert 38 * MIB == watched.facts()["baseline_bytes"]


def test_the_baseline_of_a_fresh_interpreter_is_what_it_used_when_it_was_measured() -> None:
    """Without that it has none: a number that comes late may be the task's."""
    group = Group()
    watched = Watched(1, cast("TaskGroup", group), Limits())
    group.used_bytes = 130 * MIB
    watched.arm(None, None)
    assert watched.facts()["baseline_bytes"] is None
    watched.begin(Limits(memory_bytes=250 * MIB))
    group.used_bytes = 45 * MIB
    watched.measure()
    group.used_bytes = 130 * MIB
    watched.arm(None, None)
    assert 45 * MIB == watched.facts()["baseline_bytes"]
