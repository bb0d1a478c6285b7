"""Finds the size of the allocation behind a ``MemoryError``.

The errors of numpy, pandas and pyarrow contain the size. Python's own error does not, so the size is computed from the
failing expression, by reading only: the failing node of the source's syntax tree (exact to the column since Python
3.11, PEP 657), the integers and built-in sequences that its names have in the frame, and arithmetic. No user code runs:
no call, no attribute, no operator of a class that is not built-in. In any doubt (a name may have been set again before
the error left the frame, or two expressions of a line may have failed) the size is not known.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import itertools
import linecache
import math
import operator as operators
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType, ModuleType, TracebackType
from typing import Any, Final, TypeAlias

from flyte_notebook.core.outcome import RefusedAllocation

MAX_SOURCE_CHARS: Final = 1_000_000
MAX_STRING_CHARS: Final = 10_000_000
MAX_BITS: Final = 512
"""Larger numbers are not sizes, and computing them would take too long."""

_UNITS: Final = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
_ROUNDED: Final = re.compile(r"Unable to allocate ([\d.]+) (bytes|[KMGTPE]iB)")
_EXACT: Final = re.compile(r"\b(?:m|re)alloc of size (\d+) failed")
_MAGIC: Final = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)
_POINTER_BYTES: Final = 8
_OPERATORS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operators.add,
    ast.Sub: operators.sub,
    ast.Mult: operators.mul,
    ast.FloorDiv: operators.floordiv,
    ast.Mod: operators.mod,
    ast.Pow: operators.pow,
    ast.LShift: operators.lshift,
}
_ALLOCATING: Final = (ast.Call, ast.BinOp, ast.AugAssign)
_READABLE: Final = (ast.Call, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.List, ast.Tuple, ast.Attribute)
_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp)
_TRIES: Final = (ast.Try, getattr(ast, "TryStar", ast.Try))  # the second since Python 3.11


@dataclass(frozen=True, slots=True)
class _Sequence:
    """A sequence that is not created: its length, and the bytes per item."""

    length: int
    item_bytes: int


_Value: TypeAlias = int | range | _Sequence


class _UnknownError(Exception):
    """The size cannot be known by reading."""


def refused_allocation(error: BaseException) -> RefusedAllocation | None:
    """Return the known facts about the allocation behind an error, ``None`` if it is no MemoryError. Never raises."""
    if not isinstance(error, MemoryError):
        return None
    with contextlib.suppress(BaseException):  # a class of the user may run any code on access
        size = _array_bytes(error)
        if size is not None:
            return RefusedAllocation(size_bytes=size, exact=True)
        said = _EXACT.search(str(error))
        if said is not None:
            return RefusedAllocation(size_bytes=int(said[1]), exact=True)
        rounded = _ROUNDED.search(str(error))
        if rounded is not None:
            return RefusedAllocation(size_bytes=int(float(rounded[1]) * _UNITS[rounded[2]]))
    with contextlib.suppress(BaseException):
        return _from_source(error.__traceback__)
    return RefusedAllocation()


def _array_bytes(error: BaseException) -> int | None:
    """Return the size from numpy's own error, which has the shape and the type of the array."""
    if type(error).__module__.partition(".")[0] != "numpy":
        return None
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    return None if shape is None or dtype is None else int(math.prod(shape)) * int(dtype.itemsize)


def _from_source(trace: TracebackType | None) -> RefusedAllocation:
    steps = list(_steps(trace))
    if not steps:
        return RefusedAllocation()
    last = steps[-1]
    tree = _tree(last.tb_frame)
    if tree is None:
        return RefusedAllocation()
    position = _position(last)
    nodes = _at(tree, position) if position is not None else _on_line(tree, last.tb_lineno)
    if any(isinstance(node, ast.Raise) for node in nodes):
        return RefusedAllocation(by_hand=True)
    # The frame continued after the error and raised it again later: its variables may have changed.
    if any(step.tb_frame is last.tb_frame for step in steps[:-1]):
        return RefusedAllocation()
    read = _Reader(last.tb_frame)
    values = [read.whole(node) for node in nodes if isinstance(node, _ALLOCATING) and _is_settled(node, tree, last)]
    sizes = {value.length * value.item_bytes for value in values if isinstance(value, _Sequence)}
    return RefusedAllocation(size_bytes=sizes.pop() if len(sizes) == 1 else None)


