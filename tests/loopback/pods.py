"""One process of the SDK's container entry point, with its own files, under its own memory limit, and its output.

With an image (`image`) it has namespaces of its own for mounts and processes: what it started ends with it. A limit is
that of a control group, or where there is none that may be written, processes are looked at every few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .image import Image
    from .records import Log

PREFIX = "fnb-loopback-"
POLL_S = 0.01
MOST_LOOKS = 500
"""So often it is looked whether those in a group are gone."""
LONGEST_LINE_BYTES = 16 * 1024
"""A container runtime cuts what is longer."""
PR_SET_PDEATHSIG = 1  # prctl(2)

ENTER = """
[ -z "$LOOPBACK_GROUP" ] || echo 0 > "$LOOPBACK_GROUP/cgroup.procs" || exit 125
mount --bind "$LOOPBACK_FILES/tmp" "$LOOPBACK_ROOT/tmp" && mount --bind "$LOOPBACK_FILES/home" "$LOOPBACK_ROOT/home" &&
mount -t tmpfs -o size=64m shm "$LOOPBACK_ROOT/dev/shm" && mount -t proc proc "$LOOPBACK_ROOT/proc" || exit 125
root="$LOOPBACK_ROOT"
unset LOOPBACK_GROUP LOOPBACK_FILES LOOPBACK_ROOT
exec chroot "$root" /bin/sh -c 'cd /home; (exec "$@" 2>&3 3>&-); exit $?' sh "$@" 3>&2 2>/dev/null
"""
"""Runs in new namespaces. Whoever writes 0 joins a group itself, before it has used anything.

