"""Selects the notebook variables for a cell: data as inputs of the task, code with its text.

Code is functions, classes, modules, Flyte tasks and environments. It is sent with the cell and is part of its version.
All other values are data, and are sent as the task's inputs. Data that only helper functions read is sent with those
functions.
"""

from __future__ import annotations

import builtins
import difflib
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flyte_notebook.cells import lookups
from flyte_notebook.cells.values import IPYTHONS_OWN, is_code
from flyte_notebook.worker.values import named_pickles, outside, pickling
from flyte_notebook.worker.values.code_objects import global_uses
from flyte_notebook.worker.values.pickling import PicklingProblem
from flyte_notebook.worker.values.unpicklable import type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flyte_notebook.cells.analysis import CellNames


class UnknownNameError(NameError):
    """A cell reads a name, or ``-i`` names one, that exists nowhere. ``name`` is the name."""


class CannotSendError(ValueError):
    """Something that a cell uses cannot be pickled. ``name`` is the notebook variable, ``problem`` says where in it."""

    def __init__(self, name: str, problem: PicklingProblem) -> None:
        super().__init__(f"`{name}` cannot be sent to the task: {problem}")
        self.name = name
        self.problem = problem

    def __reduce__(self) -> tuple[type[CannotSendError], tuple[str, PicklingProblem]]:
        return type(self), (self.name, self.problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The notebook variables for a cell.

    ``inputs`` are the data, by name, in the order of the text. ``code`` is sent with the cell. ``may_set`` are notebook
    names that functions in ``code`` set with ``global``. If names are looked up at run time, ``code`` has small data
    too, ``unimported`` are modules by full name, and ``absent`` says why other variables are left out.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    may_set: frozenset[str] = frozenset()
    unimported: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    def ship(self) -> tuple[bytes, pickling.Sources]:
        """Return ``code`` as bytes and the text of the cells it comes from. Raises `CannotSendError`."""
        namespace = _home_of(self.code.values())
        try:
            return named_pickles.dumps(dict(self.code), namespace, without=self.inputs, name="code")
        except PicklingProblem as problem:
            raise self._culprit(namespace, problem) from problem

    def _culprit(self, namespace: dict[str, Any] | None, whole: PicklingProblem) -> CannotSendError:
        for name, value in self.code.items():
            problem = _problem_with(name, value, namespace, self.inputs)
            if problem is not None:
                return CannotSendError(name, problem)
        return CannotSendError("code", whole)


def _problem_with(
    name: str, value: Any, namespace: dict[str, Any] | None, without: Iterable[str]
) -> PicklingProblem | None:
    try:
        pickling.dumps_with_sources(value, namespace, without=tuple(without), name=name)
    except PicklingProblem as problem:
        return problem
    return None


def select(names: CellNames, namespace: Mapping[str, Any], *, inputs: Sequence[str] | None = None) -> Selection:
    """Return the notebook variables for a cell. ``inputs`` are the data inputs when the user named them.

    Raises `UnknownNameError` when a name that the cell certainly reads, or one in ``inputs``, does not exist, and
    `CannotSendError` for a connection to a database.
    """
    wanted = dict.fromkeys(name for name in names.reads if name in namespace)
    wanted.update(dict.fromkeys(sorted(name for name in names.hints if name in namespace)))
    if inputs is not None:
        for name in inputs:
            if name not in namespace:
                text = f"-i names `{name}`, and the notebook has no such name"
                raise UnknownNameError(_unknown(name, namespace, text), name=name)
        wanted.update(dict.fromkeys(inputs))
    data: dict[str, Any] = {}
    code: dict[str, Any] = {}
    for name in wanted:
        value = namespace[name]
        if _is_ipythons(name, value) or _is_dunder(name):
            continue
        if is_code(value):
            code[name] = value
        elif inputs is None or name in inputs:
            data[name] = value
    _refuse_connections(data)
    more = _looked_up(names, namespace, {**data, **code})
    code |= more.code
    may_set = frozenset(_globals_set(code.values()))
    for name in names.certain:
        known = name in namespace or hasattr(builtins, name) or name in IPYTHONS_OWN or name in may_set
        if not known and not _is_dunder(name):
            raise UnknownNameError(_unknown(name, namespace, f"name '{name}' is not defined"), name=name)
    return Selection(inputs=data, code=code, may_set=may_set, unimported=more.unimported, absent=more.absent)


def _refuse_connections(data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        if said := outside.connected(value):
            raise CannotSendError(name, PicklingProblem(name, type_name(value), said))


def _looked_up(names: CellNames, namespace: Mapping[str, Any], taken: Mapping[str, Any]) -> Selection:
    """Return the additions to ``taken`` for look-ups at run time: none if the cell does not look up names."""
    if not names.looks_up and not lookups.looks_up(_functions(taken.values())):
        return Selection()
    others = [name for name, value in namespace.items() if name not in taken and not _is_ipythons(name, value)]
    public = (name for name in others if not name.startswith("_"))
    code, unimported, absent = lookups.take_along(public, namespace, _home_of(namespace.values()))
    return Selection(code=code, unimported=unimported, absent=absent)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_ipythons(name: str, value: Any) -> bool:
    if name not in IPYTHONS_OWN:
        return False
    module = getattr(value, "__module__", None) or type(value).__module__
    return (
        name in {"In", "Out"} or str(module).partition(".")[0] in {"IPython", "ipykernel"} or _in_builtins(name, value)
    )


def _in_builtins(name: str, value: Any) -> bool:
    return getattr(builtins, name, None) is value


def _home_of(code: Iterable[Any]) -> dict[str, Any] | None:
    """Return the namespace of the functions of ``__main__`` in ``code``, ``None`` if there are none."""
    for function in _functions(code):
        if function.__module__ == "__main__":
            return function.__globals__
    return None


def _functions(code: Iterable[Any]) -> Iterator[types.FunctionType]:
    """Yield functions among ``code``: themselves, methods of classes, wrapped ones, and those of Flyte tasks."""
    for value in filter(is_code, code):
        found = getattr(value, "__wrapped__", None) or getattr(value, "func", None) or value
        if isinstance(found, types.FunctionType):
            yield found
        elif isinstance(found, type):
            for part in vars(found).values():
                method = getattr(part, "__func__", None) or getattr(part, "fget", None) or part
                if isinstance(method, types.FunctionType):
                    yield method


def _globals_set(code: Iterable[Any]) -> Iterator[str]:
    """Yield the globals that functions, and the functions they call, set with ``global``."""
    waiting = list(_functions(code))
    for function in lookups.each_once(waiting):
        for part in lookups.codes(function.__code__):
            for name, use in global_uses(part):
                if use == "assign":
                    yield name
                elif name in function.__globals__:
                    waiting.extend(_functions([function.__globals__[name]]))


def _unknown(name: str, namespace: Mapping[str, Any], text: str) -> str:
    known = [known for known in namespace if not known.startswith("_")]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"{text}; did you mean `{close[0]}`?" if close else text
