"""Digests that tell whether a value or a piece of code is the same as before; they are equal across kernels.

`digest` hashes the pickle of a value while it is written, without a copy. Differences between pickles of equal values
are removed: shared objects, the order of sets, names and line numbers of files, cloudpickle's ids of classes, and the
internal layout of a pandas frame.
"""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import pickle
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flyte_notebook.core.bound import open_file
from flyte_notebook.core.userfiles import is_user_file
from flyte_notebook.worker.values import outside, pickling
from flyte_notebook.worker.values.code_objects import global_names

COMPARED_BYTES = 64 << 20
"""Values with a larger pickle are not compared."""

_SCANNED = 10_000
_VOLATILE = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__slotnames__",
        "__module__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "__annotate_func__",
        "__annotations_cache__",
        "_abc_impl",
    }
)
"""Attributes of classes that do not affect behaviour, or differ between processes."""


class TooLargeError(Exception):
    """A pickle is larger than allowed."""


def digest(value: Any, *, limit_bytes: int | None = COMPARED_BYTES, looks_outside: bool = True) -> str | None:
    """Return a digest of a value; ``None`` if its pickle has more than ``limit_bytes`` or cannot be made.

    Equal digests mean equal content. The same content gives the same digest in another process of the same Python.
    ``looks_outside``: the content of a mapped file counts, and not only its identity.
    """
    try:
        return _Digesting(limit_bytes, looks_outside=looks_outside).of(value)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - user code may raise anything
        return None


def digest_of_code(value: Any, *, without: Collection[str]) -> str:
    """Return a digest of a function or class of a notebook with its attributes, defaults and closures.

    Of the globals that it reads, those named in ``without`` do not count.
    """
    return _Digesting(COMPARED_BYTES, without=without, looks_outside=False).safely(value)


