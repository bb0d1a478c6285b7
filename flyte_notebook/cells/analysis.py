"""Finds out from the text of a cell how it uses the notebook's names, before it runs.

The analysis is cautious in one direction: a name that *may* be read from the notebook counts as read. Statements are
followed in order; branches, loops and ``try`` are treated as code that may or may not run. The body of a function
counts from the first use of the function, so that a cell that only defines one needs no variables. Names that are only
known at run time (``import *``, ``exec``, magics that assign) are found at run time.
"""

from __future__ import annotations
import __future__

import ast
import functools
import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from flyte_notebook.cells import lookups
from flyte_notebook.cells.name_flow import NameFlow
from flyte_notebook.cells.scopes import called_on, facts_of, hinted_by, is_get_ipython, mutated_by

FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
"""The compiler flags of all features of ``__future__``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellNames:
    """A cell's use of names at top level; each tuple is in the order of the text.

    ``reads`` may come from the notebook. ``certain`` is the part of it that is certainly read, before the cell can set
    it. ``hints`` are names in texts that are evaluated (magics, shell commands, queries); they count only if the
    notebook has them. ``assigned`` may be bound when the cell ends, by statements or by functions with ``global``.
    ``deleted`` do not exist at the end, if the ``del`` is reached. ``mutated`` are changed in place. ``called_on`` have
    methods called on them. ``imports`` are the full names of imported modules. A cell with ``looks_up`` finds some
    names at run time; ``hints`` has those in its texts. ``futures`` are the compiler flags of its ``__future__``
    features, including those of earlier cells.
    """

    reads: tuple[str, ...] = ()
    certain: tuple[str, ...] = ()
    hints: frozenset[str] = frozenset()
    assigned: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    mutated: frozenset[str] = frozenset()
    called_on: frozenset[str] = frozenset()
    imports: tuple[str, ...] = ()
    looks_up: bool = False
    futures: int = 0


def analyse(source: str, filename: str = "<cell>", *, futures: int = 0) -> CellNames:
    """Return a cell's use of names. ``source`` is plain Python: magics are already translated.

    ``futures`` are the compiler flags that earlier cells set. Raises SyntaxError as running the cell would, with file,
    line, text and caret.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown once, when the cell runs
        try:
            tree = ast.parse(source, filename)
            # Some errors are found by the compiler only: "return" outside of a function, "break" outside of a loop.
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | futures
            code = compile(source, filename, "exec", flags=flags, dont_inherit=True)
        except SyntaxError as error:
            lines = source.splitlines()
            if error.text is None and error.lineno is not None and 0 < error.lineno <= len(lines):
                error.text = lines[error.lineno - 1]  # the compiler would read it from a file
            raise
    looks_up, words = lookups.looked_up(tree)
    reader = _Reader()
    reader.statements(tree.body)
    bound = dict.fromkeys([*reader.bound, *reader.assigned_inside])
    gone = [name for name in reader.deleted if name not in reader.definite]
    return CellNames(
        reads=tuple(reader.reads),
        certain=tuple(reader.certain_reads),
        hints=frozenset(reader.hints | words),
        assigned=tuple(bound),
        deleted=tuple(gone),
        mutated=frozenset(reader.mutated),
        called_on=frozenset(reader.called_on),
        imports=tuple(reader.imports),
        looks_up=looks_up,
        futures=futures | code.co_flags & FUTURES,
    )


