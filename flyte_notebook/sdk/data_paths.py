"""Where the SDK's local mode writes files, and how it names them; the SDK's private names for this are here, once.

Unchanged, it writes to ``/tmp/flyte``, which all users may read and any user may create first, and takes names from
``random`` and `uuid`, which repeat them after a seed or in a test. A contract test checks each private name below.
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
"""The SDK's pickling of values: the SDK can load these bytes without this package."""


def replace_names() -> Callable[[], None]:
    """Let the SDK name runs and files by names that never repeat; return a function to undo this."""
    before_path = RawDataPath.get_random_remote_path

    def run_name() -> str:
        digits = unique()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def remote_path(self: RawDataPath, file_name: str | None = None) -> str:
        """Return a path in a directory that no other call returns; the SDK and the user open it by name."""
        private.check_above(f"{self.path}/")
        found: str = before_path(replace(self, path=f"{self.path.rstrip('/')}/{unique()}"), file_name)
        return found

    undo = contextlib.ExitStack()
    undo.callback(seam.replaced(flyte.models, generate_random_name=run_name))
    undo.callback(seam.replaced(RawDataPath, get_random_remote_path=remote_path))
    return undo.close


def replace_paths(of_run: Callable[[Any], AbstractContextManager[tuple[str, str]]]) -> Callable[[], None]:
    """Set paths for raw data and metadata of local runs if the caller sets none; return a function to undo this.

    ``of_run(task)`` is a context that gives both paths for one run. If the SDK has no such place, nothing is changed:
    then its probe reports the loss.
    """
    runner: Any = getattr(_run, "_Runner", None)
    before = getattr(runner, "_run_local", None)
    if before is None:
        return lambda: None

    async def run_local(self: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
        seam.run_variables.set(seam.variables_of(self))  # in the context of this run
        with of_run(task) as (raw_data, metadata):
            again = copy.copy(self)  # one object may start many runs
            again._metadata_path = self._metadata_path or metadata
            if self._raw_data_path is not None:
                return await before(again, task, *args, **kwargs)
            again._raw_data_path = raw_data
            context = _context.internal_ctx()
            made: Any = context.data.raw_data_path
            if made is not None:
                with contextlib.suppress(OSError):  # the SDK makes an empty directory for each run, and leaves it
                    os.rmdir(made.path)
            with context.new_raw_data_path(RawDataPath(path=raw_data)):
                return await before(again, task, *args, **kwargs)

    return seam.replaced(runner, _run_local=run_local)


def replace_pickles(place: Callable[[], str | None], note: Callable[[str, int], object]) -> Callable[[], None]:
    """Write values that the SDK pickles to the path from ``place()``; return a function to undo this.

    If this is ``None``, the SDK writes the value. ``note(path, size_bytes)`` is called for each written file. A value
    is loaded only if its file belongs to this user, in any directory: plain Flyte keeps cached values where other users
    may write.
    """
    pickle: Any = _pickle.FlytePickle
    write_there, read_there = pickle.to_pickle, pickle.from_pickle

    async def to_pickle(value: Any) -> Any:
        path = place()
        if path is None:
            return await write_there(value)
        data = PICKLE.dumps(value)  # all at once, as the SDK does: a container would need as much memory
        private.write(path, data)
        note(path, len(data))
        return path

    async def from_pickle(uri: str) -> Any:
        if flyte.storage.is_remote(uri):
            return await read_there(uri)
        with private.read(uri) as file:
            return PICKLE.loads(file.read())

    return seam.replaced(pickle, to_pickle=staticmethod(to_pickle), from_pickle=staticmethod(from_pickle))


def pickle_transformer() -> Any:
    """Return the transformer for values of types that the SDK does not know."""
    return _pickle.FlytePickleTransformer()  # type: ignore[no-untyped-call]  # the SDK's is not typed


def is_of_user() -> bool:
    """Whether the current run writes its raw data to a path that the user named."""
    found: Any = flyte.ctx().raw_data_path  # None outside of a run, whatever its annotation says
    return found is not None and private.known_above(f"{found.path}/") is None
