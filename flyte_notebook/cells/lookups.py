"""Names that are only known at run time: ``eval(text)``, ``globals()[name]``, ``unittest.main()``, reading of frames.

An analysis of the text cannot find them. So a cell that may look up names in this way gets the notebook's variables:
functions and classes, small data, modules without importing them. A value that is too large or cannot be pickled is
`Absent` there: any use of it is an error that names the notebook variable. For other cells this costs nothing.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from flyte_notebook.cells.values import deep_bytes
from flyte_notebook.core.units import format_memory
from flyte_notebook.worker.values import pickling
from flyte_notebook.worker.values.unpicklable import type_name

LARGEST_BYTES = 1 << 20
"""The maximum size of one value that is added in this way."""
MOST_BYTES = 16 << 20
"""The maximum size of all of them."""

NAMES = frozenset({"__main__", "dir", "eval", "exec", "globals", "locals", "vars"})
"""Names whose use counts as a look-up, and a module whose import counts as one."""

ATTRIBUTES = frozenset(
    {
        *("Pickler", "Unpickler", "load", "loads"),  # classes of the notebook, by name
        *("Timer", "repeat", "timeit"),
        *("_getframe", "currentframe", "f_back", "f_globals", "stack"),
        *("TestLoader", "TestProgram", "defaultTestLoader", "main", "run_docstring_examples", "testmod"),
        *("eval", "evaluate", "query", "sql", "sqldf"),  # of pandas, numexpr, duckdb, pandasql
        *("run_module", "run_path"),
    }
)
"""Attributes, and names imported by ``from``, that look up names at their call."""

OF_MODULES = frozenset({"load", "loads", "main", "query", "sql", "stack", "evaluate", "repeat"})
"""Attributes of these that many objects have: they count only after the name of a module, in the notebook or not."""

EVALUATES = frozenset({"eval", "query"})
"""Methods of frames that evaluate a text."""

OWNERS = frozenset(
    {"pickle", "cloudpickle", "dill", "joblib", "shelve", "unittest", "inspect", "numexpr", "ne", "duckdb", "timeit"}
)
"""Usual names of such modules."""


class _Finder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found = False
        self.texts: list[str] = []

    def visit_Name(self, node: ast.Name) -> None:
        self.found |= node.id in NAMES

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.append(node.value)
            self.found |= node.value == "__main__"

    def visit_Call(self, node: ast.Call) -> None:
        # A literal text is read like code; a computed text is not known.
        if isinstance(node.func, ast.Attribute) and node.func.attr in EVALUATES:
            self.found |= any(isinstance(part, (ast.JoinedStr, ast.BinOp, ast.Name)) for part in node.args)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = node.value.id if isinstance(node.value, ast.Name) else None
        self.found |= node.attr in ATTRIBUTES and (node.attr not in OF_MODULES or owner in OWNERS)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= any(alias.name in NAMES for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.found |= node.module in NAMES or (
            node.module in OWNERS and any(alias.name in ATTRIBUTES for alias in node.names)
        )


def looked_up(tree: ast.AST) -> tuple[bool, frozenset[str]]:
    """Return whether code looks up names when it runs, and in that case the names in its texts."""
    finder = _Finder()
    finder.visit(tree)
    words = (name for text in finder.texts for name in re.findall(r"[^\W\d]\w*", text))
    return finder.found, frozenset(words) if finder.found else frozenset()


def looks_up(functions: Iterable[types.FunctionType]) -> bool:
    """Whether one of these functions, or a notebook function that they call, looks up names when it runs."""
    waiting = list(functions)
    for function in each_once(waiting):
        for code in codes(function.__code__):
            names = frozenset(code.co_names)
            if names & NAMES or names & (ATTRIBUTES - OF_MODULES) or (names & OF_MODULES and names & OWNERS):
                return True
            held = (function.__globals__.get(name) for name in names)
            waiting += [value for value in held if isinstance(value, types.FunctionType)]
    return False


def each_once(waiting: list[types.FunctionType]) -> Iterator[types.FunctionType]:
    """Yield the functions of the notebook in a list to which the caller adds those that they call."""
    seen: set[int] = set()
    while waiting:
        function = waiting.pop()
        if id(function) not in seen and function.__module__ == "__main__":
            seen.add(id(function))
            yield function


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code object and those that it holds, at any depth."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def take_along(
    names: Iterable[str], namespace: Mapping[str, Any], home: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Return the additions to a cell, by name: values; modules by their full names; why other values are left out."""
    values: dict[str, Any] = {}
    modules: dict[str, str] = {}
    absent: dict[str, str] = {}
    left_bytes = MOST_BYTES
    for name in names:
        value = namespace[name]
        if isinstance(value, types.ModuleType):
            modules[name] = value.__name__
            continue
        size_bytes = 0 if isinstance(value, (types.FunctionType, type)) else deep_bytes(value)
        if size_bytes > min(LARGEST_BYTES, left_bytes):
            absent[name] = f"({format_memory(size_bytes)}), too large to be taken along for look-ups; add -i {name}"
            continue
        try:
            pickling.dumps(value, home)
        except Exception:  # noqa: BLE001 - user code may raise anything
            absent[name] = f"(a {type_name(value)}), which cannot be pickled; make it in the cell"
            continue
        left_bytes -= size_bytes
        values[name] = value
    return values, modules, absent


class Unimported(types.ModuleType):
    """A module that the notebook has and the cell does not name: it is imported at the first access."""

    def __init__(self, name: str, bound_to: str) -> None:
        super().__init__(name)
        self.__dict__["_bound_to"] = bound_to

    def __getattr__(self, attribute: str) -> Any:
        """Import it, and set its name to the real module."""
        if attribute.startswith("__") and attribute.endswith("__"):  # inspect asks every module for these
            raise AttributeError(attribute)
        module = importlib.import_module(self.__name__)
        main = sys.modules["__main__"].__dict__
        if main.get(self._bound_to) is self:
            main[self._bound_to] = module
        return getattr(module, attribute)


class Absent:
    """Replaces a notebook variable that was left out: any use of it raises an error that says so."""

    __slots__ = ("_name", "_why")

    def __init__(self, name: str, why: str) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_why", why)

    def __getattribute__(self, attribute: str) -> Any:
        """Return the attributes that ``isinstance`` and pickling read."""
        if attribute in {"__class__", "__reduce__", "__reduce_ex__"}:
            return object.__getattribute__(self, attribute)
        return _refuse(self)

    def __reduce__(self) -> tuple[type[Absent], tuple[str, str]]:
        return Absent, (object.__getattribute__(self, "_name"), object.__getattribute__(self, "_why"))


def _refuse(absent: Absent, *_arguments: object) -> NoReturn:
    name, why = object.__getattribute__(absent, "_name"), object.__getattribute__(absent, "_why")
    message = f"name '{name}' is not defined in the task: the notebook has it {why}"
    raise NameError(message, name=name)


_OPERATIONS = (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and", "xor"),
    *("or", "radd", "rsub", "rmul", "rmatmul", "rtruediv", "rfloordiv", "rmod", "rpow", "rand", "rxor", "ror", "neg"),
    *("pos", "abs", "invert", "int", "float", "complex", "index", "bool", "len", "iter", "next", "contains", "getitem"),
    *("setitem", "delitem", "call", "enter", "exit", "aenter", "aexit", "await", "aiter", "anext", "lt", "le", "eq"),
    *("ne", "gt", "ge", "hash", "repr", "str", "bytes", "format", "setattr", "delattr", "get", "dir", "copy"),
)
for _operation in _OPERATIONS:
    setattr(Absent, f"__{_operation}__", _refuse)
