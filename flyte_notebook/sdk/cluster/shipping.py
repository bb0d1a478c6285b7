"""A cell's task that a pod can load which has flyte and cloudpickle, and not this package.

The SDK sends a task as a pickle. That of ours holds the sources of this package as an archive and a short program, as
text, which is run when the pickle is loaded: it puts the archive on ``sys.path``, and loads the task from there. Text
runs on any Python; functions and classes of the notebook are pickled by value, and fit only the minor version that
they were compiled by, so the program refuses another one by name.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyte_notebook.cells.values import inline_only
from flyte_notebook.sdk.celltask import CellTask
from flyte_notebook.sdk.cluster import pod
from flyte_notebook.worker.values import pickling

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOMS = ("cells", "core", "history", "limiters", "sdk", "worker")
"""The parts of this package that are sent; a pod imports few of their modules."""

_BOOT = """
def load(archives, digest, python, by_value, payload):
    import os, sys, tempfile
    if by_value and sys.version_info[:2] != python:
        raise RuntimeError(
            "the image has Python %d.%d and the notebook Python %d.%d: %s cannot be sent; give an image with the "
            "notebook's Python, or define it in the cell" % (*sys.version_info[:2], *python, by_value)
        )
    if "flyte_notebook.sdk" not in sys.modules:
        directory = tempfile.mkdtemp(prefix="fnb-")
        for name, archive in archives.items():
            place = os.path.join(directory, "%s-%s.zip" % (name, digest))
            with open(place, "wb") as file:
                file.write(archive)
            sys.path.insert(0, place)
        from flyte_notebook.sdk.cluster import pod
        pod.here = True
    from flyte_notebook.sdk.cluster import pod
    return pod.loaded(payload)
"""
_RUN_BOOT = "(exec(boot, space), space['load'](*arguments))[1]"
_SAME_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(kw_only=True)
class ClusterTask(CellTask):
    """The task of a cell on a cluster.

    ``environment`` is its environment, to which the SDK keeps only a weak reference. ``by_value`` names the functions
    and classes of the notebook that it is sent with, ``modules`` is an archive of the user's own modules.
    ``inline_only``: there are no keys here to read the cluster's bucket with. ``project`` and ``domain`` are those to
    run in, ``None`` for those of ``flyte.init``.
    """

    environment: Any = None
    by_value: str = ""
    modules: bytes = b""
    project: str | None = None
    domain: str | None = None
    inline_only: bool = False

    @classmethod
    def of(cls, task: CellTask, **settings: Any) -> ClusterTask:
        """Return the task of a cell as one for a cluster."""
        shared = {field.name: getattr(task, field.name) for field in fields(task) if field.init}
        return cls(**{**shared, **settings})

    def __getstate__(self) -> dict[str, Any]:
        """Return it without its environment, as the SDK does with its own reference."""
        return {**super().__getstate__(), "environment": None}  # type: ignore[no-untyped-call]  # the SDK's is not typed

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return what loads it anywhere; see the module's text."""
        state = self.__getstate__()
        archives = {"flyte_notebook": _archive()} | ({"modules": self.modules} if self.modules else {})
        arguments = (
            *(archives, hashlib.sha256(b"".join(archives.values())).hexdigest()[:16]),
            *(sys.version_info[:2], self.by_value, pickling.dumps((type(self), state), name="the task")),
        )
        return eval, (_RUN_BOOT, {"boot": _BOOT, "space": {}, "arguments": arguments})

    async def execute(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the cell in this process, sampled and with the facts of an error in the log, and return its results."""
        inline_only.set(self.inline_only and pod.here)
        with pod.watched() if pod.here else nullcontext():
            return await super().execute(*args, **kwargs)


@cache
def _archive() -> bytes:
    """Return the sources as a ZIP file, the same bytes each time; the package itself is empty in it."""
    top = Path(__file__).parent.parent.parent
    paths = sorted(path for room in ROOMS for path in (top / room).rglob("*.py"))
    texts: Mapping[str, bytes] = {
        "__init__.py": b'"""The part of flyte_notebook that runs a cell on a cluster."""\n',
        **{str(path.relative_to(top)): path.read_bytes() for path in (top / "errors.py", *paths)},
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(f"{top.name}/{name}", _SAME_TIME), text, zipfile.ZIP_DEFLATED)
    return file.getvalue()
