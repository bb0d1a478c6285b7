"""What the machine can give, as seen from inside real limits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from limited import MIB, Children

from flyte_notebook.core.limits import Limits
from flyte_notebook.limiters import machine
from flyte_notebook.limiters.cgroup_v1 import CgroupV1

if TYPE_CHECKING:
    from collections.abc import Iterator

ASK = f"""
sys.path[:0] = {[str(Path(machine.__file__).parents[2])]!r}
from flyte_notebook.limiters import machine
"""


@pytest.fixture
def limiter(session: str) -> Iterator[CgroupV1]:
    """Version 1, which stands for a container around us."""
    limiter = CgroupV1(session)
    yield limiter
    limiter.close()


def test_available_is_below_capacity() -> None:
    """Something is in use always, and nobody has more than the machine's pages."""
    capacity_bytes = machine.capacity_bytes()
    assert 0 < machine.available_bytes() < capacity_bytes
    assert capacity_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.cgroup_v1
def test_a_limit_around_us_is_the_capacity(limiter: CgroupV1, children: Children) -> None:
    """Inside 300 MiB the capacity is 300 MiB, and what is used and cannot be dropped is not available."""
    group = limiter.group("a", Limits(memory_bytes=300 * MIB))
    code = ASK + "block = use(100); say(*machine.memory(), machine.capacity_bytes(), machine.available_bytes())"
    child = children.start(group, code)
    capacity_bytes, available_bytes, alone_bytes, available_alone_bytes = map(int, child.line().split())
    assert children.finish(child, group) == 0
    assert 300 * MIB == capacity_bytes
    assert 130 * MIB < available_bytes < 200 * MIB
    assert capacity_bytes == alone_bytes
    assert abs(available_bytes - available_alone_bytes) < MIB
    group.remove()


@pytest.mark.cgroup_v1
def test_page_cache_is_available(limiter: CgroupV1, children: Children, tmp_path: Path) -> None:
    """What a file's pages hold can be dropped: after 150 MiB written most of 300 MiB is available."""
    group = limiter.group("a", Limits(memory_bytes=300 * MIB))
    code = f"""
file = open({str(tmp_path / "file")!r}, 'wb')
for _ in range(150): file.write(bytes(MIB))
say(machine.available_bytes())
"""
    child = children.start(group, ASK + code)
    assert int(child.line()) > 220 * MIB
    assert children.finish(child, group) == 0
    group.remove()


@pytest.mark.cgroup_v1
def test_a_quota_around_us_is_the_number_of_cores(limiter: CgroupV1, children: Children) -> None:
    """Inside half a core there is half a core."""
    if limiter._cpu is None:
        pytest.skip("no cpu hierarchy of ours here")
    group = limiter.group("a", Limits(cpu_cores=0.5))
    child = children.start(group, ASK + "say(machine.cpu_count())")
    assert "0.5" == child.line()
    assert children.finish(child, group) == 0
    group.remove()


@pytest.mark.linux
def test_affinity_is_the_number_of_cores(session: str, children: Children) -> None:
    """A process bound to one CPU has one core."""
    from flyte_notebook.limiters.watchdog import Watchdog  # noqa: PLC0415 - one use

    limiter = Watchdog(session)
    group = limiter.group("a", Limits())
    child = children.start(
        group, ASK + "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); say(machine.cpu_count())"
    )
    assert float(child.line()) <= 1.0
    assert children.finish(child, group) == 0
    group.remove()
    limiter.close()


@pytest.mark.alone
def test_asking_is_cheap() -> None:
    """The scheduler may ask for every job: a hundred answers in well under a second."""
    began_s = time.process_time()
    for _ in range(100):
        machine.available_bytes()
        machine.capacity_bytes()
    assert time.process_time() - began_s < 0.3
