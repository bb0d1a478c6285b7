"""The files that a pod sees: an image with Python, the SDK and what that needs, and nothing of the client.

Where this process may mount, the image is put together from what is installed here, read-only, in a mount namespace of
this process: system directories, the interpreter, and a virtual environment with the distributions that ``flyte`` and
``cloudpickle`` ask for. A pod changes its root to it. Elsewhere the virtual environment is a directory of links and a
pod sees everything; `Image.why_open` says why.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18  # mount(2)

ROOTS = ("/mnt", "/media", "/srv")
"""An empty file system is put over the first of them that is there, for this process alone."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc")
DEVICES = ("null", "zero", "full", "random", "urandom")
DISTRIBUTIONS = ("flyte", "cloudpickle")
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

A0 = """#!{python}
import sys
from flyte._bin.runtime import main
sys.exit(main())
"""


class Image:
    """Where a pod's files are; ``root`` is ``None`` when pods see what everybody sees."""

    def __init__(self, place: Path) -> None:
        self.root: Path | None = None
        self.why_open: str | None = None
        try:
            self.root = _own_root()
        except OSError as error:
            self.why_open = f"pods see the files of the client: {error}"
        self.venv = Path("/venv") if self.root is not None else place / "venv"
        outside = place / "venv" if self.root is None else self.root / "venv"
        _make_venv(outside, self.venv, mounted=self.root is not None)
        if self.root is not None:
            _mount("none", self.root, "", MS_REMOUNT | MS_RDONLY)


def _own_root() -> Path:
    """Make a root directory that only this process and its children see."""
    if sys.platform != "linux":
        raise OSError("only Linux has mount namespaces")
    root = next((Path(path) for path in ROOTS if Path(path).is_dir()), None)
    if root is None:
        raise OSError(f"none of {', '.join(ROOTS)} is there to put an image on")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("loopback-image", root, "tmpfs")
    for path in [Path(name) for name in SYSTEM] + [Path(sys.base_prefix)]:
        if path.is_symlink():
            Path(f"{root}{path}").symlink_to(path.readlink())
        elif path.is_dir() and not Path(f"{root}{path}").exists():
            _bind(path, Path(f"{root}{path}"))
    for name in DEVICES:
        _bind(Path("/dev", name), root / "dev" / name, flags=0)
    for name in ("dev/shm", "proc", "tmp", "home"):
        (root / name).mkdir(parents=True)
    return root


def _make_venv(outside: Path, inside: Path, *, mounted: bool) -> None:
    """Make a virtual environment at ``outside`` that pods know as ``inside``."""
    site = outside / SITE
    site.mkdir(parents=True)
    (outside / "bin").mkdir()
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    base = base if base.exists() else Path(os.path.realpath(sys.executable))
    (outside / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    (outside / "bin" / "python").symlink_to(base)
    script = outside / "bin" / "a0"
    script.write_text(A0.format(python=inside / "bin" / "python"))
    script.chmod(0o755)
    for source in _installed():
        if mounted:
            _bind(source, site / source.name)
        else:
            (site / source.name).symlink_to(source)


def _installed() -> list[Path]:
    """Return what the distributions of the image consist of: files and folders in our own site-packages."""
    found: dict[str, metadata.Distribution] = {}
    wanted = list(DISTRIBUTIONS)
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # needed on another platform
        wanted += [re.split(r"[^\w.-]", ask)[0] for ask in found[name].requires or () if "extra ==" not in ask]
    names = {path.parts[0] for one in found.values() for path in one.files or () if path.parts[0] != ".."}
    places = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    return [path for name in sorted(names - {"__pycache__"}) if (path := _first(places, name)) is not None]


def _first(places: list[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).exists()), None)


def _bind(source: Path, target: Path, *, flags: int = MS_RDONLY) -> None:
    """Show a file or a directory at another place, read-only: what a pod does must not reach what is installed here."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, target, "", MS_BIND | (MS_REC if source.is_dir() else 0))
    if flags:
        _mount("none", target, "", MS_REMOUNT | MS_BIND | flags)


def _mount(source: object, target: object, kind: str, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(str(source).encode(), str(target).encode(), kind.encode(), flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {target}: {os.strerror(number)}")