def cell_version(source: str, code: Mapping[str, Any], *, without: Collection[str] = ()) -> str:
    """Return the version of a cell for the cache: a digest over all code and data that is sent by value.

    These are the cell's statements, without comments and the number of the cell; the functions and classes it uses,
    directly or indirectly; and the globals these read, except those in ``without``, which are the cell's inputs.
    """
    digesting = _Digesting(None, without=without)
    parts = [ast.dump(ast.parse(source))]
    parts += [f"{name}={digesting.safely(code[name])}" for name in sorted(code)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Digesting:
    """One digest being computed; it records the enclosing objects, so that functions may refer to themselves."""

    def __init__(self, limit_bytes: int | None, *, without: Collection[str] = (), looks_outside: bool = True) -> None:
        self.limit_bytes = limit_bytes
        self.looks_outside = looks_outside
        self.without = frozenset(without)
        self._inside: dict[int, int] = {}

    def of(self, value: Any) -> str:
        """Return the digest of a value. Raises the errors of pickling it."""
        sorting = _holds_sets(value)
        try:
            return self._streamed(value, sorting=sorting, fast=True)
        except ValueError as error:
            if "cyclic" not in str(error):
                raise
        return self._streamed(value, sorting=sorting, fast=False)

    def safely(self, value: Any) -> str:
        """Return the digest of a value, or that of its type when the value cannot be pickled."""
        try:
            return self.of(value)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - user code may raise anything
            return f"?{type(value).__module__}.{type(value).__qualname__}"

    def _streamed(self, value: Any, *, sorting: bool, fast: bool) -> str:
        sink = _Sink(self.limit_bytes)
        pickler = (_SortingPickler if sorting else _DigestPickler)(sink, self)
        # Without a memo the pickle is the same for equal and for shared objects, and needs no memory.
        pickler.fast = fast
        pickler.dump(value)
        return sink.hash.hexdigest()

    def reduced(self, obj: Any) -> Any:
        """Return the replacement for an object that is sent by value, ``NotImplemented`` for all others."""
        kind = type(obj)
        seen = outside.content(obj) if self.looks_outside else None
        if seen is not None:
            return str, (seen,)
        if kind is types.FunctionType or kind is _CACHING or isinstance(obj, type):
            return NotImplemented if _importable(obj) else self._code_like(obj)
        if kind is types.ModuleType:
            return str, (f"module {_module_version(obj)}",)
        if kind is typing.TypeVar:
            return str, (f"TypeVar {obj!r}",)
        if kind.__module__.partition(".")[0] == "flyte" and hasattr(obj, "func") and hasattr(obj, "name"):
            return self._once(obj, self._task)
        return _frame(obj)

    def _code_like(self, obj: Any) -> Any:
        if isinstance(obj, type):
            return self._once(obj, self._class)
        wrapped: Any = obj
        return self._once(wrapped.__wrapped__ if type(obj) is _CACHING else obj, self._function)

    def _once(self, obj: Any, describe: Callable[[Any], list[str]]) -> Any:
        if id(obj) in self._inside:
            return str, (f"level {self._inside[id(obj)]}",)
        self._inside[id(obj)] = len(self._inside)
        try:
            text = "\n".join(describe(obj))
        finally:
            del self._inside[id(obj)]
        return str, (hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),)

    def _function(self, function: types.FunctionType) -> list[str]:
        read = function.__globals__
        names = [name for name in global_names(function.__code__) if name in read and name not in self.without]
        return [
            "function",
            function.__name__,
            *self._code(function.__code__),
            self.safely((function.__defaults__, function.__kwdefaults__, _attributes(function))),
            *(self.safely(_contents(cell)) for cell in function.__closure__ or ()),
            *(f"{name}={self.safely(read[name])}" for name in sorted(names) if name != "__builtins__"),
        ]

    def _code(self, code: types.CodeType) -> list[str]:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        return [code.co_name, repr(counts), code.co_code.hex(), repr(names), *map(self._constant, code.co_consts)]

    def _constant(self, constant: Any) -> str:
        if isinstance(constant, types.CodeType):
            return "\n".join(self._code(constant))
        if isinstance(constant, frozenset):
            return f"frozenset {sorted(map(self._constant, constant))}"
        if isinstance(constant, tuple):
            return f"tuple {[self._constant(part) for part in constant]}"
        return f"{type(constant).__name__} {constant!r}"

    def _class(self, kind: type) -> list[str]:
        held = {name: value for name, value in vars(kind).items() if name not in _VOLATILE}
        if issubclass(kind, enum.Enum):
            members = {name: member.value for name, member in kind.__members__.items()}
            made = {*members, "_member_map_", "_value2member_map_", "_member_names_", "_unhashable_values_map_"}
            held = {"members": members, **{name: value for name, value in held.items() if name not in made}}
        return [
            "class",
            kind.__qualname__,
            *(self.safely(base) for base in kind.__bases__),
            *(f"{name}={self.safely(_plain(held[name]))}" for name in sorted(held)),
        ]

    def _task(self, task: Any) -> list[str]:
        return ["task", str(task.name), self.safely(task.func), self.safely(getattr(task, "cell", None))]


_CACHING: type = type(functools.lru_cache(lambda: None))


class _Sink:
    """A file that keeps only the hash of the written data."""

    def __init__(self, limit_bytes: int | None) -> None:
        self.hash = hashlib.sha256()
        self._left = limit_bytes

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        if self._left is not None:
            self._left -= length
            if self._left < 0:
                raise TooLargeError
        self.hash.update(data)
        return length


class _DigestPickler(pickling.CellPickler):
    """Writes the pickle for a digest."""

    def __init__(self, sink: _Sink, digesting: _Digesting) -> None:
        super().__init__(sink)
        self._digesting = digesting

    def reducer_override(self, obj: Any) -> Any:
        """Replace objects that are sent by value with a text."""
        reduced = self._digesting.reduced(obj)
        return super().reducer_override(obj) if reduced is NotImplemented else reduced


