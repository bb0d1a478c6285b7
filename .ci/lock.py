"""What the locks hold, whether they fit a Python, and how they are made anew. It needs nothing but Python itself.

python .ci/lock.py fits [LOCK]          ends with 1 and one line that says why this Python does not fit the lock
python .ci/lock.py select LOCK EXTRA    prints the part of the lock that an extra needs, with what it stands on
python .ci/lock.py update [OPTION...]   makes both locks and flyte_notebook/core/tested.py anew; options are those of uv
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"

BUILD = "build"
"""Asked for as an extra: what the wheel is built with."""

PLATFORMS = {"linux": "Linux", "darwin": "macOS"}
"""By what Python calls them."""

WHEELS = ("x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "aarch64-unknown-linux-gnu")
"""Where all that the lock holds has to be there as wheels, as uv calls them; elsewhere pip may have to compile."""

RELIED = (
    "cloudpickle",
    "connectrpc",
    "flyte",
    "flyteidl2",
    "ipykernel",
    "ipython",
    "ipywidgets",
    "matplotlib",
    "nest-asyncio2",
    "psutil",
)
"""Distributions whose behaviour the package stands on, so that the doctor says where one is newer than tested."""


def minors(text: str) -> list[int]:
    """Return the minor versions of Python 3 that a text names, in order."""
    return [int(minor) for minor in re.findall(r"\b3\.(\d+)\b", text)]


def why_not(lock: str | None) -> str | None:
    """Say why this Python does not fit a lock, or without one the project; ``None`` when it does."""
    if lock is None:
        (least,) = minors(next(line for line in PROJECT.read_text().splitlines() if line.startswith("requires-python")))
        fits, wanted = sys.version_info >= (3, least), f"The project needs CPython 3.{least} or later"
        advice = "make PYTHON=/path/to/python takes another one"
    else:
        known = minors((ROOT / lock).read_text().partition("\n")[0])
        fits, wanted = sys.version_info[:2] in [(3, minor) for minor in known], f"{lock} fits CPython {_range(known)}"
        advice = "make PYTHON=/path/to/python takes another one, make test-newest needs no lock"
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if not fits or sys.implementation.name != "cpython" or free_threaded or sys.platform not in PLATFORMS:
        version = ".".join(map(str, sys.version_info[:3])) + (" without a lock of its own" if free_threaded else "")
        found = f"{platform.python_implementation()} {version} on {PLATFORMS.get(sys.platform, sys.platform)}"
        return f"{wanted} on {' and '.join(PLATFORMS.values())}; {sys.executable} is {found}: {advice}."
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian has it in a package of its own
        import venv  # noqa: F401, PLC0415 - as above
    except ImportError:
        return f"{sys.executable} cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv."
    return None


def _range(known: list[int]) -> str:
    return f"3.{known[0]}" + (f" to 3.{known[-1]}" if known[1:] else "")


def normal(requirement: str) -> str:
    """Return the name in a requirement, written the one way in which two names can be compared."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


def read_project() -> dict[str, list[str]]:
    """Return the requirements of each extra, with those of the package itself among them; `BUILD` for the wheel."""
    import tomllib  # noqa: PLC0415 - of Python 3.11, and `fits` has an answer for older ones

    content = tomllib.loads(PROJECT.read_text())
    project, extras = content["project"], content["project"]["optional-dependencies"]

    def whole(requirements: list[str]) -> list[str]:
        own = f"{project['name']}["
        inner = [
            name for line in requirements if line.startswith(own) for name in line[len(own) : -1].split(",")
        ]  # "flyte-notebook[lab]" in another extra
        return [line for line in requirements if not line.startswith(own)] + [
            line for name in inner for line in whole(extras[name])
        ]

    found = {name: project["dependencies"] + whole(requirements) for name, requirements in extras.items()}
    return {**found, BUILD: content["build-system"]["requires"]}


def blocks(lock: str) -> list[str]:
    """Return the entries of a lock: a pinned requirement, its hashes, and what it came by."""
    return re.findall(r"^[a-z0-9].*\n(?: +.*\n)*", lock, flags=re.MULTILINE)


