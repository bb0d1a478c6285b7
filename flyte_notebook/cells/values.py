"""Serialises the results of a cell in one stream, so that shared objects remain shared, in bounded memory.

Each output is a segment of the stream, written by one pickler with one memo. An output that turns out too large or
cannot be pickled leaves the memo in a state that no longer fits the stream, so the stream is begun again without it.
Small and unusual values come first, so that failures happen early; values that the kernel may refuse come last.
"""

from __future__ import annotations

import functools
import sys
import types
import typing
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from flyte_notebook.core.private import UnwritableError
from flyte_notebook.worker.process import context
from flyte_notebook.worker.process.protocol import INLINE_BYTES
from flyte_notebook.worker.process.spool import Spool, TooLargeError
from flyte_notebook.worker.values import outside, pickling
from flyte_notebook.worker.values.unpicklable import PicklingProblem, type_name

LARGEST_BYTES = 64 << 20
"""A larger output stays in the task unless it was requested."""

inline_only: ContextVar[bool] = ContextVar("inline_only", default=False)
"""Whether outputs have to fit into one message together, as nobody could read their file; what does not fit stays."""

TRIED_BYTES = 1 << 20
"""Outputs up to this size are loaded again at once, to check that this works."""

RESULT = ""
"""The name of the segment that holds the value of the last expression."""

_SAMPLED = 200
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, type(None))

IPYTHONS_OWN = frozenset({"get_ipython", "display", "exit", "quit", "open", "In", "Out"})
"""Names that IPython adds to a notebook; the worker has its own versions of those it needs."""

_CODE_TYPES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    type,
    type(functools.lru_cache(lambda: None)),
    typing.TypeVar,
    types.GenericAlias,
)
_METHOD_TYPES = (types.BuiltinFunctionType, types.MethodType)
_FLYTE_DATA = ("flyte.io", "flyte.errors", "flyte.types")

