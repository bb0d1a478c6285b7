"""Where the SDK's local mode writes, and how it names what it writes; its private names for that stand here, once.

By itself it writes to ``/tmp/flyte``, where everybody may look and whoever comes first may own the directory, and draws
names from ``random`` and `uuid`, which a seed or a test makes draw the same ones again. A contract test holds each name
below to what is expected of it here.
"""

from __future__ import annotations

import contextlib
import copy
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import flyte
import flyte.models
import flyte.storage
from flyte import _context, _run
from flyte.models import RawDataPath
from flyte.types import _pickle

from flyte_notebook.core import private
from flyte_notebook.core.bound import unique
from flyte_notebook.sdk import seam

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

PICKLE: Any = vars(_pickle)["cloudpickle"]
"""What the SDK pickles values with: bytes that it loads without us."""


def replace_names() -> Callable[[], None]:
    """Let the SDK name runs and files by names that nobody can make it draw twice; return what undoes it."""
    module: Any = flyte.models
    before_run, before_path = module.generate_random_name, RawDataPath.get_random_remote_path

    def run_name() -> str:
        digits = unique()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def remote_path(self: RawDataPath, file_name: str | None = None) -> str:
        """Return a path below a directory that no other call has; the SDK and its user open it by name."""
        private.check_above(f"{self.path}/")
        found: str = before_path(replace(self, path=f"{self.path.rstrip('/')}/{unique()}"), file_name)
        return found

    module.generate_random_name = run_name
    RawDataPath.get_random_remote_path = remote_path  # type: ignore[method-assign]  # it has no other seam

    def undo() -> None:
        module.generate_random_name = before_run
        RawDataPath.get_random_remote_path = before_path  # type: ignore[method-assign]  # as above

    return undo


def replace_paths(of_run: Callable[[Any], AbstractContextManager[tuple[str, str]]]) -> Callable[[], None]:
    """Give local runs paths for raw data and for metadata, where who runs them names none; return what undoes it.

    ``of_run(task)`` gives both for one run, and is left when that is over. Where the SDK has no such seam nothing is
    changed: then the probe of it says what is lost.
    """
    runner: Any = getattr(_run, "_Runner", None)
    before = getattr(runner, "_run_local", None)
    if before is None:
        return lambda: None

    async def run_local(self: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
        seam.run_variables.set(seam.variables_of(self))  # in the context of this run
        with of_run(task) as (raw_data, metadata):
            again = copy.copy(self)  # one object may begin many runs
            again._metadata_path = self._metadata_path or metadata
            if self._raw_data_path is not None:
                return await before(again, task, *args, **kwargs)
            again._raw_data_path = raw_data
            context = _context.internal_ctx()
            made: Any = context.data.raw_data_path
            if made is not None:
                with contextlib.suppress(OSError):  # the SDK makes an empty directory for each run, and forgets it
                    os.rmdir(made.path)
            with context.new_raw_data_path(RawDataPath(path=raw_data)):
                return await before(again, task, *args, **kwargs)

    runner._run_local = run_local

    def undo() -> None:
        runner._run_local = before

    return undo


def replace_pickles(place: Callable[[], str | None], note: Callable[[str, int], object]) -> Callable[[], None]:
    """Let values that the SDK pickles lie where ``place()`` says; return what undoes it.

    ``None`` from it leaves a value to the SDK. ``note(path, size_bytes)`` hears of each that was written. A value is
    loaded only if its file is this user's, wherever it lies: plain Flyte keeps cached ones where others may write.
    """
    pickle: Any = _pickle.FlytePickle
    before = {name: vars(pickle)[name] for name in ("to_pickle", "from_pickle")}
    write_there, read_there = pickle.to_pickle, pickle.from_pickle

    async def to_pickle(value: Any) -> Any:
        path = place()
        if path is None:
            return await write_there(value)
        data = PICKLE.dumps(value)  # whole, as the SDK does: a container would need as much
        private.write(path, data)
        note(path, len(data))
        return path

    async def from_pickle(uri: str) -> Any:
        if flyte.storage.is_remote(uri):
            return await read_there(uri)
        with private.read(uri) as file:
            return PICKLE.loads(file.read())

    pickle.to_pickle, pickle.from_pickle = staticmethod(to_pickle), staticmethod(from_pickle)

    def undo() -> None:
        for name, method in before.items():
            setattr(pickle, name, method)

    return undo


def pickle_transformer() -> Any:
    """Return what makes literals of values whose types the SDK does not know."""
    return _pickle.FlytePickleTransformer()  # type: ignore[no-untyped-call]  # the SDK's is not typed


def is_of_user() -> bool:
    """Whether the run here writes its raw data to a path that its user named."""
    found: Any = flyte.ctx().raw_data_path  # None outside of a run, whatever its annotation says
    return found is not None and private.known_above(f"{found.path}/") is None
