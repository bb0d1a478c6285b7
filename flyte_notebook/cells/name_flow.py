"""The state of a cell's names while its statements are followed: read, bound, certainly bound, deleted, changed."""

from __future__ import annotations

import ast
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flyte_notebook.cells.scopes import Facts


class NameFlow(ast.NodeVisitor):
    """The state of a cell's names at the current statement; visitors of statements change it."""

    def __init__(self) -> None:
        self.reads: dict[str, None] = {}
        self.certain_reads: dict[str, None] = {}
        self.hints: set[str] = set()
        self.bound: dict[str, None] = {}
        self.assigned_inside: dict[str, None] = {}
        self.deleted: dict[str, None] = {}
        self.mutated: set[str] = set()
        self.called_on: set[str] = set()
        self.imports: dict[str, None] = {}
        self.definite: set[str] = set()
        self._certain = True
        self.anything = False
        """Whether code ran that may have set any name."""
        self.locals: list[set[str]] = []
        self.in_class: list[set[str]] = []
        self._later: dict[str, Facts] = {}
        """The effects of this cell's functions and classes when they are used."""

    # names

    def load(self, name: str) -> None:
        """Note that a name is read here."""
        if any(name in scope for scope in self.locals):
            return
        later = self._later.pop(name, None)
        if name not in self.definite:
            self.reads[name] = None
            if self._certain and name not in self.bound and name not in self.assigned_inside and not self.anything:
                self.certain_reads[name] = None
        if later is not None:
            here, self.locals = self.locals, []  # names around its call are not visible to a function
            self.use(later)
            self.locals = here

    def store(self, name: str) -> None:
        """Note that a name is bound here."""
        if self.in_class and self.locals and self.locals[-1] is self.in_class[-1]:
            self.locals[-1].add(name)
            return
        self._later.pop(name, None)
        self.bound[name] = None
        self.definite.add(name)

    def use(self, facts: Facts) -> None:
        """Note the effects of a function, at the first place where it may run."""
        with self.maybe():
            for name in facts.reads:
                self.load(name)
        self.assigned_inside.update(dict.fromkeys(facts.assigns))
        self.mutated |= facts.mutates
        self.called_on |= facts.calls_on
        self.hints |= facts.hints

    def define(self, name: str, facts: Facts, *, now: bool) -> None:
        """Note that a function or class is bound; ``now``: it may run from here on, not only once its name is read."""
        self.store(name)
        if self.locals:  # a method: it belongs to its class, whose visitor collects it
            now = True
        if now:
            self.use(facts)
        else:
            self._later[name] = facts

    # code that may or may not run

    @contextmanager
    def maybe(self) -> Iterator[None]:
        """Note reads in this block as uncertain."""
        before, self._certain = self._certain, False
        try:
            yield
        finally:
            self._certain = before

    def statements(self, block: Sequence[ast.stmt]) -> None:
        """Follow statements in order."""
        for statement in block:
            self.visit(statement)

    def branch(self, block: Sequence[ast.stmt]) -> set[str]:
        """Follow a block that may not run; return the names that it certainly sets. The state is as before."""
        before = set(self.definite)
        with self.maybe():
            self.statements(block)
        after, self.definite = self.definite, before
        return after

    def join(self, ways: Sequence[tuple[Sequence[ast.stmt], set[str]]]) -> None:
        """Go on after alternatives: names set in all alternatives that do not leave are set."""
        staying = [names for block, names in ways if not _leaves(block)]
        if staying:
            self.definite = set.intersection(*staying)

    @contextmanager
    def scope(self, names: set[str]) -> Iterator[set[str]]:
        """Treat ``names`` in this block as local ones."""
        self.locals.append(names)
        try:
            yield names
        finally:
            self.locals.pop()

    def outer(self, names: Iterator[str]) -> Iterator[str]:
        """Skip names that belong to a comprehension or a class body."""
        return (name for name in names if not any(name in scope for scope in self.locals))


def _leaves(block: Sequence[ast.stmt]) -> bool:
    """Whether the code after a block is certainly not reached."""
    return bool(block) and isinstance(block[-1], (ast.Raise, ast.Break, ast.Continue))