class _SortingPickler(_DigestPickler):
    """Writes sets in an order that does not depend on hashes. A call for each object: for values that hold sets."""

    def persistent_id(self, obj: Any) -> Any:
        """Replace sets."""
        if type(obj) in {set, frozenset}:
            return type(obj).__name__, sorted(self._digesting.of(part) for part in obj)
        return None


def _holds_sets(value: Any) -> bool:
    """Whether there is a set in a value; examines the first 10,000 objects in it."""
    waiting, looked = [value], 0
    seen: set[int] = set()
    while waiting and looked < _SCANNED:
        obj = waiting.pop()
        looked += 1
        if type(obj) in {set, frozenset}:
            return True
        if id(obj) in seen or isinstance(obj, (str, bytes, int, float, type, types.ModuleType)):
            continue
        seen.add(id(obj))
        if isinstance(obj, (list, tuple)):
            waiting.extend(obj[:_SCANNED])
        elif isinstance(obj, dict):
            waiting.extend(list(obj.values())[:_SCANNED])
        elif isinstance(getattr(obj, "__dict__", None), dict):
            waiting.extend(list(obj.__dict__.values())[:_SCANNED])
    return False


def _frame(obj: Any) -> Any:
    """Reduce a pandas frame or series to its content: its grouping of columns into blocks changes when it is read."""
    pandas = sys.modules.get("pandas")
    if pandas is None or type(obj).__module__.partition(".")[0] != "pandas":
        return NotImplemented
    if type(obj) is pandas.DataFrame:
        columns = [_column(obj.iloc[:, number]) for number in range(obj.shape[1])]
        return list, ([("DataFrame", obj.index, obj.columns, columns, obj.attrs)],)
    if type(obj) is pandas.Series:
        return list, ([("Series", obj.index, obj.name, _column(obj), obj.attrs)],)
    if isinstance(obj, pandas.api.extensions.ExtensionArray):
        made = obj.__reduce_ex__(pickling.PROTOCOL)
        if isinstance(made, tuple) and len(made) > 2 and isinstance(made[2], dict):  # noqa: PLR2004 - where a reduced object has its state
            return (*made[:2], {name: value for name, value in made[2].items() if name != "_cache"})
    return NotImplemented


def _column(series: Any) -> Any:
    """Return the data of a series: a contiguous array, so that blocks do not matter; or pandas' own array."""
    numpy = sys.modules["numpy"]
    if not isinstance(series.dtype, numpy.dtype):
        return series.array
    column = numpy.ascontiguousarray(series.to_numpy()).view()
    column.flags.writeable = False  # this flag is part of the pickle
    return column


def _plain(value: Any) -> Any:
    """Return the parts of a class attribute that pickle would not include."""
    if isinstance(value, (staticmethod, classmethod)):
        return type(value).__name__, value.__func__
    if isinstance(value, property):
        return "property", value.fget, value.fset, value.fdel
    if isinstance(value, functools.cached_property):
        return "cached_property", value.func
    if isinstance(value, types.MappingProxyType):
        return dict(value)
    return value


def _attributes(function: types.FunctionType) -> dict[str, Any]:
    return {name: value for name, value in function.__dict__.items() if not name.startswith("__")}


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _importable(obj: Any) -> bool:
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    if module is None or module.__name__ == "__main__":
        return False
    found: Any = module
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj or _is_builtin(obj)


def _is_builtin(obj: Any) -> bool:
    try:
        pickle.dumps(obj)
    except Exception:  # noqa: BLE001 - user code may raise anything
        return False
    return True


def _module_version(module: types.ModuleType) -> str:
    """Return a module's name; for the user's own module also the digest of its file."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py") or not is_user_file(file):
        return module.__name__
    try:
        with open_file(file, "rb") as text:
            return f"{module.__name__} {hashlib.sha256(text.read()).hexdigest()}"
    except OSError:
        return module.__name__