A shell stays as the first process, and says with 128 and more that the other one was killed: unshare(1) does not.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a pod ended: its exit code as a container runtime tells it, and whether memory was why."""

    exit_code: int
    oom_killed: bool


class Groups:
    """Control groups for pods, each with a memory limit; ``why_polled`` says why there are none."""

    def __init__(self) -> None:
        self.place: Path | None = None
        self.why_polled: str | None = None
        self._v1 = Path("/sys/fs/cgroup/memory/memory.usage_in_bytes").exists()
        try:
            self.place = self._own()
            _sweep(self.place.parent)
            self.place.mkdir()
            if not self._v1:
                (self.place / "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            self.place, self.why_polled = None, f"memory is looked at and not limited: {error}"

    def _own(self) -> Path:
        name = f"{PREFIX}{os.getpid()}"
        if not self._v1:
            if "memory" not in Path("/sys/fs/cgroup/cgroup.subtree_control").read_text().split():
                raise OSError("no memory controller in the hierarchy of version 2")
            return Path("/sys/fs/cgroup", name)
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.split(":", 2)[2] for line in lines if "memory" in line.split(":", 2)[1].split(","))
        return Path(f"/sys/fs/cgroup/memory{own}", name)

    def make(self, pod: str, memory_bytes: int | None) -> Path | None:
        """Make the group of a pod."""
        if self.place is None:
            return None
        group = self.place / f"{self.place.name}-{pod}"
        group.mkdir()
        if memory_bytes is not None and self._v1:
            (group / "memory.limit_in_bytes").write_text(str(memory_bytes))
            with contextlib.suppress(OSError):  # a kernel that does not count swap
                (group / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
        elif memory_bytes is not None:
            (group / "memory.max").write_text(str(memory_bytes))
            with contextlib.suppress(OSError):
                (group / "memory.swap.max").write_text("0")
        return group

    def oom_kills(self, group: Path) -> int:
        """Return how many processes of a group were killed for memory."""
        lines = (group / ("memory.oom_control" if self._v1 else "memory.events")).read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    async def remove(self, group: Path) -> None:
        """Remove a group once those in it are gone."""
        for _ in range(MOST_LOOKS):
            try:
                group.rmdir()
            except FileNotFoundError:
                return
            except OSError:  # somebody is still ending
                await asyncio.sleep(POLL_S)
            else:
                return

    def close(self) -> None:
        """Remove the group of all pods."""
        if self.place is not None:
            with contextlib.suppress(OSError):
                self.place.rmdir()


def _sweep(place: Path) -> None:
    """Remove groups of planes that were killed, once those in them are gone."""
    for group in place.glob(f"{PREFIX}*"):
        if psutil.pid_exists(int(group.name.removeprefix(PREFIX))):
            continue
        for one in (*group.glob(f"{PREFIX}*"), group):
            for _ in range(MOST_LOOKS):
                with contextlib.suppress(OSError):
                    one.rmdir()
                if not one.exists():
                    break
                time.sleep(POLL_S)  # somebody is still ending


class Pod:
    """A process that has begun, until it has ended."""

    def __init__(self, image: Image, groups: Groups, place: Path, log: Log) -> None:
        self._image, self._groups, self._log = image, groups, log
        self._place = place
        self._memory_bytes: int | None = None
        self._polled_oom = False

    async def run(self, command: list[str], env: Mapping[str, str], memory_bytes: int | None) -> Ending:
        """Run it to its end, or kill it when this is cancelled; afterwards nothing of it is left."""
        self._memory_bytes = memory_bytes
        group = self._groups.make(self._place.name, memory_bytes)
        for name in ("tmp", "home"):
            (self._place / name).mkdir(parents=True)
        process = await self._start(command, env, group)
        helpers = [asyncio.create_task(self._read(process))]
        if group is None and memory_bytes is not None:
            helpers.append(asyncio.create_task(self._poll(process.pid, memory_bytes)))
        try:
            code = await process.wait()
            await asyncio.wait(helpers[:1], timeout=5)  # what it started may still hold its output
        finally:
            self._kill(process.pid)
            await process.wait()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            killed = self._polled_oom if group is None else self._groups.oom_kills(group) > 0
            if group is not None:
                await self._groups.remove(group)
            shutil.rmtree(self._place, ignore_errors=True)
            self._log.close()
        exit_code = code if code >= 0 else 128 - code
        return Ending(exit_code=exit_code, oom_killed=killed and exit_code == 128 + signal.SIGKILL)

    async def _start(
        self, command: list[str], env: Mapping[str, str], group: Path | None
    ) -> asyncio.subprocess.Process:
        venv = self._image.venv
        env = {
            "PATH": f"{venv}/bin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": "/home",
            **env,
        }
        if self._image.root is None:
            env |= {"HOME": str(self._place / "home"), "TMPDIR": str(self._place / "tmp")}
            join = f'echo 0 > "{group}/cgroup.procs" || exit 125; ' if group is not None else ""
            words = ["/bin/sh", "-c", f'{join}exec "$@"', "sh", *command]
        else:
            env |= {"LOOPBACK_ROOT": str(self._image.root), "LOOPBACK_FILES": str(self._place)}
            env["LOOPBACK_GROUP"] = str(group or "")
            words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", ENTER, "sh", *command]
        return await asyncio.create_subprocess_exec(
            *words,
            env=env,
            cwd=self._place / "home",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(64 * 1024):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._log.add(line.decode(errors="replace"))
            while len(rest) > LONGEST_LINE_BYTES:
                self._log.add(rest[:LONGEST_LINE_BYTES].decode(errors="replace"))
                rest = rest[LONGEST_LINE_BYTES:]
        if rest:
            self._log.add(rest.decode(errors="replace"))

    async def _poll(self, pid: int, memory_bytes: int) -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                top = psutil.Process(pid)
                if sum(one.memory_info().rss for one in (top, *top.children(recursive=True))) > memory_bytes:
                    self._polled_oom = True
                    self._kill(pid)
            await asyncio.sleep(POLL_S)

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _die_with_parent() -> None:
    """Make the child that this runs in end with the plane, before it becomes another program."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
