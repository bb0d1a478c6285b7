"""Directories for values of runs that are too large for a message, and for files that the SDK writes for a run.

There are two places, which only this user may use. Files in transfer are in the session's directory: they are removed
after reading, with their run, or at the end of the session in any case. A directory in the user's cache has files that
outlive a session: results that the SDK's cache refers to, files of a returned File or Dir, and reports. It may be
deleted: then cached results are computed again.

A run has its own directory there, which the session claims until the run is over, so that a killed notebook leaves no
incomplete files. If the user's home cannot be used, all files are in the session's directory, and are removed with it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import flyte
import flyte.storage

from flyte_notebook.core import private
from flyte_notebook.core.bound import unique
from flyte_notebook.sdk import data_paths, seam
from flyte_notebook.sdk.failures_without_attempt import not_run
from flyte_notebook.sdk.inputs import task_of_inputs
from flyte_notebook.sdk.spooled import spooled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

LASTING = "values"
RAW_DATA = "raw_data"
WHOLE = frozenset({bool, int, float, complex, str, bytes, bytearray, type(None), None})
WHOLE_LIBRARIES = frozenset({"datetime", "numpy", "pandas", "polars", "pyarrow"})
"""Values of these types and libraries are complete when they are returned: they refer to no file."""
LAZY = frozenset({"LazyFrame"})
"""Except these of polars, which read their file when the values are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The two places of a session. ``lasting`` is ``None`` where there is none, and ``why`` says why.

    ``cached`` is whether results of this process stay in the SDK's cache: in the worker of a cached task.
    """

    session: private.Directory
    lasting: private.Directory | None
    why: str = ""
    cached: bool = False

    @classmethod
    def of(cls, session: private.Directory) -> Places:
        """Return the places of a new session."""
        try:
            return cls(session=session, lasting=private.lasting(private.cache_directory() / LASTING))
        except (OSError, RuntimeError) as error:
            return cls(session=session, lasting=None, why=str(error))

    def new_value(self) -> str:
        """Return the path of a new file for a value."""
        stays = self.cached and self.lasting is not None and task_of_inputs.get() is None
        return (self.lasting if stays and self.lasting is not None else self.session).new_path()

    @contextmanager
    def of_run(self, task: Any) -> Iterator[tuple[str, str]]:
        """Give paths for raw data and metadata to one run of a task, and remove temporary files afterwards."""
        from flyte_notebook.limiters import life  # noqa: PLC0415 - a worker begins no run

        try:
            home = self._new_home()
        except OSError as error:
            raise not_run(error, task.name) from error
        name, raw_data = Path(home.path).name, home
        if not stays(task):
            with contextlib.suppress(OSError):
                raw_data = private.make(f"{self.session.path}/{name}")
        claim, failed = "", True
        with contextlib.suppress(OSError):  # on a full disk it is not claimed, but is removed with the run all the same
            claim = life.claim(self.session, home)
        try:
            yield f"{raw_data.path}/{RAW_DATA}", f"{home.path}/metadata"
            failed = False
        finally:
            _, _, files = next(os.walk(self.session.path), ("", [], []))  # a tenth of the time that glob needs
            for file in files:
                if file.startswith(f"{name}-"):
                    with contextlib.suppress(OSError):
                        private.remove(f"{self.session.path}/{file}")
            if raw_data is not home and not failed:  # the inputs of a failed run may be needed again
                raw_data.remove()
            _remove_empty(home.path)
            if claim:
                with contextlib.suppress(OSError):
                    private.remove(claim)

    def _new_home(self) -> private.Directory:
        """Make the directory of a run: in the lasting place if possible, else in the session's. Raises OSError."""
        if self.lasting is not None:
            with contextlib.suppress(OSError):  # a full disk, or a quota
                return private.make(self.lasting.new_path())
        return private.make(self.session.new_path())

    def of_attempt(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a dispatch; files of a cached task are kept, even if those of its run are not."""
        raw_data: Any = call["raw_data_path"]
        goes = raw_data.path.startswith(f"{self.session.path}/")
        if self.lasting is None or not goes or not seam.is_cached(call["task"]):
            return call
        path = f"{self.lasting.new_path()}/{_run_of(raw_data.path)}/{RAW_DATA}"
        return {**call, "raw_data_path": replace(raw_data, path=path)}


_places: Places | None = None


def use(places: Places) -> Callable[[], None]:
    """Use these places for values and for the SDK's files from now on; return a function to undo this."""
    _set(places)
    undo = [
        data_paths.replace_names(),
        data_paths.replace_paths(_of_run),
        data_paths.replace_pickles(_new_pickle, _note_pickle),
    ]

    def back() -> None:
        for one in reversed(undo):
            one()
        _set(None)

    return back


def _set(places: Places | None) -> None:
    global _places  # noqa: PLW0603 - there is one session in a process
    if _places is not None and _places.lasting is not None:
        private.forget(_places.lasting)
    _places = places
    if _places is not None and _places.lasting is not None:
        private.know(_places.lasting)


def _of_run(task: Any) -> AbstractContextManager[tuple[str, str]]:
    assert _places is not None
    if _places.lasting is not None and not private.exists(_places.lasting.path):
        _set(Places.of(_places.session))  # its user deleted it
    return _places.of_run(task)


def current() -> Places | None:
    """Return the places of this process, ``None`` where no session is open."""
    return _places


def new_value() -> str:
    """Return the path of a new local file for values that are too large to be sent inline."""
    raw_data: Any = flyte.ctx().raw_data_path  # None outside of a run, whatever its annotation says
    named = raw_data is not None and (_places is None or data_paths.is_of_user())
    if not named or flyte.storage.is_remote(raw_data.path):
        return new_transport()
    os.makedirs(raw_data.path, exist_ok=True)
    return os.path.join(raw_data.path, unique())


def new_transport() -> str:
    """Return the path of a new file for values that is removed after it is read."""
    if _places is None:
        return os.path.join(tempfile.gettempdir(), f"fnb-{unique()}")
    return _places.new_value()


def stays(task: Any) -> bool:
    """Whether files of a run of a task may be used later.

    By a cache, by its result, or by an input that stores the path it was uploaded to.
    """
    interface = task.native_interface
    whole = all(_is_whole(kind) for kind in interface.outputs.values())
    return seam.is_cached(task) or not whole or any(_remembers(kind) for kind, _ in interface.inputs.values())


def _remembers(kind: Any, around: tuple[type, ...] = ()) -> bool:
    """Whether values of a type are uploaded once, at their first use as an input: tables and files of the SDK.

    ``around`` are classes that contain the type.
    """
    if any(_remembers(argument, around) for argument in get_args(kind)):
        return True
    if not isinstance(kind, type) or kind in around:
        return False
    around = (*around, kind)
    parts: Any = {} if not hasattr(kind, "__dataclass_fields__") and not hasattr(kind, "model_fields") else _hints(kind)
    return kind.__module__.startswith("flyte.io") or any(_remembers(part, around) for part in parts.values())


def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except Exception:  # noqa: BLE001 - a user's annotation may refer to anything
        return {}


def _is_whole(kind: Any) -> bool:
    arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
    if arguments:
        return all(_is_whole(argument) for argument in arguments)
    if isinstance(kind, list):  # the arguments of a function
        return False
    library = getattr(kind, "__module__", "").partition(".")[0]
    return kind in WHOLE or (library in WHOLE_LIBRARIES and getattr(kind, "__name__", "") not in LAZY)


def _new_pickle() -> str | None:
    """Return the path for a value that the SDK pickles, ``None`` if the SDK, or its user, chooses the path."""
    raw_data: Any = flyte.ctx().raw_data_path
    if _places is None or raw_data is None or data_paths.is_of_user():
        return None
    path = _places.new_value()
    if task_of_inputs.get() is None and path.startswith(f"{_places.session.path}/"):
        return f"{_places.session.path}/{_run_of(raw_data.path)}-{unique()}"  # it is removed with its run
    return path


def _run_of(raw_data: str) -> str:
    """Return the name of a run's directory."""
    return Path(raw_data).parent.name


def _note_pickle(path: str, size_bytes: int) -> None:
    action: Any = flyte.ctx().action
    if task_of_inputs.get() is not None and action is not None:
        spooled.add(action.run_name or action.name, path, size_bytes)


def _remove_empty(path: str) -> None:
    """Remove a directory and its subdirectories, if they contain no files."""
    with contextlib.suppress(OSError):
        for directory, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
