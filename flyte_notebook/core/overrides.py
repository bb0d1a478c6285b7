"""The settings that a rerun changes: values as people type them, checked, and code that makes the same change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

from flyte_notebook.core.units import (
    UnitError,
    format_cpu,
    format_memory,
    parse_cpu,
    parse_duration,
    parse_memory,
    quantity_memory,
    too_little,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyte_notebook.core.limits import Limits

FieldName = Literal["memory", "cpu", "timeout", "retries"]

MOST_RETRIES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """The settings that a rerun changes; ``None`` leaves a setting as the task declares it."""

    memory_bytes: int | None = None
    cpu_cores: float | None = None
    max_runtime_s: float | None = None
    retries: int | None = None

    def __bool__(self) -> bool:
        return self != Override()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The bounds of an override: the memory that a task can have here, the cores, and the needs of an empty worker.

    A bound is ``None`` where it is not known; then it is not checked.
    """

    memory_bytes: int | None = None
    cpu_cores: float | None = None
    worker_bytes: int | None = None


def read(texts: Mapping[FieldName, str], machine: Machine) -> Override | dict[FieldName, str]:
    """Return the override for the texts of a form, or for each wrong field a sentence that says why.

    An empty text leaves a setting as it is.
    """
    override, problems = Override(), dict[FieldName, str]()
    for name, text in texts.items():
        try:
            override = _with(override, name, text.strip(), machine)
        except UnitError as error:
            problems[name] = str(error)
    return problems or override


def _with(override: Override, name: FieldName, text: str, machine: Machine) -> Override:
    if not text:
        return override
    if name == "memory":
        return replace(override, memory_bytes=_memory(text, machine))
    if name == "cpu":
        return replace(override, cpu_cores=_cpu(text, machine))
    if name == "timeout":
        return replace(override, max_runtime_s=parse_duration(text))
    return replace(override, retries=_retries(text))


def _memory(text: str, machine: Machine) -> int:
    memory_bytes = parse_memory(text)
    if machine.worker_bytes is not None and memory_bytes < machine.worker_bytes:
        raise UnitError(too_little(text, machine.worker_bytes))
    if machine.memory_bytes is not None and memory_bytes > machine.memory_bytes:
        raise UnitError(f"{text} is more than this machine has ({format_memory(machine.memory_bytes)})")
    return memory_bytes


def _cpu(text: str, machine: Machine) -> float:
    cores = parse_cpu(text)
    if machine.cpu_cores is not None and cores > machine.cpu_cores:
        raise UnitError(f"{text} is more than this machine has ({format_cpu(machine.cpu_cores)})")
    return cores


def _retries(text: str) -> int:
    digits = len(text.lstrip("0"))  # Python refuses to read numbers of thousands of digits
    if not text.isascii() or not text.isdigit() or digits > len(str(MOST_RETRIES)) or int(text) > MOST_RETRIES:
        raise UnitError(f"{text[:40]!r} is not a number of retries; write a whole number from 0 to {MOST_RETRIES}")
    return int(text)


def call_code(  # noqa: PLR0913 - one argument for each part of a call
    callee: str,
    override: Override,
    *,
    declared: Mapping[str, object],
    inputs: Mapping[str, str],
    awaited: bool,
    limits: Limits | None = None,
) -> str:
    """Return the call that makes the same change as the override.

    ``declared`` are the resources that the task declares, by their names in ``flyte.Resources``: an override replaces
    all of them. ``inputs`` are expressions by name. The other bounds of a timeout are taken from ``limits``.
    """
    settings = settings_code(override, declared, limits)
    called = f"{callee}.override({settings})" if settings else callee
    arguments = ", ".join(f"{name}={_quoted(expression)}" for name, expression in inputs.items())
    return f"{'await ' if awaited else ''}{called}({arguments})"


def settings_code(override: Override, declared: Mapping[str, object], limits: Limits | None = None) -> str:
    """Return the arguments of a task, or of its ``override``, that set what an override changes."""
    settings = []
    if override.memory_bytes is not None or override.cpu_cores is not None:
        settings.append(resources_line(resources_with(declared, override)))
    if override.max_runtime_s is not None:
        settings.append(f"timeout={timeout_code(override.max_runtime_s, limits)}")
    if override.retries is not None:
        # For 0 the SDK keeps the declared value.
        settings.append(f"retries={override.retries or 'flyte.RetryStrategy(count=0)'}")
    return ", ".join(settings)


