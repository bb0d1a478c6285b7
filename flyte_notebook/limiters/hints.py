"""Hints for stronger limits on this machine: one sentence each, with the exact command, and only if it applies."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flyte_notebook.limiters import cgroup_v1, cgroup_v2
from flyte_notebook.limiters.control_groups import own
from flyte_notebook.limiters.kernel_files import read

if TYPE_CHECKING:
    from flyte_notebook.core.limits import Enforcement

DELEGATE_CPU = (
    "sudo mkdir -p /etc/systemd/system/user@.service.d && "
    "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | "
    "sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload"
)
PRIVILEGED = "docker run --cgroupns=private --privileged ..."
DELEGATE_SERVICE = "Delegate=yes in the unit of a systemd service"
IN_A_SCOPE = "systemd-run --user --scope -p Delegate=yes jupyter lab"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The facts that hints depend on.

    ``v1_base`` is our own memory group of version 1, ``None`` without that hierarchy. ``held_outside`` says that a
    scope of the user manager would be outside of a limit that applies to us.
    """

    container: Literal["none", "docker", "kubernetes"]
    linux: bool
    root: bool
    systemd: bool
    user_manager: bool
    v2_memory: bool
    held_outside: bool
    v1_base: str | None


def look_around() -> Surroundings:
    """Return the facts for this process."""
    linux = sys.platform == "linux"
    v2 = own("") if linux else None
    return Surroundings(
        container=_container(),
        linux=linux,
        root=os.geteuid() == 0,
        systemd=Path("/run/systemd/system").is_dir(),  # sd_booted(3)
        user_manager=cgroup_v2.user_manager_answers(),
        v2_memory=v2 is not None and "memory" in (read(v2[1] + "/cgroup.controllers") or "").split(),
        held_outside=v2 is not None and cgroup_v2.held_outside(*v2),
        v1_base=cgroup_v1.base_directory("memory") if linux else None,
    )


def hints(enforcement: Enforcement, around: Surroundings) -> tuple[str, ...]:
    """Return sentences about missing limits with the command to get them; empty when nothing is missing."""
    found = []
    if not enforcement.kernel_memory:
        found.append("Memory is polled, not held by the operating system's kernel. " + _memory(around))
    if enforcement.cpu in {"affinity", "none"}:
        found.extend(_cpu(enforcement, around))
    return tuple(found)


def _memory(around: Surroundings) -> str:
    if not around.linux:
        return f"This system has no control groups; Jupyter in a Linux container has: {PRIVILEGED}"
    if around.container == "kubernetes":
        return (
            "In this pod control groups may not be written; a pod with securityContext: {privileged: true} "
            "gives the kernel's limit."
        )
    if around.container == "docker":
        return f"In this container control groups may not be written; start it so that they can: {PRIVILEGED}"
    if not around.v2_memory and around.v1_base is None:
        return (
            "No control groups with a memory controller are here; see whether the kernel has one and it is switched on "
            "(cgroup_enable=memory at boot): grep memory /proc/cgroups"
        )
    return _as_root() if around.root else _as_user(around)


def _as_root() -> str:
    return (
        "Control groups may not be written, even by root; see whether they are mounted read-only: mount | grep cgroup"
    )


def _as_user(around: Surroundings) -> str:
    if around.v2_memory and around.held_outside:
        return f"Jupyter is under a limit of its service or job; have that group delegated to it: {DELEGATE_SERVICE}"
    if around.v2_memory and around.systemd and around.user_manager:
        return f"Start Jupyter in a scope of its own: {IN_A_SCOPE}"
    if around.v2_memory and around.systemd:
        return (
            "No systemd user manager answers; start one and tell where it is: sudo loginctl enable-linger $(id -un) && "
            f"export XDG_RUNTIME_DIR=/run/user/$(id -u) && {IN_A_SCOPE}"
        )
    if around.v1_base is not None:
        group = f"{around.v1_base}/jupyter"
        return (
            "Give yourself a control group, in the shell that then starts Jupyter: "
            f"sudo mkdir {group} && sudo chown -R $(id -un) {group} && echo $$ | sudo tee {group}/cgroup.procs"
        )
    return "Control groups may be written by root only here: sudo -E jupyter lab --allow-root"


def _cpu(enforcement: Enforcement, around: Surroundings) -> list[str]:
    if enforcement.cpu == "none":
        return ["CPU is not limited: this system can neither set a quota nor bind a process to some of its CPUs."]
    words = "CPU is limited by affinity, in whole cores."
    if enforcement.memory == "cgroup_v2" and around.systemd and not around.root:
        return [f"{words} The cpu controller was not delegated; do that, then log in again: {DELEGATE_CPU}"]
    # With the watchdog, the command for the kernel's memory limit gives its CPU quota too: one hint is enough.
    return [f"{words} The cpu control group may not be written."] if enforcement.kernel_memory else []


def _container() -> Literal["none", "docker", "kubernetes"]:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    return "docker" if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")) else "none"
