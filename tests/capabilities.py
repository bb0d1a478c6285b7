"""What a test may need from the machine. A test asks with a marker; a machine that lacks it skips with the reason.

With ``CI=true`` a skip is a failure, but for the tests that ``may_skip.toml`` lists for a kind of machine that this one
is of.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why something is not there."""

    reason: str


def on_ci() -> bool:
    """Whether a skip has to be a failure."""
    return os.environ.get("CI") == "true"


def chromium() -> str | None:
    """Return the path of a chromium or chrome, ``None`` where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def _linux() -> Missing | None:
    return None if sys.platform == "linux" else Missing(reason="needs Linux")


def _root() -> Missing | None:
    return None if os.geteuid() == 0 else Missing(reason="needs to run as root")


def _cgroup() -> Missing | None:
    if (missing := _linux()) is not None:
        return missing
    v1, v2 = _cgroup_v1(), _cgroup_v2()
    return None if v1 is None or v2 is None else Missing(reason=f"{v1.reason}; {v2.reason}")


def _cgroup_v1() -> Missing | None:
    place = CGROUP_ROOT / "memory"
    if not (place / "memory.limit_in_bytes").exists() and not (place / "memory.usage_in_bytes").exists():
        return Missing(reason="no cgroup v1 memory hierarchy here")
    return _writable(place)


def _cgroup_v2() -> Missing | None:
    controllers = CGROUP_ROOT / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        return Missing(reason="no cgroup v2 memory controller here")
    if _writable(CGROUP_ROOT) is None:
        return None
    if shutil.which("systemd-run") and os.environ.get("XDG_RUNTIME_DIR"):
        return None  # a scope of our own can be had
    return Missing(reason="cgroup v2 is there but neither writable nor to be had from systemd")


def _writable(place: Path) -> Missing | None:
    probe = place / f"fnb-probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError as error:
        return Missing(reason=f"{place} cannot be written: {error.strerror}")
    with contextlib.suppress(OSError):
        probe.rmdir()
    return None


def _browser() -> Missing | None:
    if chromium() is None:
        return Missing(reason="needs chromium: apt install chromium")
    return _module("playwright")


def _jupyter() -> Missing | None:
    return _module("ipykernel") or _module("nbclient")


def _module(name: str) -> Missing | None:
    found = importlib.util.find_spec(name) is not None
    return None if found else Missing(reason=f"needs {name}: pip install 'flyte-notebook[test]'")


CAPABILITIES: dict[str, Callable[[], Missing | None]] = {
    "browser": functools.cache(_browser),
    "cgroup": functools.cache(_cgroup),
    "cgroup_v1": functools.cache(_cgroup_v1),
    "cgroup_v2": functools.cache(_cgroup_v2),
    "jupyter": functools.cache(_jupyter),
    "linux": functools.cache(_linux),
    "root": functools.cache(_root),
}
"""By the name of the marker: ``None`` when the machine has it."""


def _version(distribution: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(distribution).split(".")[:2])


def _may_mount() -> bool:
    # proc(5): the effective capabilities, as a mask; capability.h: CAP_SYS_ADMIN is the 21st bit.
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> 21 & 1)


def another_python() -> str | None:
    """Return a CPython of another minor version that this project runs on, ``None`` where there is none."""
    names = [f"3.{minor}" for minor in range(11, 16) if minor != sys.version_info.minor]
    for name in names:
        installed = Path.home().glob(f".pyenv/versions/{name}.*/bin/python")
        for python in (*map(str, installed), shutil.which(f"python{name}")):
            if (
                python is not None
                and subprocess.run([python, "-c", ""], check=False, stderr=subprocess.DEVNULL).returncode == 0
            ):
                return python
    return None


LINUX = sys.platform == "linux"
KINDS: dict[str, Callable[[], bool]] = {
    "memory in cgroup v1": lambda: LINUX and (CGROUP_ROOT / "memory" / "memory.limit_in_bytes").exists(),
    "memory in cgroup v2": lambda: LINUX and not (CGROUP_ROOT / "memory").exists(),
    "no cgroup that may be written": lambda: CAPABILITIES["cgroup"]() is not None,
    "no pids of cgroup v1 that may be written": lambda: not os.access(CGROUP_ROOT / "pids", os.W_OK),
    "no mounts": lambda: LINUX and not _may_mount(),
    "macOS": lambda: sys.platform == "darwin",
    "Python before 3.12": lambda: sys.version_info < (3, 12),
    "Python before 3.13": lambda: sys.version_info < (3, 13),
    "flyte before 2.12": lambda: _version("flyte") < (2, 12),
    "no Python of another minor version": lambda: another_python() is None,
    "ipykernel before 7": lambda: _version("ipykernel") < (7,),
    "ipykernel 7.1 to 7.3": lambda: (7, 1) <= _version("ipykernel") < (7, 4),
    "source tree": lambda: "FLYTE_NOTEBOOK_TEST_WHEEL" not in os.environ,
}
"""The kinds of machines of ``may_skip.toml``, and whether this one is of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaySkip:
    """The tests that may skip on some kind of machine: by name, with parameters or without, and by marker."""

    tests: frozenset[str] = field(default_factory=frozenset)
    marks: frozenset[str] = field(default_factory=frozenset)

    def allows(self, test: str, marks: set[str]) -> bool:
        """Whether a test with these markers is one of them."""
        return not self.tests.isdisjoint({test, test.partition("[")[0]}) or not self.marks.isdisjoint(marks)


@functools.cache
def may_skip(*, everywhere: bool = False) -> MaySkip:
    """Return what may skip on this machine, or what may skip on any."""
    content = tomllib.loads((Path(__file__).parent / "may_skip.toml").read_text())
    kinds = [content[kind] for kind in content if everywhere or KINDS[kind]()]
    return MaySkip(
        tests=frozenset(test for kind in kinds for test in kind.get("tests", ())),
        marks=frozenset(mark for kind in kinds for mark in kind.get("marks", ())),
    )
