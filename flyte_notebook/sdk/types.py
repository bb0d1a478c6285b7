"""The Flyte types of a cell's inputs and outputs.

The SDK's own types are used only if a round trip does not change the value: ``bool``, ``int`` of 64 bits, ``float``,
and ``str`` that is valid Unicode. (The SDK turns tuples into lists and naive datetimes into UTC, and refuses ``None``,
``2**70``, ``OrderedDict`` and ``np.float64``.) Everything else is pickled: up to 1 MiB inside the literal, more in a
file at the run's raw data path. For a cached task the literal has a hash of the content, so that equal inputs hit the
cache even if their pickles differ; for other tasks a hash would only take time, 0.6 s per GiB.

Literals are messages of ``flyteidl2``, which the SDK installs in the version that it uses. It is imported only where a
literal is made: with an SDK that uses another library, only the features in `lost` do not work.
"""

from __future__ import annotations

import asyncio
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import flyte
import flyte.storage
from flyte.types import TypeEngine, TypeTransformer

from flyte_notebook.cells.returned import CellOutcome, ReturnedValues
from flyte_notebook.cells.version import digest
from flyte_notebook.core import private
from flyte_notebook.sdk import seam
from flyte_notebook.sdk.inputs import task_of_inputs
from flyte_notebook.sdk.places import new_transport, new_value
from flyte_notebook.sdk.spooled import spooled
from flyte_notebook.sdk.tasks import SIZE_KEY, TYPE_KEY
from flyte_notebook.worker.process import context
from flyte_notebook.worker.process.spool import Spool, SpoolReader
from flyte_notebook.worker.values import named_pickles
from flyte_notebook.worker.values.sharing import shared_namespace
from flyte_notebook.worker.values.unpicklable import type_name

if TYPE_CHECKING:
    from flyteidl2.core import literals_pb2, types_pb2  # type: ignore[import-untyped]  # generated, without types

PICKLE_TAG = "flyte_notebook.pickle"
OUTCOME_TAG = "flyte_notebook.outcome"
LONGEST_TEXT = 100_000
_INT64 = range(-(2**63), 2**63)
KEPT_RUNS = 20
OBJECT_STORES = ("s3://", "gs://", "abfs://", "abfss://")
CHUNK_BYTES = 8 << 20
"""Files are read from these in pieces of that size, two at a time: more of them are held in memory at once."""


class CellInput:
    """The Python type of an input that is pickled; ``Annotated[CellInput, name]`` has the variable's name."""


class CellOutputs:
    """The Python type of a cell's results: a `CellOutcome` in the task, the last value for its caller."""


class Held:
    """Holds a value that is an exception, which the SDK would treat as a failure of the conversion."""

    def __init__(self, value: Any) -> None:
        self.value = value


def released(value: Any) -> Any:
    """Return the value of a possible `Held`."""
    return value.value if isinstance(value, Held) else value


def type_of(name: str, value: Any) -> Any:
    """Return the type of a task's input for a notebook variable: Flyte's where the round trip is exact."""
    if type(value) in {bool, float} or (type(value) is int and value in _INT64):
        return type(value)
    if type(value) is str and len(value) <= LONGEST_TEXT and _is_unicode(value):
        return str
    return Annotated[CellInput, name]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: protobuf refuses it
        return False
    return True


class LastOutputs:
    """The results of cells, by run name: for the last `KEPT_RUNS` runs of this process; cached results too.

    In the notebook's kernel the values are loaded when they are needed, into the notebook's namespace.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[str, ReturnedValues] = OrderedDict()
        self._listeners: list[Callable[[str, ReturnedValues], None]] = []

    def record(self, run_name: str, values: ReturnedValues) -> None:
        """Keep the results of a run's root action, and notify the listeners. Later results replace earlier ones."""
        self._runs.pop(run_name, None)
        self._runs[run_name] = values
        while len(self._runs) > KEPT_RUNS:
            self._runs.popitem(last=False)
        for listener in tuple(self._listeners):
            listener(run_name, values)

    def of(self, run_name: str) -> ReturnedValues | None:
        """Return the results of that run's cell, ``None`` if it has none or is too long ago."""
        return self._runs.get(run_name)

    def take(self, run_name: str) -> ReturnedValues | None:
        """As `of`, and forget it."""
        return self._runs.pop(run_name, None)

    def listen(self, listener: Callable[[str, ReturnedValues], None]) -> Callable[[], None]:
        """Call a function with run name and values of each cell that passes; return a function to undo this."""
        self._listeners.append(listener)

        def undo() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return undo


