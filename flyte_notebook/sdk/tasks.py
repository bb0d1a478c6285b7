"""Makes a `Job` from a Flyte task: limits, attempts, environment, inputs, and the payload for a worker."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, BinaryIO

from flyte.extend import AsyncFunctionTaskTemplate
from flyte.models import NativeInterface

from flyte_notebook.core import units
from flyte_notebook.core.bound import unique
from flyte_notebook.core.job import CallFacts, InputFact, Job
from flyte_notebook.core.limits import Limits
from flyte_notebook.core.private import UnwritableError
from flyte_notebook.errors import InlineIOMaxBytesBreached, RuntimeUserError
from flyte_notebook.sdk import initialization, places, seam
from flyte_notebook.sdk.failures_without_attempt import with_failure
from flyte_notebook.worker.process.spool import Spool, SpoolReader
from flyte_notebook.worker.values import elsewhere, named_pickles, pickling

TYPE_KEY = "python_type"
SIZE_KEY = "size_bytes"
"""Keys of a literal's metadata: the Python type and the pickled size of an input that is sent as a pickle."""

RESOURCES = ("cpu", "memory", "gpu", "disk", "shm")
PLAIN = frozenset({"integer", "float_value", "string_value", "boolean"})
"""The kinds of literals whose value can be written as code."""

SHORT_TEXT = 60

ENTRY = "flyte_notebook.sdk.inside:execute"
ROOT_ACTION = "a0"
"""The name of a run's first action, as on a cluster."""


def probe_task(function: Callable[..., Any], **settings: Any) -> Any:
    """Return a task for a probe, as `flyte.TaskEnvironment.task` makes it, without an environment.

    A new environment searches for its caller's source file. This accesses each loaded module, and so loads pandas,
    which the SDK imports only when it is needed: 0.4 s.
    """
    return AsyncFunctionTaskTemplate(
        func=function,
        name=f"flyte_notebook_probe.{function.__name__}",
        short_name=function.__name__,
        interface=NativeInterface.from_callable(function),
        **settings,
    )


def job_for(call: dict[str, Any], directory: str, *, root: bool, generators: Mapping[str, bytes] | None = None) -> Job:
    """Return the job of one dispatch. Raises `UnitError` or `PicklingProblem`; run and parent may be set later.

    A large payload is a file in ``directory``. ``generators`` are the initial states of its random generators.
    """
    task, action = call["task"], call["action"]
    payload, path, unsent = b"", None, ""
    try:
        payload, path = pack(call, directory, generators)
    except UnwritableError as error:
        unsent = str(error)
    return Job(
        label=task.name,
        run=action.run_name or action.name,
        action=ROOT_ACTION if root else action.name,
        entry=ENTRY,
        payload=payload,
        payload_path=path,
        unsent=unsent,
        max_attempts=attempts_of(task),
        limits=limits_of(task),
        env_vars={**(task.env_vars or {}), **seam.run_variables.get()},  # as in a pod: the last one is used
        inputs=input_facts(task, call.get("inputs")),
        call=call_facts(task, call.get("inputs")),
    )


def call_facts(task: Any, inputs: Any) -> CallFacts:
    """Return how a program would call a task with these inputs."""
    arguments = {name: name for name in task.native_interface.inputs}
    for literal in inputs.proto_inputs.literals if inputs is not None else ():
        primitive = literal.value.scalar.primitive if literal.value.scalar.HasField("primitive") else None
        kind = None if primitive is None else primitive.WhichOneof("value")
        if kind in PLAIN and len(repr(getattr(primitive, kind))) <= SHORT_TEXT:
            arguments[literal.name] = repr(getattr(primitive, kind))
    return CallFacts(
        callee=str(getattr(task, "short_name", "") or task.name.rpartition(".")[2]),
        awaited=not seam.is_sync(task),
        resources=declared_resources(task),
        arguments=arguments,
    )


def declared_resources(task: Any) -> dict[str, object]:
    """Return the resources that a task declares, by their names in ``flyte.Resources``."""
    found = {name: getattr(task.resources, name, None) for name in RESOURCES}
    return {name: value for name, value in found.items() if value is not None}


def limits_of(task: Any) -> Limits:
    """Return the limits that a task declares. In ``flyte.Resources`` a tuple is (request, limit)."""
    resources = task.resources
    request, memory = _request_and_limit(resources.memory if resources is not None else None, units.parse_memory)
    _, cpu = _request_and_limit(resources.cpu if resources is not None else None, units.parse_cpu)
    timeout = task.timeout
    if timeout is None or isinstance(timeout, (int, timedelta)):
        bounds = (timeout, None, None)
    else:
        # Older SDKs know fewer bounds.
        bounds = (timeout.max_runtime, getattr(timeout, "max_queued_time", None), getattr(timeout, "deadline", None))
    runtime, queued, deadline = map(_seconds, bounds)
    return Limits(
        memory_bytes=memory,
        memory_request_bytes=request,
        cpu_cores=cpu,
        max_runtime_s=runtime,
        max_queued_time_s=queued,
        deadline_s=deadline,
        max_inline_io_bytes=task.max_inline_io_bytes,
    )


