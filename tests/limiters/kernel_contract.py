"""What both versions of control groups must do; each version's test file runs all of it on a machine that has it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, ClassVar

import pytest
from limited import MIB, Children, empty_it, running, until

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters.kernel_files import parse_counts
from flyte_notebook.limiters.selection import choose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flyte_notebook.limiters.cgroup_v1 import CgroupV1
    from flyte_notebook.limiters.cgroup_v2 import CgroupV2

SPIN = """
began, spent = time.monotonic(), time.process_time()
while time.process_time() - spent < 0.3: pass
say(time.monotonic() - began)
"""

DAEMON = """
def daemon():  # leaves its family: forks, a session of its own, forks again
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            say(os.getpid())
            wait()
        os._exit(0)
    os.wait()
"""


class KernelContract:
    """The tests; a subclass says which mechanism, and where its files are."""

    mechanism: ClassVar[str]
    limit_file: ClassVar[str]

    def session_directory(self, limiter: CgroupV1 | CgroupV2) -> str:
        """Return the memory directory of the session."""
        raise NotImplementedError

    @pytest.fixture
    def limiter(self, session: str) -> Iterator[CgroupV1 | CgroupV2]:
        """Give the mechanism itself; it leaves nothing."""
        limiter = choose(self.mechanism, session=session)
        yield limiter
        directory = self.session_directory(limiter)
        limiter.close()
        limiter.close()
        assert not os.path.exists(directory)  # noqa: PTH110 - a string

    def test_a_task_above_its_limit_is_killed_and_counted(self, limiter: CgroupV1, children: Children) -> None:
        """A process that touches three times its limit dies by SIGKILL, the counter says so, the peak is the limit."""
        group = limiter.group("a", Limits(memory_bytes=100 * MIB))
        child = children.start(group, "use(300)")
        assert children.finish(child, group) == -signal.SIGKILL
        counters = group.counters()
        assert counters.oom_kills >= 1
        assert counters.limit_reached
        if counters.peak_bytes is not None:
            assert 99 * MIB <= counters.peak_bytes <= 100 * MIB
        group.remove()

    def test_a_task_below_its_limit_is_left_alone(self, limiter: CgroupV1, children: Children) -> None:
        """A process that stays below its limit ends by itself; nothing is counted against it; its peak is exact."""
        group = limiter.group("a", Limits(memory_bytes=250 * MIB))
        child = children.start(group, "block = use(150); del block; say('freed'); wait()")
        assert child.line() == "freed"
        assert 50 * MIB > group.sample()
        counters = group.counters()
        assert (0, False) == (counters.oom_kills, counters.limit_reached)
        if counters.peak_bytes is not None:
            assert 150 * MIB <= counters.peak_bytes <= 190 * MIB
            assert counters.peak_source == "kernel counter"
        empty_it(group)
        until(child.poll)
        group.remove()

    def test_interpreter_and_imports_count(self, limiter: CgroupV1, children: Children) -> None:
        """The group is joined before exec, so a bare interpreter is already charged some MiB."""
        group = limiter.group("a", Limits(memory_bytes=100 * MIB))
        child = children.start(group, "say('here'); wait()")
        child.line()
        assert 2 * MIB < group.sample() < 40 * MIB
        empty_it(group)
        until(child.poll)
        group.remove()

    def test_children_count_together(self, limiter: CgroupV1, children: Children) -> None:
        """Three children of 60 MiB each do not fit into 120 MiB, though each one would."""
        code = """
for _ in range(3):
    if os.fork() == 0:
        block = use(60)
        say('used')
        wait()
