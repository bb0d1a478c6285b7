"""What a test may need from the machine. A test asks with a marker; a machine that lacks it skips with the reason.

With ``CI=true`` a skip is a failure, except for what cannot exist on such a machine: a cgroup v2 memory controller
where the kernel gave memory to v1, macOS on Linux.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why something is not there; ``impossible`` where this kind of machine can never have it."""

    reason: str
    impossible: bool = False


def on_ci() -> bool:
    """Whether a skip has to be a failure."""
    return os.environ.get("CI") == "true"


def chromium() -> str | None:
    """Return the path of a chromium or chrome, ``None`` where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def _linux() -> Missing | None:
    return None if sys.platform == "linux" else Missing(reason="needs Linux", impossible=True)


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
        return Missing(reason="no cgroup v1 memory hierarchy here", impossible=True)
    return _writable(place)


def _cgroup_v2() -> Missing | None:
    controllers = CGROUP_ROOT / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        return Missing(reason="no cgroup v2 memory controller here", impossible=True)
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
