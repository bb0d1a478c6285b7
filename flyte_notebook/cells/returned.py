"""The results of a cell: the record that the worker sends, and how the notebook's kernel assigns the values."""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from flyte_notebook.cells.values import RESULT, Kept, Segment
from flyte_notebook.core import private
from flyte_notebook.core.units import format_memory
from flyte_notebook.worker.process.spool import SpoolReader
from flyte_notebook.worker.values import pickling

SPARE_BYTES = 64 << 20
"""The memory that the kernel keeps free beside an output it loads."""

HARMLESS_BYTES = 8 << 20
"""Smaller outputs are loaded without checking the machine's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutcome:
    """The results of a cell.

    The values are one stream, inline in ``data`` or in the file ``path``; ``segments`` describe its contents, in order.
    ``kept`` are outputs that stay in the task. ``deleted`` are inputs that the cell deleted. ``modules`` have to be
    bound in the notebook, name to full module name; ``submodules`` are also imported. ``changed`` are inputs that
    changed in the task only, ``perhaps_changed`` those that were too large to compare and had methods called.
    ``inline_only``: outputs that did not fit into one message stayed in the task. ``has_value``: the cell ends in an
    expression. ``shown`` is the mimebundle of its value when the value itself could not be sent, ``None`` otherwise.
    ``unfinished`` are asyncio tasks that the cell started and that had not ended. ``settings`` describes changes that
    cannot be sent back: of libraries, caches, modules. ``generators`` holds the states of random generators from which
    the notebook continues. ``disposable``: no cache refers to the file, and it may be removed when the values are
    loaded.
    """

    segments: tuple[Segment, ...] = ()
    data: bytes | None = None
    path: str | None = None
    kept: tuple[Kept, ...] = ()
    deleted: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    submodules: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    perhaps_changed: tuple[str, ...] = ()
    inline_only: bool = False
    has_value: bool = False
    shown: Mapping[str, Any] | None = None
    disposable: bool = False
    unfinished: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    generators: Mapping[str, bytes] = field(default_factory=dict)
    sources: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user, one sentence each."""
        return tuple(_notes(self))

    @property
    def size_bytes(self) -> int:
        """Bytes of all values in the stream."""
        return sum(segment.size_bytes for segment in self.segments)

    def pack(self) -> bytes:
        """Return the record as bytes; values in a file stay there."""
        return pickling.dumps(self)

    @classmethod
    def unpack(cls, data: bytes) -> CellOutcome:
        """Return the record from the bytes of `pack`."""
        outcome = pickling.loads(data)
        if not isinstance(outcome, cls):
            raise TypeError(f"this is not what a cell gives back: {type(outcome).__name__}")
        return outcome

    def moved(self, path: str | None) -> CellOutcome:
        """Return the same record with its file at another path."""
        return self if path == self.path else dataclasses.replace(self, path=path)

    def discard(self) -> None:
        """Remove the file with the values, if there is one. Not for cached results: the cache refers to it."""
        if self.path is not None:
            with suppress(OSError):
                private.remove(self.path)


class ReturnedValues:
    """Loads the values of an outcome, in order and once, so that outputs that share objects still do.

    Functions among them are bound to ``namespace``. An output that does not fit into the available memory, or that
    cannot be loaded, is skipped; `lost` says why, by name.
    """

    def __init__(
        self,
        outcome: CellOutcome,
        namespace: dict[str, Any] | None = None,
        *,
        available_bytes: Callable[[], int] | None = None,
    ) -> None:
        self.outcome = outcome
        self.lost: dict[str, str] = {}
        self._namespace = namespace
        self._available_bytes = available_bytes
        self._loaded: dict[str, Any] = {}
        self._todo = list(outcome.segments)
        self._position = 0
        self._unpickler: pickling.CellUnpickler | None = None
        self._file: _Reopened | None = None
        pickling.install_sources(outcome.sources)

    @property
    def result(self) -> Any:
        """The value of the last expression; ``None`` when there is none or it could not be sent."""
        while RESULT not in self._loaded and any(segment.name == RESULT for segment in self._todo):
            self._load_next()
        return self._loaded.get(RESULT)

    @property
    def outputs(self) -> dict[str, Any]:
        """The named outputs, in alphabetical order; without the value of the last expression."""
        while self._todo:
            self._load_next()
        return {name: self._loaded[name] for name in sorted(self._loaded) if name != RESULT}

    def _load_next(self) -> None:
        segment = self._todo[0]
        refusal = self._refusal(segment)
        if refusal is None:
            try:
                self._loaded[segment.name] = self._load(segment)
            except MemoryError:
                refusal = f"it needs {format_memory(segment.memory_bytes)} and the notebook's kernel ran out of memory"
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                refusal = f"it could not be loaded: {type(error).__name__}: {error}"
        if refusal is None:
            del self._todo[0]
            return
        self.lost[segment.name] = refusal
        for later in self._todo[1:]:  # they may share objects with the missing one
            self.lost[later.name] = f"it comes after `{segment.name or '_'}`, which was not loaded"
        self._todo.clear()

    def _refusal(self, segment: Segment) -> str | None:
        if segment.memory_bytes < HARMLESS_BYTES:
            return None
        from flyte_notebook.limiters import machine  # noqa: PLC0415 - seldom needed in a worker

        available_bytes = (self._available_bytes or machine.available_bytes)()
        if segment.memory_bytes + SPARE_BYTES <= available_bytes:
            return None
        return (
            f"it needs about {format_memory(segment.memory_bytes)} and the notebook's kernel can have "
            f"{format_memory(available_bytes)}"
        )

    def _load(self, segment: Segment) -> Any:
        if self._file is None:
            self._file = _Reopened(self.outcome)
            self._unpickler = pickling.CellUnpickler(self._file, self._namespace, buffers=self._file.buffers())
        assert self._unpickler is not None
        self._unpickler.renew_classes(segment.renews)
        with self._file.opened(self._position):
            value = self._unpickler.load()
        self._position += segment.size_bytes
        return value