KeptReason = Literal["too large", "cannot be pickled", "cannot be loaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An output before it is written. ``wanted``: it was requested by name, so it has no limit and must work."""

    name: str
    value: Any
    wanted: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One output in the stream. ``memory_bytes`` is roughly its size when loaded; ``renews``: a class changed."""

    name: str
    size_bytes: int
    memory_bytes: int
    type_name: str
    renews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An output that stays in the task, and why. ``path`` leads to the part that cannot be pickled."""

    name: str
    reason: KeptReason
    type_name: str
    path: str = ""
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The result of writing outputs. Exactly one of ``data`` and ``path`` is set."""

    segments: tuple[Segment, ...]
    kept: tuple[Kept, ...]
    data: bytes | None
    path: str | None
    sources: dict[str, list[str]]


def write_outputs(
    outputs: Sequence[Output],
    *,
    namespace: dict[str, Any],
    place: Callable[[], str],
    without: Collection[str] = (),
) -> Written:
    """Write outputs as one stream; ``without`` are globals that are not pickled with functions, see `CellPickler`.

    Raises `PicklingProblem` when an output requested by name cannot be pickled, `UnwritableError` when the disk is
    full, MemoryError. It reports the current output to the kernel.
    """
    kept: dict[str, Kept] = {}
    sizes = {output.name: shallow_bytes(output.value) for output in outputs}
    for output in outputs:
        if sizes[output.name] > _room_bytes(0) and not output.wanted:
            kept[output.name] = _kept(output, "too large", size_bytes=sizes[output.name])
    # The value of the last expression comes before the others, so that it can be loaded without them.
    in_order = sorted(
        (output for output in outputs if output.name not in kept),
        key=lambda output: (not output.first, output.name != RESULT, sizes[output.name]),
    )
    while True:
        spool = Spool(place)
        try:
            written = _attempt(in_order, spool, namespace, without, kept)
            data = spool.finish()
        except BaseException:
            spool.discard()
            raise
        if written is not None:
            segments, files = written
            sources = pickling.sources_of(files)
            return Written(segments=segments, kept=tuple(kept.values()), data=data, path=spool.path, sources=sources)
        spool.discard()
        in_order = [output for output in in_order if output.name not in kept]


def _room_bytes(written_bytes: int) -> int:
    """Return how large the next output may be that was not requested."""
    return max(0, INLINE_BYTES - written_bytes) if inline_only.get() else LARGEST_BYTES


def _attempt(
    outputs: Sequence[Output],
    spool: Spool,
    namespace: dict[str, Any],
    without: Collection[str],
    kept: dict[str, Kept],
) -> tuple[tuple[Segment, ...], set[str]] | None:
    """Write all outputs; or add the first that cannot be written to ``kept`` and return ``None``."""
    pickler = pickling.CellPickler(spool, namespace, without=without, take_buffer=spool.take_buffer)
    segments = []
    for output in outputs:
        context.stage("returning", output.name or "the last value")
        begin = spool.position
        spool.begin(None if output.wanted else _room_bytes(begin))
        try:
            pickler.dump(output.value)
        except TooLargeError:
            kept[output.name] = _kept(output, "too large")
            return None
        except (MemoryError, UnwritableError):
            raise
        except Exception as error:
            problem = pickling.explain(output.value, error, name=output.name or "_", namespace=namespace)
            if output.wanted:
                raise problem from error
            kept[output.name] = _kept(output, "cannot be pickled", problem=problem)
            return None
        size_bytes = spool.position - begin
        if size_bytes <= TRIED_BYTES and not _loads_again(output.value, namespace):
            if output.wanted:
                raise PicklingProblem(output.name or "_", type_name(output.value), "its pickle cannot be loaded")
            kept[output.name] = _kept(output, "cannot be loaded")
            return None
        segments.append(
            Segment(
                name=output.name,
                size_bytes=size_bytes,
                memory_bytes=max(size_bytes, deep_bytes(output.value)),
                type_name=type_name(output.value),
                renews=output.first,
            )
        )
    return tuple(segments), pickler.files


def _kept(
    output: Output, reason: KeptReason, *, problem: PicklingProblem | None = None, size_bytes: int | None = None
) -> Kept:
    if problem is None:
        return Kept(name=output.name, reason=reason, type_name=type_name(output.value), size_bytes=size_bytes)
    return Kept(name=output.name, reason=reason, type_name=problem.type_name, path=problem.path)


def _loads_again(value: Any, namespace: dict[str, Any]) -> bool:
    """Whether a pickle can be loaded; some exceptions and classes with their own ``__new__`` cannot."""
    if type(value) in _PLAIN:
        return True
    try:
        # Into a separate namespace: a loaded function must not set any names here.
        pickling.loads(pickling.dumps(value, namespace), dict(namespace))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - user code may raise anything
        return False
    return True


def shallow_bytes(value: Any) -> int:
    """Return the bytes that a value certainly takes, quickly, from its own size attributes."""
    if outside.is_outside(value):
        return 0
    size_bytes = getattr(value, "nbytes", None)
    if isinstance(size_bytes, int) and not isinstance(value, type):
        return size_bytes
    # By name: accessing classes of pandas would load it if the SDK has a lazy stand-in for it.
    if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "memory_usage"):
        return int(_sum(value.memory_usage(deep=False)))
    try:
        return sys.getsizeof(value)
    except Exception:  # noqa: BLE001 - user code may raise anything
        return 0


def _sum(usage: Any) -> Any:
    return usage.sum() if hasattr(usage, "sum") else usage


def deep_bytes(value: Any) -> int:
    """Estimate the bytes that a value takes with its contents, from a sample of its items."""
    size_bytes = shallow_bytes(value)
    if not isinstance(value, (list, tuple, dict, set, frozenset)) or not value:
        return size_bytes
    items = list(zip(range(_SAMPLED), value.values() if isinstance(value, dict) else value, strict=False))
    mean_bytes = sum(0 if _is_shared(item) else shallow_bytes(item) for _, item in items) / len(items)
    return size_bytes + int(mean_bytes * len(value))


def _is_shared(item: Any) -> bool:
    """Whether an item is one of the few objects that Python makes once only."""
    return item is None or isinstance(item, bool) or (type(item) is int and -5 <= item <= 256)  # noqa: PLR2004 - small numbers that Python itself defines


def is_code(value: Any) -> bool:
    """Whether a value is sent with the cell, and not as an input of the task."""
    if isinstance(value, _CODE_TYPES):
        bound_to = getattr(value, "__self__", None) if isinstance(value, _METHOD_TYPES) else None
        return bound_to is None or isinstance(bound_to, (type, types.ModuleType))
    if isinstance(value, functools.partial):
        return False
    return any(
        kind.__module__.partition(".")[0] in {"flyte", "flyteplugins"} and not kind.__module__.startswith(_FLYTE_DATA)
        for kind in type(value).__mro__
    )
