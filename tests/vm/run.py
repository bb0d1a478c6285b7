"""Boot a virtual machine with control groups version 2 and run tests of a wheel in it: ``run.py WHEEL [ARGUMENT...]``.

The arguments are pytest's: files (``tests/...``) and options; without any, those tests that lean on the kernel. The
machine is emulated, which makes everything slow; with ``ACCEL=kvm``, where ``/dev/kvm`` works, it is not. The last
lines printed are pytest's closing lines, and the exit status is 0 when all passed. ``build/vm`` holds the image and, in
``run``, what came back: for each way a log and JUnit's XML.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
VM = TOP / "build" / "vm"
RUN = VM / "run"

ACCEL = os.environ.get("ACCEL", "tcg,thread=multi")
SLOWER = 8 if ACCEL.startswith("tcg") else 1
"""How much slower than the machines for which the bounds of the tests are meant."""
BOUND_S = 7200

PACKAGES = {"debootstrap": "debootstrap", "qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs"}

DEFAULT = (
    "tests/limiters/test_cgroup_v2.py",
    "tests/engine/test_threshold.py",
    "tests/engine/test_deaths.py",
    "tests/engine/test_machine_memory.py::test_the_kernel_never_has_to_choose_between_task_and_notebook",
    "tests/engine/test_which_line.py",
    "tests/notebook/test_interrupts.py",
    "tests/notebook/test_kernel_runs.py",
    "tests/test_leaks.py",
)
"""Limits, deaths and interrupts of workers, what stays behind, and the line where a task stood."""
LIMITERS = "tests/limiters"
"""Tests in here make groups themselves, so an ordinary user runs them in a scope."""

CLOSING = re.compile(r"^=+ (.* in [0-9.]+s.*?) =+$", re.MULTILINE)


def ways(arguments: list[str]) -> dict[str, list[str]]:
    """Return pytest's arguments for each of the ways in ``guest.sh`` that has something to run."""
    options = [argument for argument in arguments if not argument.startswith("tests/")]
    files = [argument for argument in arguments if argument.startswith("tests/")]
    files = files or (["tests"] if options else list(DEFAULT))
    limiters = [file for file in files if file.startswith(LIMITERS)]
    others = [file for file in files if file not in limiters]
    if "tests" in files:
        limiters = [LIMITERS]
    user = ["-m", "not root and not browser", *options]
    chosen = {
        "session": [*user, f"--ignore=/mnt/{LIMITERS}", *others] if others else [],
        "scope": [*user, *limiters] if limiters else [],
        "root": ["-m", "not browser", *options, *files],
    }
    return {
        way: [f"/mnt/{word}" if word.startswith("tests") else word for word in words]
        for way, words in chosen.items()
        if words
    }


def make_disk(wheel: Path, chosen: dict[str, list[str]]) -> None:
    """Make the second disk: the wheel, the tests and what they read, and what each way is to run."""
    place = RUN / "disk"
    shutil.rmtree(RUN, ignore_errors=True)
    (place / "out").mkdir(parents=True)
    shutil.copy(wheel, place)
    for name in ("pyproject.toml", "tests/vm/guest.sh"):
        shutil.copy(TOP / name, place)
    for name in ("tests", "notebooks", "benchmarks"):
        shutil.copytree(TOP / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "slower").write_text(f"{SLOWER}\n")
    for way, words in chosen.items():
        (place / f"{way}.arguments").write_text("".join(f"{word}\0" for word in words))
    disk = ["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(place), str(RUN / "disk.img"), "256M"]
    subprocess.run(disk, check=True, timeout=60)
    shutil.rmtree(place)


def boot() -> None:
    """Run the machine until it switches itself off, and pass on what it says; it is killed after `BOUND_S`."""
    image = VM / "image"
    command = [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", ACCEL, "-cpu", "max", "-smp", "2", "-m", "4096"),
        *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img")),
        *("-append", "root=/dev/vda rw console=ttyS0 quiet loglevel=3 systemd.show_status=false panic=-1 TERM=dumb"),
        *("-drive", f"file={image / 'root.img'},format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={RUN / 'disk.img'},format=raw,if=virtio"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot"),
    ]
    with (
        (RUN / "console").open("wb") as console,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine,
    ):
        assert machine.stdout is not None
        clock = threading.Timer(BOUND_S, machine.kill)
        clock.start()
        try:
            while part := os.read(machine.stdout.fileno(), 4096):
                console.write(part)
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
        finally:
            clock.cancel()
            machine.kill()


def closing(way: str) -> tuple[str, str]:
    """Return pytest's closing line in one of the ways, and its exit status."""
    log, status = (RUN / "out" / way / name for name in ("log", "status"))
    found = CLOSING.findall(log.read_text(errors="replace")) if log.exists() else []
    ended = status.read_text().strip() if status.exists() else "none"
    return found[-1] if found else f"no closing line, exit status {ended}", ended


def conclude(chosen: Iterable[str]) -> int:
    """Print the closing line of each way that was run, and return the exit status.

    No test in one of the ways is no failure (pytest's status 5), no test in any of them is.
    """
    results = {way: closing(way) for way in chosen}
    for way, (line, _) in results.items():
        print(f"{way + ':':9}{line}")
    return 0 if {"0"} <= {status for _, status in results.values()} <= {"0", "5"} else 1


def main() -> int:
    """Make what is missing, run the machine, say how it went."""
    wheel, arguments = Path(sys.argv[1]).resolve(), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the machine ends with us
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        print(f"The virtual machine needs Debian's packages: apt install {' '.join(missing)}", file=sys.stderr)
        return 1
    VM.mkdir(parents=True, exist_ok=True)
    with (VM / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"The virtual machine of this tree is running already: {VM}", file=sys.stderr)
            return 1
        requirements = VM / "requirements.txt"
        select = [sys.executable, TOP / ".ci" / "lock.py", "select", "requirements.lock", "test"]
        requirements.write_bytes(subprocess.run(select, check=True, stdout=subprocess.PIPE).stdout)
        if subprocess.run([HERE / "image.sh", requirements, VM / "image"], check=False).returncode != 0:
            return 1
        chosen = ways(arguments)
        make_disk(wheel, chosen)
        boot()
        take_out = ["debugfs", "-R", f"rdump /out {RUN}", RUN / "disk.img"]
        subprocess.run(take_out, check=True, capture_output=True, timeout=60)
    return conclude(chosen)


if __name__ == "__main__":
    sys.exit(main())