class _Reopened:
    """The stream, open only while a value is read from it: it need not be closed."""

    def __init__(self, outcome: CellOutcome) -> None:
        self._outcome = outcome
        self._reader = SpoolReader(io.BytesIO())

    @contextmanager
    def opened(self, position: int) -> Iterator[None]:
        """Open at a position."""
        with self._open() as file:
            file.seek(position)
            self._reader = SpoolReader(file)
            yield

    def _open(self) -> BinaryIO:
        if self._outcome.path is None:
            return io.BytesIO(self._outcome.data or b"")
        return private.read(self._outcome.path)

    def read(self, size: int) -> bytes:
        """Read bytes."""
        return self._reader.read(size)

    def readline(self) -> bytes:
        """Read a line."""
        return self._reader.readline()

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        return self._reader.readinto(buffer)

    def buffers(self) -> Iterator[Any]:
        """Yield the separate buffers, across all times the file is opened."""
        while True:
            yield next(self._reader.buffers())


def bind(values: ReturnedValues, namespace: dict[str, Any]) -> tuple[str, ...]:
    """Assign the results of a cell in the notebook, and return messages for the user, one sentence each.

    All values are loaded before the first is assigned. Names that the cell deleted are removed, and so are older values
    of names whose new value cannot be pickled.
    """
    outcome = values.outcome
    outputs = values.outputs
    notes = list(outcome.notes)
    for name in [*outcome.deleted, *(kept.name for kept in outcome.kept if kept.reason != "too large")]:
        namespace.pop(name, None)
    namespace.update(outputs)
    older = sorted(kept.name for kept in outcome.kept if kept.reason == "too large" and kept.name in namespace)
    if older:
        notes.append(f"the notebook still has the older {_listed(older)}")
    for name in outcome.submodules:
        _import(name)
    for name, module in outcome.modules.items():
        problem = _import(module)
        if problem is None:
            namespace[name] = importlib.import_module(module)
        else:
            notes.append(f"`{name}` was imported in the task only: {problem}")
    notes += [f"`{name or '_'}` was not brought back: {reason}" for name, reason in values.lost.items()]
    return tuple(notes)


def _import(module: str) -> str | None:
    """Import a module; return why this fails, ``None`` when it succeeds."""
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - user code may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _bound(outcome: CellOutcome) -> str:
    if outcome.inline_only:
        return (
            "over 1 MiB with the others, and there are no keys here for the cluster's bucket (`storage` of flyte.init)"
        )
    return "over 64 MiB"


def _notes(outcome: CellOutcome) -> Iterator[str]:
    large = [kept for kept in outcome.kept if kept.reason == "too large"]
    named = [kept for kept in large if kept.name != RESULT]
    if named:
        what = ", ".join(f"`{kept.name}`{_size(kept)}" for kept in named)
        was, it, them = ("was", "it is", "it") if len(named) == 1 else ("were", "they are", "them")
        option = ",".join(kept.name for kept in named)
        yield f"{what} {was} not copied back because {it} {_bound(outcome)}. To get {them}, add `-o {option}`"
    elif large:
        yield f"the last value{_size(large[0])} was not copied back because it is {_bound(outcome)}"
    unpicklable = [kept for kept in outcome.kept if kept.reason != "too large" and kept.name != RESULT]
    if unpicklable:
        what = ", ".join(f"`{kept.path or kept.name}` ({kept.type_name})" for kept in unpicklable)
        yield f"{what} cannot be pickled and {'stays' if len(unpicklable) == 1 else 'stay'} in the task"
    elif any(kept.name == RESULT for kept in outcome.kept if kept.reason != "too large"):
        yield "the last value cannot be pickled; it is shown, and `_` is not set"
    if outcome.unfinished:
        yield f"tasks of asyncio were not finished and ended with the task: {_listed(outcome.unfinished)}; await them"
    for name in outcome.changed:
        yield f"`{name}` changed in the task only; add `-o {name}`"
    for name in outcome.perhaps_changed:
        yield f"if the cell changed `{name}` in place, add `-o {name}` (it is too large to compare)"


def _size(kept: Kept) -> str:
    return "" if kept.size_bytes is None else f" ({format_memory(kept.size_bytes)})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
