"""The strongest mechanism that works is chosen, and what is missing is said with the command that would give it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import pytest
from limited import MIB, Children

from flyte_notebook.core.limits import Enforcement, Limits
from flyte_notebook.limiters import hints, selection
from flyte_notebook.limiters.base import LimiterUnavailableError
from flyte_notebook.limiters.hints import Surroundings
from flyte_notebook.limiters.selection import choose
from flyte_notebook.limiters.watchdog import Watchdog

NOTHING = Surroundings(
    container="none",
    linux=True,
    root=False,
    systemd=False,
    user_manager=False,
    v2_memory=False,
    held_outside=False,
    v1_base=None,
)
POLLED = Enforcement(memory="watchdog", cpu="affinity")


@pytest.mark.cgroup
def test_the_kernels_limit_is_taken_where_it_can_be_had(session: str) -> None:
    """On a machine with a writable memory hierarchy the kernel holds the limit and no hint about memory is given."""
    limiter = choose(session=session)
    assert limiter.enforcement.kernel_memory
    assert not any("Memory" in hint for hint in limiter.enforcement.hints)
    limiter.close()


def test_the_environment_forces_a_mechanism(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``FLYTE_NOTEBOOK_LIMITER`` is obeyed, and an argument goes before it."""
    monkeypatch.setenv(selection.FORCE_VARIABLE, "watchdog")
    limiter = choose(session=session)
    assert "watchdog" == limiter.enforcement.memory
    limiter.close()
    monkeypatch.setenv(selection.FORCE_VARIABLE, "cgroup_v9")
    limiter = choose("watchdog", session=session)
    assert isinstance(limiter, Watchdog)
    limiter.close()


def test_a_name_that_is_none_is_an_error(session: str) -> None:
    """The error names what may be forced."""
    with pytest.raises(ValueError, match="cgroup_v9: it may be cgroup_v2, cgroup_v1, watchdog"):
        choose("cgroup_v9", session=session)


def test_a_forced_mechanism_that_does_not_work_is_an_error(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing weaker is taken in its place, and the reason is told."""

    def refuse(_session: str) -> Watchdog:
        raise LimiterUnavailableError(1, "cgroup v2: not here")

    monkeypatch.setitem(selection.MECHANISMS, "cgroup_v2", refuse)
    with pytest.raises(LimiterUnavailableError, match="cgroup v2: not here"):
        choose("cgroup_v2", session=session)


def test_every_refusal_is_told(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing works the error holds all the reasons, in the order tried."""

    def refuse(session: str) -> Watchdog:
        raise LimiterUnavailableError(1, f"not here {session[:3]}")

    for name in selection.MECHANISMS:
        monkeypatch.setitem(selection.MECHANISMS, name, refuse)
    with pytest.raises(LimiterUnavailableError, match="not here fnb; not here fnb; not here fnb"):
        choose(session=session)


@pytest.mark.root
@pytest.mark.cgroup
def test_an_ordinary_user_gets_the_watchdog_and_a_hint(session: str) -> None:
    """Who may write no control group gets the watchdog, which works, and one way to the kernel's limit."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            limiter = choose(session=session)
            enforcement = limiter.enforcement
            os.write(write, json.dumps([enforcement.memory, enforcement.cpu, *enforcement.hints]).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    memory, cpu, hint = json.loads(os.read(read, 10_000))
    os.close(read)
    assert ("watchdog", "affinity") == (memory, cpu)
    assert hint.startswith("Memory is polled, not held by the operating system's kernel. ")


def test_a_task_runs_under_whatever_was_chosen(session: str, children: Children) -> None:
    """The chosen mechanism takes a process, measures it, and lets it go."""
    limiter = choose(session=session)
    group = limiter.group("a", Limits(memory_bytes=200 * MIB, cpu_cores=0.5))
    child = children.start(group, "block = use(50)")
    assert 0 == children.finish(child, group)
    assert 0 == group.counters().oom_kills
    group.remove()
    limiter.close()


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        (replace(NOTHING, linux=False), "docker run --cgroupns=private --privileged"),
        (replace(NOTHING, container="docker", root=True, v2_memory=True), "docker run --cgroupns=private --privileged"),
        (replace(NOTHING, container="kubernetes", root=True, v2_memory=True), "privileged: true"),
        (
            replace(NOTHING, systemd=True, v2_memory=True, user_manager=True),
            "systemd-run --user --scope -p Delegate=yes jupyter lab",
        ),
        (
            replace(NOTHING, systemd=True, v2_memory=True, user_manager=True, held_outside=True),
            "Delegate=yes in the unit",
        ),
        (replace(NOTHING, systemd=True, v2_memory=True), "loginctl enable-linger"),
        (replace(NOTHING, v1_base="/c/memory"), "sudo mkdir /c/memory/jupyter && sudo chown -R $(id -un)"),
        (replace(NOTHING, v2_memory=True), "sudo -E jupyter lab"),
        (replace(NOTHING, v2_memory=True, root=True), "mount | grep cgroup"),
        (NOTHING, "grep memory /proc/cgroups"),
    ],
)
def test_a_weak_limit_says_what_would_give_a_strong_one(around: Surroundings, expected: str) -> None:
    """Each kind of machine has one sentence with one command that is true there."""
    found = hints.hints(POLLED, around)
    assert 1 == len(found)
    assert expected in found[0]


@pytest.mark.parametrize(
    ("enforcement", "expected"),
    [
        (Enforcement(memory="cgroup_v2", cpu="cgroup_v2"), None),
        (Enforcement(memory="cgroup_v2", cpu="affinity"), "user@.service.d"),
        (Enforcement(memory="cgroup_v1", cpu="affinity"), "may not be written"),
        (Enforcement(memory="cgroup_v1", cpu="cgroup_v1"), None),
    ],
)
def test_a_weak_cpu_limit_is_said_too(enforcement: Enforcement, expected: str | None) -> None:
    """With both limits held by the kernel nothing is missing; with one, one sentence is there."""
    found = hints.hints(enforcement, replace(NOTHING, systemd=True, v2_memory=True, user_manager=True))
    assert (expected is None) == (found == ())
    assert expected is None or expected in found[0]


def test_the_supervisor_stays_small() -> None:
    """Choosing a mechanism loads neither the loop, nor the SDK, nor psutil."""
    code = (
        "import sys, flyte_notebook.limiters.selection, flyte_notebook.limiters.machine;"
        "print(*sorted({'asyncio', 'flyte', 'numpy', 'psutil', 'IPython'} & set(sys.modules)))"
    )
    import subprocess  # noqa: PLC0415 - one use

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "" == done.stdout.strip()
