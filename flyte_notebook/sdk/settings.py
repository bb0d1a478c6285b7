"""Translates the options of a cell to the SDK's settings: resources, timeouts, retries, cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import flyte

from flyte_notebook.core.units import quantity_memory
from flyte_notebook.sdk.seam import TaskTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of a cell that concern its task; ``None`` means not given.

    ``disk`` and ``shm`` are quantities as ``flyte.Resources`` takes them, ``gpu`` a number or ``"A100:1"``.
    """

    memory_bytes: int | None = None
    cpu_cores: float | None = None
    gpu: int | str | None = None
    disk: str | None = None
    shm: str | None = None
    max_runtime_s: float | None = None
    max_queued_time_s: float | None = None
    deadline_s: float | None = None
    retries: int | None = None
    cache: Literal["auto", "disable"] | None = None
    max_inline_io_bytes: int | None = None


def task_settings(options: TaskOptions, environment: flyte.TaskEnvironment | None) -> Mapping[str, Any]:
    """Return the settings of a task; settings without an option come from the environment."""
    return {
        "resources": _resources(options, environment.resources if environment is not None else None),
        "timeout": _timeout(options),
        "retries": options.retries,
        "cache": options.cache,
        "max_inline_io_bytes": options.max_inline_io_bytes,
    }


def is_task(value: object) -> bool:
    """Whether a value is a Flyte task."""
    return isinstance(value, TaskTemplate)


def check_task(task: Any, who: str) -> None:
    """Raise TypeError if it is not a Flyte task."""
    if not is_task(task):
        what = "a function: decorate it with @env.task" if callable(task) else f"of type {type(task).__name__}"
        raise TypeError(f"{who} takes a Flyte task, and this is {what}")


def is_environment(value: object) -> bool:
    """Whether a value is a Flyte task environment."""
    return isinstance(value, flyte.TaskEnvironment)


def _resources(options: TaskOptions, default: flyte.Resources | None) -> flyte.Resources | None:
    given: dict[str, Any] = {
        "memory": None if options.memory_bytes is None else quantity_memory(options.memory_bytes),
        "cpu": options.cpu_cores,
        "gpu": options.gpu,
        "disk": options.disk,
        "shm": options.shm,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return default
    if default is not None:
        kept = {name: getattr(default, name) for name in ("memory", "cpu", "gpu", "disk", "shm")}
        given = {**{name: value for name, value in kept.items() if value is not None}, **given}
    cpu = given.get("cpu")
    if isinstance(cpu, float):
        given["cpu"] = int(cpu) if cpu.is_integer() else f"{round(cpu * 1000)}m"
    return flyte.Resources(**given)


def _timeout(options: TaskOptions) -> flyte.Timeout | None:
    seconds = (options.max_runtime_s, options.max_queued_time_s, options.deadline_s)
    if all(value is None for value in seconds):
        return None
    runtime, queued, deadline = (None if value is None else timedelta(seconds=value) for value in seconds)
    return flyte.Timeout(max_runtime=runtime, max_queued_time=queued, deadline=deadline)
