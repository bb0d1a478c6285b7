"""Pickles notebook code and values; the only module that uses cloudpickle.

Five things are added to cloudpickle:

- code is pickled with all its parts, its file name included, whatever the version of cloudpickle does (`code_objects`);
- the sentinels of `dataclasses` are pickled by name. cloudpickle pickles them by value; then ``field.default is
  MISSING`` is false and every dataclass defined in a notebook is broken on the other side;
- *namespace sharing*: a function whose ``__globals__`` is the notebook's namespace is bound, on the loading side, to
  that side's own namespace (``__main__`` of the worker, the user namespace of the kernel) instead of a private copy, so
  that a function that sets a global or calls another function behaves as it does in a plain cell;
- *sources*: the text of notebook cells, kept in `linecache` only, is sent along, so that tracebacks and
  `inspect.getsource` work in a process that never ran the cells;
- values that refer to something outside of the process (a mapped file, shared memory) are opened again (`outside`).

Classes of ``__main__`` keep their identity over a round trip (cloudpickle tracks them); a class that exists already on
the loading side is not changed.
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import io
import linecache
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import IO, Any, TypeAlias

import cloudpickle

from flyte_notebook.core import private
from flyte_notebook.worker.values import elsewhere, outside, sharing, wrapped
from flyte_notebook.worker.values.classes import KnownClasses
from flyte_notebook.worker.values.code_objects import global_names, reduce_code, submodules_used
from flyte_notebook.worker.values.ordinary import errors_only
from flyte_notebook.worker.values.unpicklable import PicklingProblem, locate

__all__ = [
    "CellPickler",
    "CellUnpickler",
    "PicklingProblem",
    "by_name_everywhere",
    "dump",
    "dumps",
    "dumps_with_sources",
    "explain",
    "install_sources",
    "keep_code_whole",
    "load",
    "loads",
    "sources",
    "sources_of",
]

PROTOCOL = 5

Sources: TypeAlias = dict[str, list[str]]
"""Lines of code by file name, for files that exist in `linecache` only."""

_CACHING: type = type(functools.lru_cache(lambda: None))

_SENTINEL_NAMES = ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")


def _by_name(sentinel: object) -> str:
    return next(name for name in _SENTINEL_NAMES if getattr(dataclasses, name, None) is sentinel)


def _lost_by_pickle() -> dict[type, Callable[[Any], Any]]:
    """Return the types of those sentinels that pickle copies; from Python 3.15 on it pickles them by name itself."""
    sentinels = [getattr(dataclasses, name) for name in _SENTINEL_NAMES if hasattr(dataclasses, name)]
    return {type(one): _by_name for one in sentinels if pickle.loads(pickle.dumps(one)) is not one}  # noqa: S301 - our own


_SENTINELS: dict[type, Callable[[Any], Any]] = _lost_by_pickle()


def by_name_everywhere() -> None:
    """Let every pickler of this process pickle the sentinels of `dataclasses` by name, including the SDK's picklers.

    Changes `copyreg`, so it is for workers, where the SDK pickles with a cloudpickle of its own. Idempotent.
    """
    for sentinel_type, reduce in _SENTINELS.items():
        copyreg.pickle(sentinel_type, reduce)


def keep_code_whole() -> Callable[[], None]:
    """Let cloudpickle in this process pickle code with its file name, as ours does; return a function to undo it.

    The SDK pickles values with cloudpickle itself: functions among them would lose their lines. Such pickles can be
    loaded without this package.
    """
    table = cloudpickle.Pickler.dispatch_table
    before = table[types.CodeType]
    table[types.CodeType] = reduce_code

    def undo() -> None:
        if table.get(types.CodeType) is reduce_code:
            table[types.CodeType] = before

    return undo


class CellPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickler of notebook code and values; see the module's text.

    ``namespace`` is the notebook's namespace; its functions are shared, all others are pickled by cloudpickle. The
    globals that shared functions read are pickled with them, except those in ``without``: names that the other side
    has, or gets in another way. ``take_buffer`` may store large buffers outside of the pickle (`Spool.take_buffer`).
    Several `dump` calls on one pickler share its memo, as one unpickler's `load` calls do. Errors are those of pickle;
    `explain` turns them into a `PicklingProblem`.
    """

    def __init__(
        self,
        file: IO[bytes] | Any,
        namespace: dict[str, Any] | None = None,
        *,
        without: Collection[str] = (),
        take_buffer: Callable[[pickle.PickleBuffer], bool] | None = None,
    ) -> None:
        self.files: set[str] = set()
        """The file names of all code pickled so far."""
        self.reaches_outside = False
        """Whether a value was pickled whose content is outside of the pickle: a mapped file, shared memory."""
        self._travellers: list[Any] = []
        note_file = self.files.add

        def reduce_code_noting_file(code: types.CodeType) -> Any:
            note_file(code.co_filename)
            return reduce_code(code)

        # The C pickler's __init__ reads it. A closure over the set instead of a bound method avoids a reference cycle.
        self.dispatch_table = ChainMap(
            {**_SENTINELS, types.CodeType: reduce_code_noting_file}, cloudpickle.Pickler.dispatch_table
        )
        super().__init__(file, protocol=PROTOCOL, buffer_callback=take_buffer)
        self._namespace = namespace
        self._without = frozenset(without)
        self._stand_in = sharing.NamespaceStandIn()

    def dump(self, obj: Any) -> None:
        """Write an object. Raises errors only: an exit that user code raises, for example, becomes one."""
        with errors_only():
            super().dump(obj)

    def reducer_override(self, obj: Any) -> Any:
        """Reduce functions of the shared namespace as this module does, all other objects as cloudpickle does."""
        kind = type(obj)
        if (kind is types.FunctionType or issubclass(kind, type)) and getattr(obj, "__module__", None) == "__main__":
            self._travellers.append(obj)
        if kind is type:  # most of what gets here
            return super().reducer_override(obj)
        if kind is io.TextIOWrapper and obj not in {sys.stdin, sys.stdout, sys.stderr}:
            raise TypeError("an open file cannot be pickled")  # cloudpickle makes another object of it
        reached = outside.reduced(obj)
        if reached is not None:
            self.reaches_outside = True
            return reached
        if kind is types.ModuleType and (lost := elsewhere.lost(obj)):
            raise outside.UnreachableError(lost)
        made_again = wrapped.reduced(obj)
        if made_again is not None and not (kind is types.FunctionType and _importable(obj)):
            return made_again
        if kind is types.FunctionType and obj.__globals__ is self._namespace and not _importable(obj):
            return self._reduce_shared(obj)
        if kind is _CACHING and not _importable(obj) and type(obj.__wrapped__) is types.FunctionType:
            return self._reduce_caching(obj)
        return super().reducer_override(obj)

    def new_travellers(self) -> list[Any]:
        """Return the classes and functions of ``__main__`` that were pickled since the last call."""
        travellers, self._travellers = self._travellers, []
        return travellers

    def _reduce_caching(self, caching: Any) -> Any:
        """Reduce a function with ``functools.lru_cache``; pickle would write only its name, unknown in a worker."""
        function = caching.__wrapped__
        if function.__globals__ is not self._namespace:
            return sharing.caching_function, (function, caching.cache_parameters())
        _, arguments, state, *_ = self._reduce_shared(function)
        # The function is made empty and filled as state: it may refer to itself through its cache.
        return (
            sharing.caching_shared,
            (*arguments, caching.cache_parameters()),
            state,
            None,
            None,
            sharing.set_caching_state,
        )

    def _reduce_shared(self, function: types.FunctionType) -> Any:
        namespace = function.__globals__
        wanted = [name for name in global_names(function.__code__) if name not in self._without and name in namespace]
        state = {
            "globals": {name: namespace[name] for name in wanted},
            "closure": [_cell_contents(cell) for cell in function.__closure__ or ()],
            "dict": dict(function.__dict__),
            "attributes": {
                "__qualname__": function.__qualname__,
                "__module__": function.__module__,
                "__doc__": function.__doc__,
                "__defaults__": function.__defaults__,
                "__kwdefaults__": function.__kwdefaults__,
                **_annotations(function),
            },
            # loaded for their effect: "import a.b" in the notebook lets a function use a.b through the name a
            "submodules": submodules_used(function.__code__, (namespace[name] for name in wanted)),
        }
        arguments = (function.__code__, self._stand_in, function.__name__)
        return sharing.shared_function, arguments, state, None, None, sharing.set_shared_function_state


