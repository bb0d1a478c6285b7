"""Runs the body of a cell as module code, and finds its results.

In a worker the body runs in ``__main__``, as in a notebook. Elsewhere (with the SDK alone, in the notebook's own
process) it runs in a separate namespace, so that the notebook's namespace is not changed.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import functools
import inspect
import io
import linecache
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flyte_notebook.cells import generators, library_settings
from flyte_notebook.cells.returned import CellOutcome
from flyte_notebook.cells.values import IPYTHONS_OWN, RESULT, Output, inline_only, is_code, write_outputs
from flyte_notebook.cells.version import COMPARED_BYTES, digest, digest_of_code
from flyte_notebook.worker.process import body, child, context
from flyte_notebook.worker.values import named_pickles, outside, pickling

_LONGEST_REPR = 100_000
_HELD_CHARS = 1_000
_CACHING: Any = type(functools.lru_cache(lambda: None))
_IMMUTABLE = (bool, int, float, complex, str, bytes, type(None))


class MissingOutputError(NameError):
    """``-o`` names a variable that the cell has not set when it ends. ``name`` is the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell ready to run anywhere.

    ``source`` is plain Python, magics translated; ``filename`` is its name in tracebacks. ``head`` is the text in the
    editor where ``source`` begins with empty lines. ``code`` are functions, classes, modules and tasks that it uses,
    from `Selection.ship`, and ``sources`` their text. ``outputs`` are the names requested by the user, ``None`` to find
    them out. The name tuples are those of `CellNames`; ``may_set``, ``unimported`` and ``absent`` are those of
    `Selection`. ``futures`` are compiler flags, ``interactivity`` says which values are displayed, as IPython's
    ``ast_node_interactivity``. ``settings`` are those of libraries, from `library_settings.read`, ``formats`` those of
    the shell for showing values; neither is part of the ``version``, which is equal for cells that do the same.
    """

    name: str
    source: str
    filename: str
    head: str = ""
    code: bytes = b""
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    assigned: tuple[str, ...] = ()
    mutated: frozenset[str] = frozenset()
    called_on: frozenset[str] = frozenset()
    imports: tuple[str, ...] = ()
    may_set: frozenset[str] = frozenset()
    unimported: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    futures: int = 0
    interactivity: str = "last_expr"
    settings: Mapping[str, bytes] = field(default_factory=dict)
    formats: bytes = b""
    version: str = ""


async def run_cell(
    cell: Cell,
    inputs: dict[str, Any],
    *,
    place: Callable[[], str],
    namespace: dict[str, Any] | None = None,
    ended: Callable[[], object] = lambda: None,
) -> CellOutcome:
    """Run a cell and return its results. Raises the cell's exceptions.

    ``inputs`` is emptied, so that values released by the body are freed. ``place`` names a file for outputs that are
    too large to be sent inline. ``ended`` is called when the body has ended, also with an error, before anything is
    pickled: figures that are open are shown then. Outside of a worker a body without ``await`` runs in a thread, as the
    SDK runs tasks that are no coroutines, so that it may call such tasks.
    """
    held = namespace if namespace is not None else _namespace()
    text = cell.head + cell.source[cell.head.count("\n") :]
    linecache.cache[cell.filename] = (len(text), None, text.splitlines(keepends=True), cell.filename)
    codes, has_value = _compiled(cell)
    context.formats = cell.formats
    if cell.unimported or cell.absent:
        from flyte_notebook.cells import lookups  # noqa: PLC0415 - 20 KiB, for cells that look names up only

        held.update({name: lookups.Unimported(module, name) for name, module in cell.unimported.items()})
        held.update({name: lookups.Absent(name, why) for name, why in cell.absent.items()})
    if cell.code:
        pickling.install_sources(cell.sources)
        code, by_names = named_pickles.load(io.BytesIO(cell.code), held)
        held.update(code)
        named_pickles.make_known(by_names, held)
    held.update(inputs)
    names = tuple(inputs)
    inputs.clear()
    before = _Before(cell, held, names)
    states = generators.given
    generators.write(states or {})
    try:
        with _displaying(), library_settings.made(cell.settings, cell.source) as set_anew:
            value = await _run(codes, held)
            unfinished = await body.pending()
    except BaseException:
        context.body_raised()
        raise
    finally:
        ended()
    outcome = before.outcome(value, has_value=has_value, place=place)
    return replace(
        outcome,
        unfinished=tuple(unfinished),
        settings=(*set_anew, *outcome.settings),
        generators={} if states is None else generators.changed(states),
    )


def _namespace() -> dict[str, Any]:
    if context.in_worker():
        return sys.modules["__main__"].__dict__
    return {"__name__": "__main__", "__builtins__": __builtins__, "__doc__": None}


def _compiled(cell: Cell) -> tuple[list[types.CodeType], bool]:
    """Return the code to run, in order, and whether the last part returns the value of the cell."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | cell.futures
    tree = compile(cell.source, cell.filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    nodes: list[ast.stmt] = tree.body
    if cell.interactivity == "last_expr_or_assign":
        nodes += _assigned(nodes)
    last: Any = nodes.pop() if nodes and isinstance(nodes[-1], ast.Expr) and cell.interactivity != "none" else None
    # Compiled as at a prompt, so that each value goes to sys.displayhook.
    shown = {"all": len(nodes), "last": 0 if last else 1}.get(cell.interactivity, 0)
    silent = len(nodes) - min(shown, len(nodes))
    parts: list[tuple[Any, str]] = [(ast.Module(nodes[:silent], []), "exec")] if silent or not nodes else []
    parts += [(ast.Interactive([node]), "single") for node in nodes[silent:]]
    parts += [(ast.Expression(last.value), "eval")] if last else []
    return [compile(part, cell.filename, mode, flags, dont_inherit=True) for part, mode in parts], last is not None


def _assigned(nodes: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return an expression for the value of the last statement, if it is an assignment to one name."""
    last = nodes[-1] if nodes else None
    targets = last.targets if isinstance(last, ast.Assign) else [getattr(last, "target", None)]
    target = targets[0] if len(targets) == 1 else None
    if not isinstance(last, (ast.Assign, ast.AugAssign, ast.AnnAssign)) or not isinstance(target, ast.Name):
        return []
    return [ast.copy_location(ast.Expr(ast.copy_location(ast.Name(target.id, ast.Load()), target)), target)]


@contextlib.contextmanager
def _displaying() -> Iterator[None]:
    """Show values of code that was compiled as at a prompt, in IPython's way."""
    before, sys.displayhook = sys.displayhook, _display
    try:
        yield
    finally:
        sys.displayhook = before


def _display(value: object) -> None:
    if value is not None:
        getattr(builtins, "display", print)(value)


async def _run(codes: Sequence[types.CodeType], namespace: dict[str, Any]) -> Any:
    """Run code in a namespace and return the value of the last."""
    if not body.has_loop() and not any(code.co_flags & inspect.CO_COROUTINE for code in codes):
        return await _in_thread(codes, namespace)
    value = None
    try:
        for code in codes:
            value = eval(code, namespace)  # noqa: S307 - running the user's code is the point
            if code.co_flags & inspect.CO_COROUTINE:
                value = await value
        child.end_if_forked()
    except BaseException as error:
        child.end_if_forked(error)
        raise
    return value


async def _in_thread(codes: Sequence[types.CodeType], namespace: dict[str, Any]) -> Any:
    def run() -> tuple[Any, BaseException | None]:
        # No exception may leave the thread: a future does not accept StopIteration, and would wait for ever.
        value = None
        try:
            for code in codes:
                value = eval(code, namespace)  # noqa: S307 - running the user's code is the point
            child.end_if_forked()
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            child.end_if_forked(error)
            return None, error
        return value, None

    value, error = await asyncio.to_thread(run)
    if error is not None:
        raise error
    return value


def _described(value: Any) -> Mapping[str, Any]:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - user code may raise anything
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    return {"text/plain": text if len(text) <= _LONGEST_REPR else text[:_LONGEST_REPR] + "..."}


class _Before:
    """The state of a namespace before the body ran; without references to values that the body may want to free."""

    def __init__(self, cell: Cell, namespace: dict[str, Any], inputs: tuple[str, ...]) -> None:
        self._cell = cell
        self._namespace = namespace
        self._inputs = inputs
        self._same = {name: value if _is_small(value) else None for name, value in namespace.items()}
        self._ids = {name: id(value) for name, value in namespace.items()}
        self._known = frozenset(namespace)
        surely = cell.outputs if cell.outputs is not None else (*cell.assigned, *cell.mutated)
        # Variables of helper functions are no inputs of the task, but a plain cell would change them all the same.
        carried = [name for name in namespace if not name.startswith("_") and not is_code(namespace[name])]
        self._code = {
            name: self._held(name) for name in namespace if name not in surely and _is_own_code(namespace[name])
        }
        self._caches = {name: value.cache_info() for name, value in namespace.items() if type(value) is _CACHING}
        watched = [name for name in dict.fromkeys((*inputs, *carried)) if name not in surely]
        self._digests = {name: _held_by(namespace[name]) for name in watched if type(namespace[name]) not in _IMMUTABLE}
        self._outside = {name for name in (*inputs, *carried) if outside.is_shared(namespace[name])}

    def outcome(self, value: Any, *, has_value: bool, place: Callable[[], str]) -> CellOutcome:
        """Serialise the values in the namespace that the notebook gets."""
        names = self._names()
        modules = {name: self._namespace[name].__name__ for name in names if _is_module(self._namespace[name])}
        outputs = [self._output(name) for name in names if name not in modules]
        if value is not None:
            wanted = any(output.wanted and output.value is value for output in outputs)
            outputs.append(Output(name=RESULT, value=value, wanted=wanted))
        sent = {output.name for output in outputs}
        without = self._known | sent if self._cell.outputs is None else set(self._inputs) | sent
        written = write_outputs(outputs, namespace=self._namespace, place=place, without=without)
        shown = _described(value) if any(kept.name == RESULT for kept in written.kept) else None
        changed, perhaps = self._changed(sent)
        changed += tuple(name for name in self._changed_code() if name not in sent)
        return CellOutcome(
            segments=written.segments,
            data=written.data,
            path=written.path,
            kept=written.kept,
            deleted=tuple(sorted(self._gone())),
            modules=modules,
            submodules=tuple(name for name in self._cell.imports if "." in name and name in sys.modules),
            changed=changed,
            perhaps_changed=perhaps,
            settings=tuple(self._left_behind()),
            has_value=has_value,
            inline_only=inline_only.get(),
            shown=shown,
            sources={file: text for file, text in written.sources.items() if file != self._cell.filename},
        )

    def _names(self) -> list[str]:
        """Return the names that the notebook gets, in alphabetical order."""
        if self._cell.outputs is not None:
            for name in self._cell.outputs:
                if name not in self._namespace:
                    raise MissingOutputError(f"-o names `{name}`, and the cell has not set it when it ends", name=name)
            return list(dict.fromkeys(self._cell.outputs))
        present = self._namespace.keys()
        named = {name for name in self._cell.assigned if name in present}
        mutated = self._cell.mutated & self._known & present
        named |= {name for name in mutated if not _is_module(self._namespace[name])}
        named |= {name for name in self._cell.may_set if name in present and name not in self._known}
        named |= {name for name in present if self._is_new(name)}
        named |= set(self._changed_code())
        named -= {name for name in self._outside & named if id(self._namespace[name]) == self._ids[name]}
        return sorted(name for name in named if not (name.startswith("__") and name.endswith("__")))

    def _is_new(self, name: str) -> bool:
        """Whether a name was set while the body ran, also by ``import *``, ``exec``, a magic or a function."""
        if name.startswith("_") or name in IPYTHONS_OWN:
            return False
        if name not in self._known or id(self._namespace[name]) != self._ids[name]:
            return True
        # A counter that a function sets may get the same address as before.
        before = self._same[name]
        return before is not None and before is not self._namespace[name]

    def _output(self, name: str) -> Output:
        value = self._namespace[name]
        renews = isinstance(value, type) and name in self._known and name not in self._cell.assigned
        return Output(name=name, value=value, wanted=self._cell.outputs is not None, first=renews)

    def _held(self, name: str) -> str:
        return digest_of_code(self._namespace[name], without=self._known)

    def _changed_code(self) -> Iterator[str]:
        """Yield the functions and classes whose contents changed: attributes, defaults, closures."""
        for name, before in self._code.items():
            if id(self._namespace.get(name)) == self._ids[name] and self._held(name) != before:
                yield name

    def _left_behind(self) -> Iterator[str]:
        """Yield sentences about changes that cannot be sent back."""
        for name, before in self._caches.items():
            value: Any = self._namespace.get(name)
            if type(value) is _CACHING and id(value) == self._ids[name] and value.cache_info() != before:
                yield f"the cache of `{name}`"
        for name in sorted(self._cell.mutated & self._known):
            if _is_module(self._namespace.get(name)):
                yield f"the module `{name}`"

    def _gone(self) -> set[str]:
        return {name for name in self._known if name not in self._namespace and not name.startswith("__")}

    def _changed(self, sent: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the inputs that changed and are not sent, and those that may have changed."""
        changed, perhaps = [], []
        for name, before in self._digests.items():
            if name in sent or name not in self._namespace or id(self._namespace[name]) != self._ids[name]:
                continue
            value = self._namespace[name]
            if before is None:
                if name in self._cell.called_on and _held_by(value) is None:
                    perhaps.append(name)
                continue
            after = _held_by(value)
            # A value whose pickle differs each time cannot be compared.
            if after != before and after == _held_by(value):
                changed.append(name)
        return tuple(changed), tuple(perhaps)


def _held_by(value: Any) -> str | None:
    """Return a digest of a value without outside data: shared data changed in the notebook, too."""
    return digest(value, limit_bytes=COMPARED_BYTES, looks_outside=False)


def _is_small(value: Any) -> bool:
    return type(value) in _IMMUTABLE and not (isinstance(value, (str, bytes)) and len(value) > _HELD_CHARS)


def _is_own_code(value: Any) -> bool:
    """Whether a value is a function or class that a notebook defines."""
    return isinstance(value, (types.FunctionType, type)) and value.__module__ == "__main__"


def _is_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and value.__name__ in sys.modules