last_outputs = LastOutputs()
"""The results of runs, for the cell magic."""


uploading: ContextVar[Callable[[str], Coroutine[Any, Any, str]] | None] = ContextVar("uploading", default=None)
"""Uploads a local file for a run on a cluster, and returns its path there; ``None`` for all other runs."""


async def published(path: str | None) -> str | None:
    """Return the public path of a file written at `new_value`: it is uploaded if the raw data are remote."""
    upload = uploading.get()
    if path is not None and upload is not None:
        there = await upload(path)
        await asyncio.to_thread(private.remove, path)
        return there
    raw_data_path: Any = flyte.ctx().raw_data_path  # None outside of a run, whatever its annotation says
    if path is None or raw_data_path is None or not flyte.storage.is_remote(raw_data_path.path):
        return path
    uploaded: str = await flyte.storage.put(path, raw_data_path.get_random_remote_path())
    await asyncio.to_thread(private.remove, path)
    return uploaded


async def fetched(path: str) -> str:
    """Return a local path of a file that `published` named; one that was remote is in this session's directory."""
    if not flyte.storage.is_remote(path):
        return path
    few: dict[str, Any] = {"chunk_size": CHUNK_BYTES, "max_concurrency": 2} if path.startswith(OBJECT_STORES) else {}
    local: str = await flyte.storage.get(path, new_transport(), **few)
    return local


class CellInputTransformer(TypeTransformer[CellInput]):
    """Converts any Python value to a literal and back without changes."""

    def __init__(self) -> None:
        super().__init__(PICKLE_TAG, CellInput, enable_type_assertions=False)

    def get_literal_type(self, _type: Any = None) -> types_pb2.LiteralType:
        """Return a type of our own: bytes, tagged."""
        return _binary_type(self.name)

    def guess_python_type(self, literal_type: types_pb2.LiteralType) -> Any:
        """Return `CellInput` for the type from `get_literal_type`. Raises ValueError for any other."""
        return _guessed(literal_type, self.name, CellInput)

    async def to_literal(self, python_val: Any, python_type: Any, expected: Any) -> literals_pb2.Literal:
        """Pickle a value. Raises `PicklingProblem`, whose path begins with the variable's name."""
        name = get_args(python_type)[1] if get_origin(python_type) is Annotated else "value"
        hashed = seam.is_cached(task_of_inputs.get())
        spool = Spool(new_value, hashed=hashed)
        try:
            written = named_pickles.dump(python_val, spool, shared_namespace(), name=name)
            data = spool.finish()
        except BaseException:
            spool.discard()
            raise
        literal = _new_literal()
        if hashed and written.reaches_outside:  # outside data is not in the spool
            literal.hash = digest(python_val, limit_bytes=None) or spool.hexdigest()
        elif hashed:
            literal.hash = digest(python_val) or spool.hexdigest()
        literal.metadata[TYPE_KEY] = type_name(python_val)
        literal.metadata[SIZE_KEY] = str(spool.position)
        if data is not None:
            literal.scalar.binary.value = data
            literal.scalar.binary.tag = self.name
        else:
            literal.scalar.blob.uri = await published(spool.path) or ""
            action: Any = flyte.ctx().action  # as in place()
            if action is not None:
                spooled.add(action.run_name or action.name, literal.scalar.blob.uri, spool.position)
            literal.scalar.blob.metadata.type.format = self.name
        return literal

    async def to_python_value(self, lv: literals_pb2.Literal, expected_python_type: Any) -> Any:
        """Load a value; functions in it are bound to this process's ``__main__``. Exceptions come as `Held`."""
        value = await self._loaded(lv)
        return Held(value) if isinstance(value, Exception) else value

    async def _loaded(self, lv: literals_pb2.Literal) -> Any:
        if lv.scalar.HasField("binary"):
            value, names = named_pickles.load_spooled(SpoolReader(io.BytesIO(lv.scalar.binary.value)))
        else:
            with private.read(await fetched(lv.scalar.blob.uri)) as file:
                value, names = named_pickles.load_spooled(SpoolReader(file))
        if context.in_worker():
            named_pickles.make_known(names)
        return value


