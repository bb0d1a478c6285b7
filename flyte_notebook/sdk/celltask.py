"""A cell as a Flyte task.

`read_cell` looks at a cell's text and at the notebook; `cell_task` makes the task. The task is an ordinary one for the
SDK: ``flyte.run(task, x=5)``, ``await task.override(...)(x=5)``, retries, cache and map work, and it gives the value of
the cell's last expression. The other outputs are in `last_outputs`, by run name.
"""

from __future__ import annotations

import hashlib
import inspect
import weakref
from dataclasses import KW_ONLY, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import flyte
import flyte.errors
from flyte.extend import AsyncFunctionTaskTemplate
from flyte.models import MAX_INLINE_IO_BYTES, NativeInterface

from flyte_notebook.cells.execution import Cell, run_cell
from flyte_notebook.cells.returned import CellOutcome, ReturnedValues
from flyte_notebook.core.units import format_memory
from flyte_notebook.sdk.places import new_transport, new_value
from flyte_notebook.sdk.types import CellOutputs, LastOutputs, last_outputs, lost, released, type_of
from flyte_notebook.worker.process import body, context
from flyte_notebook.worker.values.sharing import shared_namespace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flyte_notebook.cells.analysis import CellNames
    from flyte_notebook.cells.variables import Selection

__all__ = ["CellParts", "CellTask", "LastOutputs", "cell_task", "last_outputs", "lost", "read_cell"]

_FORMAT = tuple(field.name for field in fields(CellOutcome))
"""The format of cached results of cells: a result that another version of this package wrote is not used."""

RESULT_NAME = "result"
"""The name of a cell task's one output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellParts:
    """A cell that was read: its text, its use of names, and its values from the notebook.

    ``head`` is the text above it in the editor; ``source`` has empty lines there.
    """

    source: str
    filename: str
    names: CellNames
    selection: Selection
    outputs: tuple[str, ...] | None = None
    head: str = ""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The values of the task's inputs, by name, in the order of the task's interface."""
        return self.selection.inputs


def read_cell(  # noqa: PLR0913 - what stands around a cell, each by name
    source: str,
    namespace: Mapping[str, Any],
    *,
    filename: str = "<cell>",
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    futures: int = 0,
    head: str = "",
) -> CellParts:
    """Read a cell. ``source`` is plain Python, magics translated; ``-i`` and ``-o`` give ``inputs`` and ``outputs``.

    ``futures`` are compiler flags of earlier cells. Raises SyntaxError as running the cell would, and
    `UnknownNameError` for a name that exists nowhere.
    """
    from flyte_notebook.cells.analysis import analyse  # noqa: PLC0415 - a worker reads no cell
    from flyte_notebook.cells.variables import select  # noqa: PLC0415 - as above

    names = analyse(source, filename, futures=futures)
    return CellParts(
        source=source,
        filename=filename,
        names=names,
        selection=select(names, namespace, inputs=inputs),
        outputs=None if outputs is None else tuple(outputs),
        head=head,
    )


async def _body(**_inputs: Any) -> None:
    """Stand for the cell where the SDK asks for a function; `CellTask.execute` runs the cell."""