def not_enforced(task: Any) -> tuple[str, ...]:
    """Return the declared resources that are not enforced on a local machine, by name."""
    resources = task.resources
    names = ("gpu", "disk", "shm")
    return tuple(name for name in names if resources is not None and getattr(resources, name, None) is not None)


def not_enforced_words(task: Any, limits: Limits) -> Iterator[str]:
    """Yield a sentence for each limit that this machine does not enforce as declared."""
    for name in not_enforced(task):
        yield f"{name} is declared but not enforced on this machine"
    cores = os.cpu_count() or 1
    if limits.cpu_cores is not None and limits.cpu_cores > cores:
        yield f"cpu={limits.cpu_cores:g} is more than this machine has; {cores} cores it is"


def name_on_cluster(name: str) -> str:
    """Return a name as a cluster takes it: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "cell"


def attempts_of(task: Any) -> int:
    """Return the SDK's number of attempts: retries + 1."""
    retries = task.retries
    return int(getattr(retries, "count", retries) or 0) + 1


def input_facts(task: Any, inputs: Any) -> tuple[InputFact, ...]:
    """Return the inputs by name, type and serialised size."""
    if inputs is None:
        return ()
    types = task.native_interface.inputs
    return tuple(
        InputFact(
            name=literal.name,
            type_name=literal.value.metadata.get(TYPE_KEY) or _type_name(types.get(literal.name, ("?",))[0]),
            size_bytes=int(literal.value.metadata.get(SIZE_KEY, literal.value.ByteSize())),
        )
        for literal in inputs.proto_inputs.literals
    )


def pack(
    call: dict[str, Any], directory: str, generators: Mapping[str, bytes] | None = None
) -> tuple[bytes, str | None]:
    """Write a worker's data for one dispatch; return it as bytes, or as a file in ``directory`` if it is large.

    Raises `PicklingProblem`, which names the failing part, and `UnwritableError`.
    """
    body = {
        "modules": elsewhere.Files(elsewhere.files()),  # read first: the following values may need them
        "call": call,
        "settings": seam.context_settings(),
        "init": initialization.settings(),
        "places": places.current(),
        "generators": generators,
    }
    spool = Spool(lambda: f"{directory}/{unique()}.payload")
    try:
        written = named_pickles.dump(body, spool, name=call["task"].name, end=True)
        pickling.CellPickler(spool).dump(pickling.sources_of(written.files))
        data = spool.finish()
    except BaseException:
        spool.discard()
        raise
    return data or b"", spool.path


def unpack(file: BinaryIO) -> dict[str, Any]:
    """Read the output of `pack`, and make the notebook's sources known to tracebacks.

    ``names`` in it are the names that a worker's ``__main__`` needs.
    """
    reader = SpoolReader(file)
    body: dict[str, Any]
    body, names = named_pickles.load_spooled(reader)
    body["names"] = names
    pickling.install_sources(pickling.load(reader))
    return body


def refusal(error: Exception, task_name: str) -> Exception:
    """Return the error of an attempt that cannot start: a bad quantity, unpicklable code, inputs too large."""
    refused = error
    if not isinstance(error, RuntimeUserError):
        refused = RuntimeUserError(type(error).__name__, str(error))
        refused.__cause__ = error
    refused.recoverable = False  # type: ignore[attr-defined]  # the SDK's retry loop reads it from any exception
    found: Exception = with_failure(refused, task_name)
    return found


def check_inline_size(task: Any, literals: Any, what: str) -> None:
    """Refuse inputs or outputs above ``max_inline_io_bytes``, as a cluster does. Raises InlineIOMaxBytesBreached."""
    limit = task.max_inline_io_bytes
    sizes = {literal.name: literal.value.ByteSize() for literal in literals}
    total = sum(sizes.values())
    if limit and total > limit:
        name = max(sizes, key=lambda key: sizes[key])
        msg = (
            f"the {what} `{name}` of task {task.name} has {units.format_memory(sizes[name])} inline "
            f"({units.format_memory(total)} in all), above max_inline_io_bytes={limit} "
            f"({units.format_memory(limit)}); raise max_inline_io_bytes or pass a flyte.io.File"
        )
        raise InlineIOMaxBytesBreached(msg)


def _request_and_limit(value: Any, parse: Any) -> tuple[Any, Any]:
    if value is None:
        return None, None
    if isinstance(value, tuple):
        request, limit = value
        return parse(request), parse(limit)
    return None, parse(value)


def _seconds(value: int | timedelta | None) -> float | None:
    """Return seconds; for the SDK zero means unlimited."""
    if not value:
        return None
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _type_name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