class _Reader(NameFlow, ast.NodeVisitor):
    """Follows the statements of a cell in order."""

    def visit_If(self, node: ast.If) -> None:
        """Follow both branches."""
        self.visit(node.test)
        self.join([(block, self.branch(block)) for block in (node.body, node.orelse)])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """Follow the body once, as code that may not run."""
        self.visit(node.iter)
        before = set(self.definite)
        with self.maybe():
            self.visit(node.target)
        self.branch(node.body)
        self.definite = before
        self.branch(node.orelse)

    visit_AsyncFor = visit_For  # noqa: N815 - named by ast

    def visit_While(self, node: ast.While) -> None:
        """Follow the body once, as code that may not run."""
        self.visit(node.test)
        self.branch(node.body)
        self.branch(node.orelse)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Follow the body as code that runs, unless the context may suppress a NameError."""
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
        text = ast.dump(ast.Module(list(map(ast.Expr, (item.context_expr for item in node.items))), []))
        if "suppress" in text or "raises" in text:
            with self.maybe():
                self.statements(node.body)
        else:
            self.statements(node.body)

    visit_AsyncWith = visit_With  # noqa: N815 - named by ast

    def visit_Try(self, node: ast.Try) -> None:
        """Follow the body, then each handler as if the body had set nothing."""
        before = set(self.definite)
        if node.handlers:
            with self.maybe():
                self.statements([*node.body, *node.orelse])
        else:
            self.statements(node.body)
        ways: list[tuple[Sequence[ast.stmt], set[str]]] = [([*node.body, *node.orelse], self.definite)]
        for handler in node.handlers:
            self.definite = set(before)
            with self.maybe():
                if handler.type is not None:
                    self.visit(handler.type)
            self._handler(handler, before)
            ways.append((handler.body, self.definite))
        self.definite = set(before)
        self.join(ways)
        self.statements(node.finalbody)

    visit_TryStar = visit_Try  # type: ignore[assignment]  # noqa: N815 - same fields as ast.Try; named by ast

    def _handler(self, handler: ast.ExceptHandler, before: set[str]) -> None:
        known = handler.name in self.bound
        if handler.name is not None:
            self.store(handler.name)
        self.definite = self.branch(handler.body) | before
        if handler.name is not None:  # deleted again when the handler ends
            self.definite.discard(handler.name)
            if not known:
                self.bound.pop(handler.name, None)

    def visit_Match(self, node: ast.Match) -> None:
        """Follow each case as code that may not run."""
        self.visit(node.subject)
        ways: list[tuple[Sequence[ast.stmt], set[str]]] = [((), set(self.definite))]
        for case in node.cases:
            before = set(self.definite)
            with self.maybe():
                for pattern in ast.walk(case.pattern):
                    captured = getattr(pattern, "name", None) or getattr(pattern, "rest", None)
                    if isinstance(captured, str):
                        self.store(captured)
                    elif isinstance(pattern, ast.expr):
                        self.visit(pattern)
                if case.guard is not None:
                    self.visit(case.guard)
            ways.append((case.body, self.branch(case.body)))
            self.definite = before
        self.join(ways)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Follow the operands; only the first one is certainly evaluated."""
        self.visit(node.values[0])
        with self.maybe():
            for value in node.values[1:]:
                self.visit(value)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Follow the parts; only the condition is certainly evaluated."""
        self.visit(node.test)
        with self.maybe():
            self.visit(node.body)
            self.visit(node.orelse)

    # definitions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Follow decorators, defaults and annotations here; the body when the function is used."""
        for part in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(part)
        with self.maybe():  # from __future__ import annotations, and Python 3.14, do not evaluate them here
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            annotated = [argument for argument in (*arguments, node.args.vararg, node.args.kwarg) if argument]
            with self.scope(_type_parameters(node)):
                for part in filter(None, [*(argument.annotation for argument in annotated), node.returns]):
                    self.visit(part)
        self.define(node.name, facts_of(node), now=bool(node.decorator_list))

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - named by ast

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Follow the body here; the methods when the class is used."""
        for part in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            with self.scope(_type_parameters(node)):
                self.visit(part)
        with self.scope(_type_parameters(node)), self.scope(set()) as own:
            self.in_class.append(own)
            for statement in node.body:
                if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    self.visit(statement)
                    continue
                for part in [*statement.decorator_list, *statement.args.defaults]:
                    self.visit(part)
                own.add(statement.name)
            self.in_class.pop()
        now = bool(node.decorator_list or node.keywords)
        self.define(node.name, facts_of(node), now=now)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Follow the body, which may run from here on."""
        for part in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(part)
        self.use(facts_of(node))

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self.visit(node.generators[0].iter)
        targets = {
            part.id
            for generator in node.generators
            for part in ast.walk(generator.target)
            if isinstance(part, ast.Name)
        }
        with self.maybe(), self.scope(targets):
            for number, generator in enumerate(node.generators):
                if number:
                    self.visit(generator.iter)
                for condition in generator.ifs:
                    self.visit(condition)
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            for part in parts:
                self.visit(part)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension  # noqa: N815 - named by ast

    # assignments

    def visit_Name(self, node: ast.Name) -> None:
        """Read, bind or delete a name."""
        if isinstance(node.ctx, ast.Load):
            self.load(node.id)
        elif isinstance(node.ctx, ast.Store):
            self.store(node.id)
        else:
            self.load(node.id)
            self.definite.discard(node.id)
            self.deleted[node.id] = None
            self.bound.pop(node.id, None)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Follow the value first."""
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Read, change and bind."""
        if isinstance(node.target, ast.Name):
            self.load(node.target.id)
        self.mutated.update(self.outer(mutated_by(node)))
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Bind only if there is a value."""
        with self.maybe():
            self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """Bind outside of comprehensions, so that it is visible in the rest of the cell."""
        self.visit(node.value)
        self.store(node.target.id)

    def visit_Attribute(self, node: ast.Attribute | ast.Subscript) -> None:
        """Note a change in place."""
        self.mutated.update(self.outer(mutated_by(node)))
        self.generic_visit(node)

    visit_Subscript = visit_Attribute  # noqa: N815 - named by ast

    def visit_Call(self, node: ast.Call) -> None:
        """Note calls of methods, and texts that are evaluated."""
        self.called_on.update(self.outer(called_on(node)))
        self.hints.update(hinted_by(node))
        self.generic_visit(node)
        evaluates = isinstance(node.func, ast.Name) and node.func.id in {"exec", "eval"}
        if evaluates or (isinstance(node.func, ast.Attribute) and is_get_ipython(node.func.value)):
            self.anything = True

    def visit_Import(self, node: ast.Import) -> None:
        """Bind the first part of the name, or the name after "as"."""
        for alias in node.names:
            self.imports[alias.name] = None
            self.store(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Bind the imported names."""
        for alias in node.names:
            if alias.name == "*":
                self.anything = True
            else:
                self.store(alias.asname or alias.name)

    def visit_TypeAlias(self, node: ast.AST) -> None:
        """``type X = ...`` binds X; its value is evaluated at the first access."""
        with self.maybe(), self.scope(_type_parameters(node)):
            self.visit(node.value)  # type: ignore[attr-defined]  # ast.TypeAlias exists from Python 3.12 on
        self.store(node.name.id)  # type: ignore[attr-defined]  # as above


def _type_parameters(node: ast.AST) -> set[str]:
    return {parameter.name for parameter in getattr(node, "type_params", ())}