@dataclass(kw_only=True)
class CellTask(AsyncFunctionTaskTemplate[Any, Any, Any]):
    """The task of one cell."""

    _: KW_ONLY
    cell: Cell

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]  # the SDK's is not typed
        cache = self.cache
        if isinstance(cache, flyte.Cache) and cache.behavior == "auto" and cache.version_override is None:
            # The SDK would use the text of our function, which is the same for all cells.
            version = hashlib.sha256(f"{self.cell.version} {cache.salt} {_FORMAT}".encode()).hexdigest()
            self.cache = replace(cache, version_override=version)

    def __repr__(self) -> str:
        declared = (
            {name: value for name, value in vars(self.resources).items() if value is not None} if self.resources else {}
        )
        limits = "".join(f", {name}={value!r}" for name, value in declared.items())
        return f"<CellTask {self.name}({', '.join(self.native_interface.inputs)}) of {self.cell.filename}{limits}>"

    @property
    def source_file(self) -> str | None:
        """A cell is not in a file."""
        return None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """As for any coroutine task: when awaited, it returns the value of the last expression."""
        called = super().__call__(*args, **kwargs)

        async def value() -> Any:
            return released(await called)

        return value()

    async def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """As for any task."""
        return released(await super().aio(*args, **kwargs))

    async def execute(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the cell in this process and return its results, a `CellOutcome`."""
        inputs = self._named(args, kwargs)
        outcome = await body.on_main(lambda: self._run(inputs, fresh=False))
        self._check_size(outcome)
        assert isinstance(self.cache, flyte.Cache)  # the SDK made it one
        return replace(outcome, disposable=self.cache.behavior == "disable")

    def forward(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the cell in this process, without limits, in a new namespace; when awaited, return its last value."""

        async def run() -> Any:
            outcome = await self._run(self._named(args, kwargs), fresh=True)
            try:
                return ReturnedValues(outcome, shared_namespace()).result
            finally:
                outcome.discard()

        return run()

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return inputs by name. The SDK's own function for this does not accept an input named ``self``."""
        given = {**dict(zip(self.native_interface.inputs, args, strict=False)), **kwargs}
        return {name: released(value) for name, value in given.items()}

    async def _run(self, inputs: dict[str, Any], *, fresh: bool) -> CellOutcome:
        try:
            if fresh:
                return await run_cell(self.cell, inputs, place=new_transport)
            return await run_cell(self.cell, inputs, place=new_value, ended=context.body_ended)
        except RuntimeError as error:
            # Python turns a StopIteration that leaves a coroutine into a RuntimeError.
            stopped = error.__cause__
            if isinstance(stopped, StopIteration):
                native = flyte.errors.RuntimeUserError("StopIteration", str(stopped))
                raise native.with_traceback(stopped.__traceback__) from stopped
            raise
        except SystemExit as error:
            if context.in_worker():
                raise  # a worker handles it
            message = f"the cell called sys.exit({error.code!r})"
            raise flyte.errors.RuntimeUserError("SystemExit", message) from error

    def _check_size(self, outcome: CellOutcome) -> None:
        """Apply a limit on outputs if one was set. Without it they are sent in files, which the SDK does not count.

        Raises InlineIOMaxBytesBreached.
        """
        limit_bytes = self.max_inline_io_bytes
        if limit_bytes == MAX_INLINE_IO_BYTES or outcome.size_bytes <= limit_bytes:
            return
        outcome.discard()
        largest = max(outcome.segments, key=lambda segment: segment.size_bytes)
        name = f"output `{largest.name}`" if largest.name else "value of the last expression"
        message = (
            f"the {name} of {self.name} has {format_memory(largest.size_bytes)} "
            f"({format_memory(outcome.size_bytes)} in all), above max_inline_io_bytes={limit_bytes} "
            f"({format_memory(limit_bytes)}); raise --max-inline-io, or return less"
        )
        raise flyte.errors.InlineIOMaxBytesBreached(message)


def cell_task(  # noqa: PLR0913 - one argument for each setting of a task
    name: str,
    parts: CellParts,
    *,
    resources: flyte.Resources | None = None,
    retries: int | flyte.RetryStrategy | None = None,
    timeout: Any = None,
    cache: Any = None,
    env: flyte.TaskEnvironment | None = None,
    max_inline_io_bytes: int | None = None,
    interactivity: str = "last_expr",
    formats: bytes = b"",
    library_settings: Mapping[str, bytes] = MappingProxyType({}),
) -> CellTask:
    """Return the task of a cell.

    A setting that is ``None`` comes from ``env``, a `flyte.TaskEnvironment`, else from the SDK. Raises
    `CannotSendError` when code that the cell uses cannot be pickled.
    """
    from flyte_notebook.cells.version import cell_version  # noqa: PLC0415 - a worker makes no task of a cell

    names, selection = parts.names, parts.selection
    code, sources = selection.ship()
    version = cell_version(parts.source, selection.code, without=selection.inputs)
    if parts.outputs is not None:
        version = hashlib.sha256(f"{version} {sorted(parts.outputs)}".encode()).hexdigest()
    if (names.futures, interactivity) != (0, "last_expr"):
        version = hashlib.sha256(f"{version} {names.futures} {interactivity}".encode()).hexdigest()
    cell = Cell(
        name=name,
        source=parts.source,
        head=parts.head,
        filename=parts.filename,
        code=code,
        sources=sources,
        outputs=parts.outputs,
        assigned=names.assigned,
        mutated=names.mutated,
        called_on=names.called_on,
        imports=names.imports,
        may_set=selection.may_set,
        unimported=selection.unimported,
        absent=selection.absent,
        futures=names.futures,
        interactivity=interactivity,
        settings=dict(library_settings),
        formats=formats,
        version=version,
    )
    given = {
        "resources": resources,
        "retries": retries,
        "timeout": timeout,
        "cache": cache,
        "max_inline_io_bytes": max_inline_io_bytes,
    }
    settings = {**_settings_of(env), **{key: value for key, value in given.items() if value is not None}}
    return CellTask(
        name=f"{env.name}.{name}" if env is not None else name,
        short_name=name,
        func=_body,
        cell=cell,
        interface=NativeInterface(
            inputs={key: (type_of(key, value), inspect.Parameter.empty) for key, value in selection.inputs.items()},
            outputs={RESULT_NAME: CellOutputs},
        ),
        **settings,
    )


def _settings_of(env: flyte.TaskEnvironment | None) -> dict[str, Any]:
    """Return an environment's settings for its tasks, as arguments of `flyte.TaskEnvironment.task`."""
    if env is None:
        return {}
    names = (
        "image",
        "resources",
        "cache",
        "reusable",
        "env_vars",
        "secrets",
        "service_account",
        "pod_template",
        "queue",
        "interruptible",
    )
    settings = {name: getattr(env, name) for name in names if getattr(env, name, None) is not None}
    return {**settings, "parent_env": weakref.ref(env), "parent_env_name": env.name}
