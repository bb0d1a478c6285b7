"""Control groups version 1 hold limits with real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_contract import KernelContract
from limited import MIB, Children, empty_it, until

from flyte_notebook.core.limits import Limits

if TYPE_CHECKING:
    from flyte_notebook.limiters.cgroup_v1 import CgroupV1

pytestmark = pytest.mark.cgroup_v1


class TestCgroupV1(KernelContract):
    """Everything the contract says, and what only version 1 has."""

    mechanism = "cgroup_v1"
    limit_file = "memory.limit_in_bytes"

    def session_directory(self, limiter: CgroupV1) -> str:
        """Return the memory directory of the session."""
        return limiter._memory

    def cpu_directory(self, limiter: CgroupV1) -> str:
        """Return the cpu directory of the session."""
        assert limiter._cpu is not None
        return limiter._cpu

    def swap_files(self, limit_bytes: int) -> dict[str, int]:
        """Return what stands in the files that keep swap out."""
        return {"memory.memsw.limit_in_bytes": limit_bytes, "memory.swappiness": 0}

    def test_the_worker_may_outlive_a_killed_child(self, limiter: CgroupV1, children: Children) -> None:
        """The kernel kills one process only: the counter has risen while the first process still runs."""
        group = limiter.group("a", Limits(memory_bytes=80 * MIB))
        code = "if os.fork() == 0: use(120)\nsay(os.waitstatus_to_exitcode(os.wait()[1])); wait()"
        child = children.start(group, code)
        assert child.line() == str(-signal.SIGKILL)
        assert group.counters().oom_kills == 1
        assert not child.poll()
        empty_it(group)
        until(child.poll)
        group.remove()

    @pytest.mark.root
    def test_groups_that_the_task_made_are_counted_killed_and_removed(
        self, limiter: CgroupV1, children: Children
    ) -> None:
        """A task that moves a child of its own into a group below stays within its limit, and leaves nothing."""
        group = limiter.group("a", Limits(memory_bytes=80 * MIB))
        below = f"{self.session_directory(limiter)}/fnb-a/below"
        code = f"""
os.mkdir({below!r})
if os.fork() == 0:
    open({below!r} + '/cgroup.procs', 'w').write('0')
    use(120)
say(os.waitstatus_to_exitcode(os.wait()[1])); wait()
"""
        child = children.start(group, code)
        assert child.line() == str(-signal.SIGKILL)
        assert group.counters().oom_kills == 1
        empty_it(group)
        until(child.poll)
        group.remove()
        assert not Path(below).exists()

    def test_a_quota_above_the_one_above_is_no_error(self, limiter: CgroupV1, children: Children) -> None:
        """Where a group above allows less than was asked for, that one is the limit and the group is made."""
        if limiter._cpu is None:
            pytest.skip("no cpu hierarchy of ours here")
        Path(limiter._cpu, "cpu.cfs_quota_us").write_text("50000", encoding="ascii")
        group = limiter.group("a", Limits(cpu_cores=2))
        code = """
until, spent = time.monotonic() + 0.6, time.process_time()
while time.monotonic() < until: pass
say(time.process_time() - spent)
"""
        child = children.start(group, code)
        assert float(child.line()) < 0.55  # without the limit, on a machine that is idle: 0.6
        assert children.finish(child, group) == 0
        group.remove()

    def test_both_hierarchies_are_left_clean(self, limiter: CgroupV1) -> None:
        """A group with both limits has two directories, and none of them after removal."""
        group = limiter.group("a", Limits(memory_bytes=80 * MIB, cpu_cores=0.5))
        places = [f"{place}/fnb-a" for place in (limiter._memory, limiter._cpu) if place is not None]
        assert [True] * len(places) == [os.path.isdir(place) for place in places]  # noqa: PTH112 - a string
        group.remove()
        assert [False] * len(places) == [os.path.isdir(place) for place in places]  # noqa: PTH112 - a string