def _steps(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _tree(frame: FrameType) -> ast.Module | None:
    """Return the syntax tree of a frame's source, ``None`` when there is none; lines for IPython count as empty."""
    source = "".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals))
    if not source or len(source) > MAX_SOURCE_CHARS:
        return None
    for text in (source, _MAGIC.sub(r"\1pass", source)):
        with contextlib.suppress(SyntaxError):
            return ast.parse(text)
    return None


def _position(step: TracebackType) -> tuple[int, int, int, int] | None:
    """Return first and last line and column of the failed expression, ``None`` where they are unknown (before 3.11)."""
    positions = getattr(step.tb_frame.f_code, "co_positions", None)
    if positions is None:
        return None
    first, last, left, right = next(itertools.islice(positions(), step.tb_lasti // 2, None))
    return None if None in {first, last, left, right} else (first, last, left, right)


def _at(tree: ast.Module, position: tuple[int, int, int, int]) -> list[ast.expr | ast.stmt]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.expr, ast.stmt))
        and position == (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
    ]


def _on_line(tree: ast.Module, number: int) -> list[ast.expr | ast.stmt]:
    """Return the nodes of a line. Raises `_UnknownError` if it has other nodes than the few kinds that can be read."""
    nodes = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.expr, ast.stmt)) and node.lineno <= number <= (node.end_lineno or number)
    ]
    if any(isinstance(node, ast.expr) and not isinstance(node, _READABLE) for node in nodes):
        raise _UnknownError
    return nodes


def _is_settled(node: ast.AST, tree: ast.Module, step: TracebackType) -> bool:
    """Whether the names that a node reads still have the values at the error. Raises `_UnknownError` if they may not.

    A handler that ran in the frame after the error may have set a name again; and since Python 3.12 (PEP 709) a
    comprehension's variables belong to the frame around it, and get their old values back when it is left.
    """
    read = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    set_since: list[ast.AST] = []
    for block in ast.walk(tree):
        if isinstance(block, _TRIES) and any(_holds(part, node) for part in block.body):
            set_since += [*block.handlers, *block.finalbody]
        elif isinstance(block, _COMPREHENSIONS) and not step.tb_frame.f_code.co_name.endswith("comp>"):
            set_since += [part.target for part in block.generators] if _holds(block, node) else []
    names = (name for part in set_since for name in ast.walk(part) if isinstance(name, ast.Name))
    if any(name.id in read and not isinstance(name.ctx, ast.Load) for name in names):
        raise _UnknownError
    return True


def _holds(part: ast.AST, node: ast.AST) -> bool:
    return any(inner is node for inner in ast.walk(part))


