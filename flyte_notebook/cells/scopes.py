"""Finds out from compiled code how a function uses names outside of itself."""

from __future__ import annotations

import ast
import re
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from flyte_notebook.worker.values.code_objects import global_uses

IDENTIFIER = re.compile(r"[^\W\d]\w*")
_QUERIED = re.compile(r"@([^\W\d]\w*)")
_EXPANDED = re.compile(r"\{([^{}]*)\}|\$([^\W\d]\w*)")
_SHELL = {"system", "getoutput", "sx", "system_raw", "system_piped", "getoutput_pexpect"}
_MAGIC = {"run_line_magic", "run_cell_magic", "magic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How a piece of code uses global names when it runs."""

    reads: tuple[str, ...] = ()
    assigns: tuple[str, ...] = ()
    mutates: frozenset[str] = frozenset()
    calls_on: frozenset[str] = frozenset()
    hints: frozenset[str] = frozenset()


def facts_of(node: ast.stmt | ast.expr) -> Facts:
    """Return how the functions inside ``node`` use globals; ``node`` is one definition or one lambda."""
    reads: dict[str, None] = {}
    assigns: dict[str, None] = {}
    for code in _functions_in(_compiled(node)):
        for name, kind in global_uses(code):
            (assigns if kind == "assign" else reads)[name] = None
    inside = list(ast.walk(node))
    return Facts(
        reads=tuple(reads),
        assigns=tuple(assigns),
        mutates=frozenset(name for part in inside for name in mutated_by(part)) & reads.keys(),
        calls_on=frozenset(name for part in inside for name in called_on(part)) & reads.keys(),
        hints=frozenset(name for part in inside if isinstance(part, ast.Call) for name in hinted_by(part)),
    )


def mutated_by(node: ast.AST) -> Iterator[str]:
    """Yield the names whose object this one node changes in place: ``x[0] = 1``, ``x.a = 1``, ``del x[0]``."""
    if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        name = root_of(node)
        if name is not None:
            yield name
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def called_on(node: ast.AST) -> Iterator[str]:
    """Yield the name on which this one node calls a method: ``x`` for ``x.fit(y)`` and ``x.layers[0].fit(y)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name = root_of(node.func)
        if name is not None:
            yield name


def root_of(node: ast.expr) -> str | None:
    """Return the name that a chain of attributes and items begins with, ``None`` if it begins otherwise."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def hinted_by(call: ast.Call) -> Iterator[str]:
    """Yield names in texts that this call evaluates: magics, shell commands, ``frame.query("a > @limit")``."""
    if not isinstance(call.func, ast.Attribute):
        return
    method = call.func.attr
    texts = [
        part.value
        for argument in call.args
        for part in ast.walk(argument)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    if method in {"query", "eval"}:
        yield from (name for text in texts for name in _QUERIED.findall(text))
    elif not is_get_ipython(call.func.value):
        return
    elif method in _MAGIC:
        yield from (name for text in texts[1:] for name in IDENTIFIER.findall(text))
    elif method in _SHELL:
        for text in texts:
            for expression, variable in _EXPANDED.findall(text):
                yield from IDENTIFIER.findall(expression or variable)


def is_get_ipython(node: ast.expr) -> bool:
    """Whether an expression is ``get_ipython()``."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_ipython"


def _compiled(node: ast.stmt | ast.expr) -> types.CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = ast.Expression(node) if isinstance(node, ast.expr) else ast.Module([node], [])
    mode = "eval" if isinstance(node, ast.expr) else "exec"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown once, when the cell runs
        code = compile(tree, "<cell>", mode, flags=flags, dont_inherit=True)
    assert isinstance(code, types.CodeType)
    return code


def _functions_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _functions_in(constant)