def select(lock: str, requirements: list[str]) -> str:
    """Return the entries of a lock that requirements need, with all that these stand on."""
    entries = [
        (normal(block), {normal(name) for name in re.split("[ ,]+", block.partition("# via ")[2]) if name}, block)
        for block in blocks(lock)
    ]
    names = {normal(requirement) for requirement in requirements}
    while more := {name for name, parents, _ in entries if parents & names} - names:
        names |= more
    return "".join(block for name, _, block in entries if name in names)


def update(options: list[str]) -> None:
    """Make both locks anew from the registry, whatever this machine is set up with, and write the tested versions."""
    project = read_project()
    pythons = [f"3.{minor}" for minor in minors(" ".join(re.findall(r"Python :: 3\.\d+", PROJECT.read_text())))]
    newest, oldest = ROOT / "requirements.lock", ROOT / "requirements-oldest.lock"
    compile_lock(newest, pythons, WHEELS, ["--extra=lab", "--extra=test", "--extra=lint", *options], project[BUILD])
    lowest = ["--extra=lab", "--extra=test", "--resolution=lowest-direct", *options]
    compile_lock(oldest, pythons[:1], WHEELS[:1], lowest, project[BUILD])
    write(ROOT / "flyte_notebook" / "core" / "tested.py", tested(newest.read_text()))


def compile_lock(
    lock: Path, pythons: list[str], machines: tuple[str, ...], options: list[str], more: list[str]
) -> None:
    """Write a lock for some Pythons, once all that it holds is known to be there as wheels for them."""
    with tempfile.TemporaryDirectory() as place:
        new = Path(place, lock.name)
        if lock.exists():
            shutil.copy(lock, new)  # what need not change stays, unless --upgrade is among the options
        uv(
            *("pip", "compile", "pyproject.toml", "-", "--universal", f"--python-version={pythons[0]}"),
            *("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-header"),
            *("--annotation-style=line", f"--output-file={new}", *options),
            text="\n".join(more),
        )
        for machine in machines:
            for python in pythons:
                uv(
                    *("pip", "install", "--dry-run", "--require-hashes", "--no-deps", "--only-binary=:all:"),
                    *(f"--target={place}/none", f"--python-version={python}", f"--python-platform={machine}"),
                    *("-r", str(new)),
                )
        head = f"# For CPython {', '.join(pythons)} on {' and '.join(PLATFORMS.values())}. Made by: make update-lock\n"
        write(lock, head + "".join(blocks(new.read_text())))


def write(path: Path, text: str) -> None:
    """Write a file where it is not what it should be: `make` does again what stands on one that is written."""
    if not path.exists() or text != path.read_text():
        path.write_text(text)


def uv(*arguments: str, text: str = "") -> None:
    """Run uv without settings of this machine or user: what it finds is what everybody finds."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    command = [sys.executable, "-m", "uv", "--no-config", "--quiet", *arguments]
    subprocess.run(command, input=text, text=True, check=True, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)


def tested(lock: str) -> str:
    """Return the module that holds the locked versions of what the package relies on."""
    versions: dict[str, str] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock, flags=re.MULTILINE):
        if name in RELIED and (name not in versions or numbers(versions[name]) < numbers(version)):
            versions[name] = version
    return f'''"""The versions of other people's libraries that the tests ran with. Written by `make update-lock`."""

from __future__ import annotations

from typing import Final

VERSIONS: Final[dict[str, str]] = {{
{"".join(f"    {json.dumps(name)}: {json.dumps(versions[name])},{chr(10)}" for name in RELIED)}}}
"""By name of the distribution; where the lock holds several, for several Pythons, the newest."""
'''


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, which order those of releases."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def main(action: str, *arguments: str) -> int:
    """Do what is asked for; the status to exit with."""
    if action == "fits":
        if (why := why_not(*(arguments or [None]))) is not None:
            print(why)
        return int(why is not None)
    if action == "select":
        lock, extra = arguments
        sys.stdout.write(select((ROOT / lock).read_text(), read_project()[extra]))
    elif action == "update":
        update(list(arguments))
    else:
        raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