class CellOutputsTransformer(TypeTransformer[CellOutputs]):
    """Converts a `CellOutcome` to a literal; back to the value of the last expression, the rest to `last_outputs`."""

    def __init__(self) -> None:
        super().__init__(OUTCOME_TAG, CellOutputs, enable_type_assertions=False)

    def get_literal_type(self, _type: Any = None) -> types_pb2.LiteralType:
        """Return a type of our own: bytes, tagged."""
        return _binary_type(self.name)

    def guess_python_type(self, literal_type: types_pb2.LiteralType) -> Any:
        """Return `CellOutputs` for the type from `get_literal_type`. Raises ValueError for any other."""
        return _guessed(literal_type, self.name, CellOutputs)

    async def to_literal(self, python_val: Any, python_type: Any, expected: Any) -> literals_pb2.Literal:
        """Pack the results of a cell; large values are in a file already."""
        outcome: CellOutcome = python_val
        outcome = outcome.moved(await published(outcome.path))
        literal = _new_literal()
        literal.scalar.binary.value = outcome.pack()
        literal.scalar.binary.tag = self.name
        return literal

    async def to_python_value(self, lv: literals_pb2.Literal, expected_python_type: Any) -> Any:
        """Return the value of the last expression."""
        outcome = CellOutcome.unpack(lv.scalar.binary.value)
        if outcome.path is not None:
            path = await fetched(outcome.path)
            if not private.exists(path):
                message = f"the outputs of this cell are gone from {path}; run it again with --cache disable"
                raise FileNotFoundError(message)
            outcome = outcome.moved(path)
        values = ReturnedValues(outcome, shared_namespace())
        action: Any = flyte.ctx().action  # as in place()
        result = values.result
        if context.in_worker() and outcome.disposable:
            outcome.discard()  # the other outputs cannot be requested from a worker
        if action is not None:
            if not context.in_worker():
                last_outputs.record(action.run_name or action.name, values)
            # For flyte.run a tuple means several outputs; the context of a run itself has the run's name.
            if action.name == action.run_name and isinstance(result, (tuple, Exception)):
                return (result,)
        return Held(result) if isinstance(result, Exception) else result


def lost() -> str:
    """Return the features that do not work because the SDK's literals are different, and why; empty when all work."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the SDK's transformers, which this loads
            _new_literal()
            ours, theirs = type(_binary_type(PICKLE_TAG)), type(TypeEngine.to_literal_type(int))
        why = "" if ours is theirs else f"it uses {theirs.__module__}.{theirs.__name__}"
    except Exception as error:  # noqa: BLE001 - another version may raise any error, at its import or for a message
        why = f"{type(error).__name__}: {error}"
    return (
        f"no cell can be made a task, as the literals of flyte {flyte.__version__} are not known: {why}" if why else ""
    )


def _new_literal() -> literals_pb2.Literal:
    from flyteidl2.core import literals_pb2  # noqa: PLC0415 - see above

    return literals_pb2.Literal()


def _binary_type(tag: str) -> types_pb2.LiteralType:
    from flyteidl2.core import types_pb2  # noqa: PLC0415 - see above

    return types_pb2.LiteralType(simple=types_pb2.SimpleType.BINARY, structure=types_pb2.TypeStructure(tag=tag))


def _guessed(literal_type: types_pb2.LiteralType, tag: str, kind: type) -> type:
    if literal_type.HasField("structure") and literal_type.structure.tag == tag:
        return kind
    raise ValueError(f"not a {tag}")


TypeEngine.register(CellInputTransformer())
TypeEngine.register(CellOutputsTransformer())