class CellUnpickler(pickle.Unpickler):
    """Loads the output of a `CellPickler`.

    Shared functions are bound to ``namespace``: ``__main__`` of this process when it is ``None``. A class that exists
    already, because it was defined or loaded here before, is not changed. ``buffers`` are those stored outside of the
    pickle, in order.
    """

    def __init__(
        self,
        file: IO[bytes] | Any,
        namespace: dict[str, Any] | None = None,
        *,
        buffers: Iterable[Any] | None = None,
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._namespace = namespace
        self._classes = KnownClasses()

    def load(self) -> Any:
        """Read an object. Raises errors only, as `CellPickler.dump`."""
        with errors_only():
            return super().load()

    def renew_classes(self, renew: bool) -> None:  # noqa: FBT001 - the name says what it means
        """Set whether the following loads also renew classes that exist already."""
        self._classes.renew = renew

    def find_class(self, module: str, name: str) -> Any:
        """Return the object with a name in the pickle; called once per distinct name."""
        if module == sharing.__name__ and name == sharing.shared_namespace.__name__ and self._namespace is not None:
            namespace = self._namespace
            return lambda: namespace
        found = super().find_class(module, name)
        if module == cloudpickle.cloudpickle.__name__:
            if name in {"_make_skeleton_class", "_make_skeleton_enum"}:
                return self._classes.noting_known(found)
            if name == "_class_setstate":
                return self._classes.skipping_known(found)
        return found


def dump(obj: Any, file: IO[bytes] | Any, namespace: dict[str, Any] | None = None, *, name: str = "value") -> None:
    """Write ``obj`` to a binary file; raises `PicklingProblem`, whose path begins with ``name``."""
    try:
        CellPickler(file, namespace).dump(obj)
    except MemoryError:
        raise
    except Exception as error:
        raise explain(obj, error, name=name, namespace=namespace) from error


def dumps(obj: Any, namespace: dict[str, Any] | None = None, *, name: str = "value") -> bytes:
    """Return ``obj`` as bytes; raises `PicklingProblem`, whose path begins with ``name``."""
    file = io.BytesIO()
    dump(obj, file, namespace, name=name)
    return file.getvalue()


def load(file: IO[bytes] | Any, namespace: dict[str, Any] | None = None) -> Any:
    """Read one object from a binary file; ``namespace`` as in `CellUnpickler`."""
    return CellUnpickler(file, namespace).load()


def loads(data: bytes, namespace: dict[str, Any] | None = None) -> Any:
    """Return the object that ``data`` holds; ``namespace`` as in `CellUnpickler`."""
    return load(io.BytesIO(data), namespace)


def dumps_with_sources(
    obj: Any, namespace: dict[str, Any] | None = None, *, without: Collection[str] = (), name: str = "value"
) -> tuple[bytes, Sources]:
    """Return ``obj`` as bytes, and the text of the notebook code in it; raises `PicklingProblem`."""
    file = io.BytesIO()
    pickler = CellPickler(file, namespace, without=without)
    try:
        pickler.dump(obj)
    except MemoryError:
        raise
    except Exception as error:
        raise explain(obj, error, name=name, namespace=namespace) from error
    return file.getvalue(), sources_of(pickler.files)


def sources(obj: Any, namespace: dict[str, Any] | None = None) -> Sources:
    """Return the text of all notebook code reachable from ``obj``."""
    return dumps_with_sources(obj, namespace)[1]


def sources_of(files: Iterable[str]) -> Sources:
    """Return the lines of those files that are in `linecache` but not on disk."""
    return {
        file: list(linecache.getlines(file))
        for file in sorted(files)
        if file in linecache.cache and not private.exists(file)
    }


def install_sources(sources: Mapping[str, Iterable[str]]) -> None:
    """Put lines of code into `linecache`, with no time stamp, so that `linecache.checkcache` keeps them."""
    for file, text in sources.items():
        lines = list(text)
        linecache.cache[file] = (sum(map(len, lines)), None, lines, file)


def explain(
    obj: Any, error: Exception, *, name: str = "value", namespace: dict[str, Any] | None = None
) -> PicklingProblem:
    """Return why ``obj`` cannot be pickled: the path of attributes and items to the part that cannot.

    Takes at most about two seconds, after which the path ends early.
    """

    def attempt(part: Any) -> Exception | None:
        try:
            CellPickler(_Nowhere(), namespace).dump(part)
        except MemoryError:
            raise
        except Exception as problem:
            return problem
        return None

    return locate(obj, error, name=name, attempt=attempt, reads=_globals_read)


class _Nowhere:
    """A file that discards its data."""

    def write(self, data: Any) -> int:
        return len(data)


def _globals_read(function: types.FunctionType) -> dict[str, Any]:
    names = global_names(function.__code__)
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


def _importable(function: Any) -> bool:
    """Whether a function can be found by importing its module; this is false for ``__main__``."""
    if function.__module__ == "__main__":
        return False
    module = sys.modules.get(function.__module__ or "")
    found: Any = module
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return module is not None and found is function


def _annotations(function: types.FunctionType) -> dict[str, Any]:
    """Return the attribute with a function's annotations. Since Python 3.14 they are computed at the first access."""
    annotate = getattr(function, "__annotate__", None)
    return {"__annotations__": function.__annotations__} if annotate is None else {"__annotate__": annotate}


def _cell_contents(cell: types.CellType) -> tuple[Any, ...]:
    """Return a tuple with the contents, or an empty tuple for an empty cell."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()
