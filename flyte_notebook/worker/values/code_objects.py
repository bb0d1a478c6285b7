"""Compiled code: how it is pickled completely, and which outside names it uses.

This module does not depend on how cloudpickle pickles code. Its releases differ: 3.1.3 writes one invented file name
into all code, and then no line of it can be shown.
"""

from __future__ import annotations

import dis
import sys
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

_names: weakref.WeakKeyDictionary[types.CodeType, tuple[str, ...]] = weakref.WeakKeyDictionary()


def reduce_code(code: types.CodeType) -> tuple[type[types.CodeType], tuple[Any, ...]]:
    """Reduce code with all its parts, for cloudpickle's picklers, which can pickle ``CodeType`` itself.

    Texts and tuples are copied: whether objects are shared differs by chance, and would change the pickle.
    """
    return types.CodeType, (
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_nlocals,
        code.co_stacksize,
        code.co_flags,
        code.co_code,
        code.co_consts,
        (*code.co_names,),
        (*code.co_varnames,),
        _copy(code.co_filename),
        _copy(code.co_name),
        _copy(code.co_qualname),
        code.co_firstlineno,
        code.co_linetable,
        code.co_exceptiontable,
        (*code.co_freevars,),
        (*code.co_cellvars,),
    )


def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the global names that code reads, writes or deletes, nested functions included, in a stable order."""
    found = _names.get(code)
    if found is None:
        inner = (
            name for constant in code.co_consts if type(constant) is types.CodeType for name in global_names(constant)
        )
        found = _names[code] = tuple(dict.fromkeys((*(name for name, _ in global_uses(code)), *inner)))
    return found


def global_uses(code: types.CodeType) -> Iterator[tuple[str, str]]:
    """Yield (name, "read" or "assign") for each use of a global in this code, without nested code.

    CPython does not guarantee the names of instructions; a test checks every supported version.
    """
    instructions = list(dis.get_instructions(code))
    own = {step.argval for step in instructions if step.opname == "STORE_NAME"}  # the names of a class body
    for step in instructions:
        if step.opname in {"STORE_GLOBAL", "DELETE_GLOBAL"}:
            yield step.argval, "assign"
        elif "GLOBAL" in step.opname or (step.opname == "LOAD_NAME" and step.argval not in own):
            yield step.argval, "read"


def submodules_used(code: types.CodeType, values: Iterable[object]) -> list[types.ModuleType]:
    """Return the loaded submodules that code reaches through packages: ``import a.b`` lets it write ``a.b.f()``."""
    attributes = set(code.co_names)
    waiting = [value.__name__ for value in values if isinstance(value, types.ModuleType) and value.__package__]
    found: dict[str, types.ModuleType] = {}
    while waiting:
        package = waiting.pop()
        for name in (f"{package}.{attribute}" for attribute in attributes):
            module = sys.modules.get(name)
            if isinstance(module, types.ModuleType) and name not in found:
                found[name] = module
                waiting.append(name)
    return [found[name] for name in sorted(found)]


def _copy(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