wait()
"""
        group = limiter.group("a", Limits(memory_bytes=120 * MIB))
        child = children.start(group, code)
        assert children.finish(child, group) == -signal.SIGKILL
        assert group.counters().oom_kills >= 1
        assert group.counters().limit_reached
        empty_it(group)
        group.remove()

    def test_page_cache_is_not_usage(self, limiter: CgroupV1, children: Children, tmp_path: Path) -> None:
        """A task that wrote 100 MiB to a file uses none of it; the counters say how much cache the peak may hold."""
        group = limiter.group("a", Limits(memory_bytes=300 * MIB))
        code = f"open({str(tmp_path / 'file')!r}, 'wb').write(bytes(100 * MIB)); say('written'); wait()"
        child = children.start(group, code)
        child.line()
        assert group.sample() < 50 * MIB
        assert group.counters().page_cache_bytes > 80 * MIB
        empty_it(group)
        until(child.poll)
        group.remove()

    def test_a_full_page_cache_is_no_oom(self, limiter: CgroupV1, children: Children, tmp_path: Path) -> None:
        """Writing a file three times as large as the limit ends well: the kernel drops its cache."""
        group = limiter.group("a", Limits(memory_bytes=60 * MIB))
        code = f"file = open({str(tmp_path / 'file')!r}, 'wb')\nfor _ in range(180): file.write(bytes(MIB))"
        child = children.start(group, code)
        assert children.finish(child, group) == 0
        assert group.counters().oom_kills == 0
        group.remove()

    def test_memory_short_above_is_not_the_tasks_limit(self, limiter: CgroupV1, children: Children) -> None:
        """When a group above runs out the kill is counted, and the task's own limit was not reached."""
        group = limiter.group("a", Limits(memory_bytes=300 * MIB))
        above = self.session_directory(limiter)
        with open(f"{above}/{self.limit_file}", "w", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
            file.write(str(100 * MIB))
        child = children.start(group, "use(200)")
        assert children.finish(child, group) == -signal.SIGKILL
        assert group.counters().oom_kills >= 1
        assert not group.counters().limit_reached
        group.remove()

    def test_swap_does_not_extend_the_limit(self, limiter: CgroupV1) -> None:
        """The limit over memory and swap together is the memory limit, or swap is not allowed at all."""
        group = limiter.group("a", Limits(memory_bytes=100 * MIB))
        directory = f"{self.session_directory(limiter)}/fnb-a"
        for name, expected in self.swap_files(100 * MIB).items():
            if os.path.exists(f"{directory}/{name}"):  # noqa: PTH110 - a string
                with open(f"{directory}/{name}", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
                    assert expected == int(file.read())
        group.remove()

    def swap_files(self, limit_bytes: int) -> dict[str, int]:
        """Return what stands in the files that keep swap out."""
        raise NotImplementedError

    def test_without_a_limit_everything_else_works(self, limiter: CgroupV1, children: Children) -> None:
        """A group without limits still measures, counts, and kills."""
        group = limiter.group("a", Limits())
        child = children.start(group, "block = use(120); say('used'); wait()")
        child.line()
        assert group.sample() > 120 * MIB
        assert not group.counters().limit_reached
        empty_it(group)
        until(child.poll)
        assert child.status == -signal.SIGKILL
        group.remove()

    def test_kill_reaches_every_descendant(self, limiter: CgroupV1, children: Children) -> None:
        """A daemon that left parent and session dies with the group, and the group is empty then."""
        group = limiter.group("a", Limits())
        child = children.start(group, DAEMON + "daemon(); say('parent'); wait()")
        daemon = int(next(word for word in (child.line(), child.line()) if word != "parent"))
        assert running(daemon)
        assert not group.empty()
        empty_it(group)
        until(child.poll)
        until(lambda: not running(daemon))  # it leaves its group a moment before its state says that it has ended
        group.remove()

    def test_kill_outruns_processes_that_start_others(self, limiter: CgroupV1, children: Children) -> None:
        """Twenty processes that keep forking are all gone after a few kills."""
        code = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(20):
    if os.fork() == 0:
        while True:
            if os.fork() == 0:
                time.sleep(0.01)
                os._exit(0)
            time.sleep(0.005)
say('forking')
wait()
"""
        group = limiter.group("a", Limits(memory_bytes=400 * MIB))
        child = children.start(group, code)
        child.line()
        empty_it(group)
        until(child.poll)
        group.remove()

    def test_a_zombie_is_nobody(self, limiter: CgroupV1, children: Children) -> None:
        """A group whose only process is a zombie is empty and can be removed."""
        group = limiter.group("a", Limits())
        child = children.start(group, "say('over')")
        child.line()
        until(lambda: not running(child.pid))
        assert group.empty()
        group.remove()
        until(child.poll)

    def test_a_group_in_use_is_not_removed(self, limiter: CgroupV1, children: Children) -> None:
        """Removing a group with a living process in it is refused; after the kill it goes, twice without harm."""
        group = limiter.group("a", Limits())
        child = children.start(group, "say('here'); wait()")
        child.line()
        with pytest.raises(OSError, match="busy"):
            group.remove()
        empty_it(group)
        until(child.poll)
        group.remove()
        group.remove()

    def test_what_was_counted_outlives_the_group(self, limiter: CgroupV1, children: Children) -> None:
        """Counters and the last sample can be read when the group is gone, and nothing raises."""
        group = limiter.group("a", Limits(memory_bytes=60 * MIB))
        child = children.start(group, "use(100)")
        children.finish(child, group)
        counted = group.counters()
        group.remove()
        assert counted.oom_kills == group.counters().oom_kills >= 1
        assert group.sample() >= 0
        assert group.empty()
        group.kill()

    def test_a_refused_group_leaves_nothing(self, limiter: CgroupV1) -> None:
        """A limit that the kernel does not understand is an OSError, and no directory stays."""
        with pytest.raises(OSError, match="Invalid"):
            limiter.group("a", Limits(memory_bytes=-2))
        assert "fnb-a" not in os.listdir(self.session_directory(limiter))  # noqa: PTH208 - a string

    def test_close_ends_what_is_left(self, limiter: CgroupV1, children: Children) -> None:
        """Closing the limiter kills and removes groups that nobody removed."""
        group = limiter.group("a", Limits())
        child = children.start(group, DAEMON + "daemon(); wait()")
        daemon = int(child.line())
        limiter.close()
        until(child.poll)
        until(lambda: not running(daemon))
        assert group.sample() >= 0
        assert group.counters().oom_kills == 0
        group.remove()

    def test_a_cpu_limit_slows_a_task_down(self, limiter: CgroupV1, children: Children) -> None:
        """Under a fifth of a core 0.3 s of CPU time take 1.5 s, however idle the machine; without one nobody waits."""
        if not limiter.enforcement.cpu.startswith("cgroup"):
            pytest.skip("the cpu controller was not delegated here")
        took_s = []
        for name, cores in (("slow", 0.2), ("fast", None)):
            group = limiter.group(name, Limits(cpu_cores=cores))
            child = children.start(group, SPIN)
            took_s.append(float(child.line()))
            assert children.finish(child, group) == 0
            if cores is None:  # not by how long it took: that says how busy the machine was meanwhile
                assert 0 == self.throttled(limiter, name)
            group.remove()
        assert took_s[0] > 1.1

    def throttled(self, limiter: CgroupV1 | CgroupV2, name: str) -> int:
        """Return how often the kernel made a group wait for its next share of CPU time."""
        with open(f"{self.cpu_directory(limiter)}/fnb-{name}/cpu.stat", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
            return parse_counts(file.read())["nr_throttled"]

    def cpu_directory(self, limiter: CgroupV1 | CgroupV2) -> str:
        """Return the cpu directory of the session."""
        raise NotImplementedError

    @pytest.mark.alone
    def test_a_sample_is_cheap(self, limiter: CgroupV1, children: Children) -> None:
        """Two hundred samples of a busy group cost less than a poll every 5 ms may cost, by far."""
        group = limiter.group("a", Limits(memory_bytes=200 * MIB))
        child = children.start(group, "block = use(50); say('used'); wait()")
        child.line()
        began_s = time.thread_time()
        for _ in range(200):
            group.sample()
        assert time.thread_time() - began_s < 200 * 0.0005
        empty_it(group)
        until(child.poll)
        group.remove()