class _Reader:
    """Reads the value of a node in a frame, without running code. Raises `_UnknownError` where it cannot."""

    def __init__(self, frame: FrameType) -> None:
        scopes: tuple[Any, ...] = (frame.f_locals, frame.f_globals, vars(builtins))
        # Looking up a name in a mapping of another class may run user code.
        plain = all(type(scope) is dict or type(scope).__name__ == "FrameLocalsProxy" for scope in scopes)
        self._scopes = scopes if plain else ()

    def __call__(self, node: ast.expr) -> _Value:
        if isinstance(node, ast.Constant):
            return _known(node.value)
        if isinstance(node, ast.Name):
            return _known(self._named(node))
        if isinstance(node, (ast.List, ast.Tuple)) and not any(isinstance(item, ast.Starred) for item in node.elts):
            return _Sequence(len(node.elts), _POINTER_BYTES)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -_number(self(node.operand))
        if isinstance(node, ast.BinOp):
            return self.combined(node.op, self(node.left), self(node.right))
        if isinstance(node, ast.Call):
            return self.made_by(node)
        raise _UnknownError

    def whole(self, node: ast.expr | ast.stmt) -> _Value:
        """Return the value that an expression or an augmented assignment creates."""
        if isinstance(node, ast.AugAssign):
            return self.combined(node.op, self(node.target), self(node.value))
        assert isinstance(node, ast.expr)
        return self(node)

    def made_by(self, call: ast.Call) -> _Value:
        """Return the value that a call of a built-in function creates."""
        function = self._function(call.func)
        if call.keywords or not call.args:
            raise _UnknownError
        values = [self(argument) for argument in call.args]
        value = values[0]
        if function is range:
            return range(*map(_number, values))
        if len(values) != 1:
            raise _UnknownError
        if function is len:
            return _length(value)
        # By identity: a comparison may run user code.
        if any(function is maker for maker in (bytearray, bytes, os.urandom)) and isinstance(value, int):
            return _Sequence(value, 1)
        if any(function is maker for maker in (list, tuple, sorted)) and not isinstance(value, int):
            return _Sequence(_length(value), _POINTER_BYTES)
        raise _UnknownError

    def combined(self, operator: ast.operator, left: _Value, right: _Value) -> _Value:
        """Return the value that an operator creates from two values."""
        if isinstance(left, _Sequence) and isinstance(right, _Sequence) and isinstance(operator, ast.Add):
            return _Sequence(left.length + right.length, max(left.item_bytes, right.item_bytes))
        if isinstance(operator, ast.Mult) and isinstance(left, _Sequence) != isinstance(right, _Sequence):
            sequence, times = (left, right) if isinstance(left, _Sequence) else (right, left)
            assert isinstance(sequence, _Sequence)
            return _Sequence(sequence.length * max(0, _number(times)), sequence.item_bytes)
        return _arithmetic(operator, _number(left), _number(right))

    def _named(self, name: ast.Name) -> object:
        for scope in self._scopes:
            if name.id in scope:
                found: object = scope[name.id]
                return found
        raise _UnknownError

    def _function(self, node: ast.expr) -> object:
        if isinstance(node, ast.Name):
            return self._named(node)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = self._named(node.value)
            if type(module) is ModuleType:
                return vars(module).get(node.attr)
        raise _UnknownError


def _known(value: object) -> _Value:
    """Return the sizes of a value of a built-in class; values of other classes are not examined."""
    if type(value) is int:
        return _bounded(value)
    if type(value) is range:
        return value
    if type(value) is list or type(value) is tuple:
        return _Sequence(len(value), _POINTER_BYTES)
    if type(value) is bytes or type(value) is bytearray:
        return _Sequence(len(value), 1)
    if type(value) is str:
        return _Sequence(len(value), _character_bytes(value))
    raise _UnknownError


def _character_bytes(text: str) -> int:
    """Return the bytes per character: 1, 2 or 4, depending on the highest one (PEP 393)."""
    if text.isascii():
        return 1
    if len(text) > MAX_STRING_CHARS:
        raise _UnknownError
    highest = max(text)
    return 1 if highest <= "\xff" else 2 if highest <= "\uffff" else 4


def _length(value: _Value) -> int:
    if isinstance(value, _Sequence):
        return value.length
    if isinstance(value, range):
        # Not len(), which cannot return a length above sys.maxsize.
        return max(0, -((value.start - value.stop) // value.step))
    raise _UnknownError


def _number(value: _Value) -> int:
    if not isinstance(value, int):
        raise _UnknownError
    return value


def _bounded(number: int) -> int:
    if number.bit_length() > MAX_BITS:
        raise _UnknownError
    return number


def _arithmetic(operator: ast.operator, left: int, right: int) -> int:
    if isinstance(operator, (ast.Pow, ast.LShift)):
        # Bounded before it is computed: such a number can be larger than memory.
        grows_by = right if isinstance(operator, ast.LShift) else left.bit_length() * right
        if not 0 <= right <= MAX_BITS or grows_by > MAX_BITS:
            raise _UnknownError
    elif isinstance(operator, (ast.FloorDiv, ast.Mod)) and not right:
        raise _UnknownError
    compute = _OPERATORS.get(type(operator))
    if compute is None:
        raise _UnknownError
    return _bounded(compute(left, right))