def resources_line(resources: Mapping[str, object]) -> str:
    """Return resources, by their names in ``flyte.Resources``, as the argument of a task."""
    return f"resources=flyte.Resources({', '.join(f'{name}={_code(value)}' for name, value in resources.items())})"


def _code(value: object) -> str:
    return f"({', '.join(map(_code, value))})" if isinstance(value, tuple) else _quoted(repr(value))


def _quoted(expression: str) -> str:
    """Return a literal in double quotes, as most people write them, where nothing else in it has to change."""
    if expression[:1] == expression[-1:] == "'" and '"' not in expression:
        return f'"{expression[1:-1]}"'
    return expression


def resources_with(declared: Mapping[str, object], override: Override) -> dict[str, object]:
    """Return the resources of a rerun, as ``flyte.Resources`` takes them."""
    resources = dict(declared)
    if override.cpu_cores is not None:
        resources["cpu"] = cpu_value(override.cpu_cores)
    if override.memory_bytes is not None:
        resources["memory"] = quantity_memory(override.memory_bytes)
    return resources


def cpu_value(cores: float) -> int | str:
    """Return cores as ``flyte.Resources`` takes them: a whole number, or thousandths of a core."""
    return int(cores) if float(cores).is_integer() else f"{round(cores * 1000)}m"


def timeout_code(max_runtime_s: float, limits: Limits | None = None) -> str:
    """Return the expression that gives a task this ``max_runtime`` and keeps the other bounds in ``limits``."""
    bounds = {
        "max_runtime": max_runtime_s,
        "max_queued_time": None if limits is None else limits.max_queued_time_s,
        "deadline": None if limits is None else limits.deadline_s,
    }
    said = {name: _duration_code(seconds) for name, seconds in bounds.items() if seconds is not None}
    if len(said) == 1:
        return said["max_runtime"]
    return f"flyte.Timeout({', '.join(f'{name}={code}' for name, code in said.items())})"


def _duration_code(seconds: float) -> str:
    text = seconds_text(seconds)
    return text if text.isdigit() else f"datetime.timedelta(seconds={text})"


def seconds_text(seconds: float) -> str:
    """Return exactly that many seconds as digits, without an exponent."""
    return str(int(seconds)) if float(seconds).is_integer() else f"{Decimal(repr(float(seconds))):f}"


def magic_code(override: Override) -> str:
    """Return the line magic that makes the same change as the override."""
    return f"%flyte rerun {options_code(override)}".rstrip()


def options_code(override: Override) -> str:
    """Return the same as options of ``%%flyte_task``."""
    words = []
    if override.memory_bytes is not None:
        words.append(f"--memory {quantity_memory(override.memory_bytes)}")
    if override.cpu_cores is not None:
        words.append(f"--cpu {cpu_value(override.cpu_cores)}")
    if override.max_runtime_s is not None:
        words.append(f"--timeout {seconds_text(override.max_runtime_s)}s")
    if override.retries is not None:
        words.append(f"--retries {override.retries}")
    return " ".join(words)


def describe(override: Override) -> str:
    """Return the changes of an override in a few words: ``1Gi, 2 retries``; empty when it changes nothing."""
    words = []
    if override.memory_bytes is not None:
        words.append(quantity_memory(override.memory_bytes))
    if override.cpu_cores is not None:
        words.append(format_cpu(override.cpu_cores))
    if override.max_runtime_s is not None:
        words.append(f"timeout {seconds_text(override.max_runtime_s)}s")
    if override.retries is not None:
        words.append(f"{override.retries} {'retry' if override.retries == 1 else 'retries'}")
    return ", ".join(words)


def changes(override: Override, limits: Limits, retries: int) -> Override:
    """Return the part of an override that differs from the settings of the attempt."""
    return Override(
        memory_bytes=None if override.memory_bytes == limits.memory_bytes else override.memory_bytes,
        cpu_cores=None if override.cpu_cores == limits.cpu_cores else override.cpu_cores,
        max_runtime_s=None if override.max_runtime_s == limits.max_runtime_s else override.max_runtime_s,
        retries=None if override.retries == retries else override.retries,
    )


def quick_choices(limits: Limits) -> tuple[tuple[str, int], ...]:
    """Return the memory limits that a click may set: twice and four times as much; none without a limit."""
    if limits.memory_bytes is None:
        return ()
    return tuple((f"×{factor}", factor * limits.memory_bytes) for factor in (2, 4))
