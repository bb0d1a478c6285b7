"""Reports wrong inputs of a task as a cluster does: RuntimeDataValidationError, with the variable's name.

The SDK's local mode raises the bare TypeError or ValueError of its conversion.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Awaitable, Callable
from typing import Any

from flyte_notebook.errors import RuntimeDataValidationError
from flyte_notebook.sdk import seam
from flyte_notebook.sdk.failures_without_attempt import unusable, with_failure
from flyte_notebook.worker.values.pickling import PicklingProblem

task_of_inputs: contextvars.ContextVar[Any] = contextvars.ContextVar("task_of_inputs", default=None)
"""The task whose inputs are being converted, ``None`` when that is not known."""

_NAMED = re.compile(r"variable '(\w+)'")


class NamingConversion:
    """Replaces the SDK's ``convert`` module in the local controller; all names but one are those of the module."""

    def __init__(self, convert: Any, convert_inputs: Callable[..., Awaitable[Any]]) -> None:
        self._convert = convert
        self._convert_inputs = convert_inputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._convert, name)

    async def convert_from_native_to_inputs(self, interface: Any, *args: Any, **kwargs: Any) -> Any:
        """Convert inputs as the SDK does. Raises RuntimeDataValidationError for wrong inputs."""
        converting = task_of_inputs.set(seam.submitted_task(1))
        try:
            return await self._convert_inputs(interface, *args, **kwargs)
        except PicklingProblem:
            raise  # it names the variable, and the attribute inside it
        except OSError as error:
            raise unusable(error, str(getattr(seam.submitted_task(1), "name", ""))) from error
        except (TypeError, ValueError, AssertionError) as error:
            variable = _variable(interface, args, kwargs, error)
            name = str(getattr(seam.submitted_task(1), "name", ""))
            wrong = RuntimeDataValidationError(variable, error, name)
            wrong.__cause__ = error
            raise with_failure(wrong, name) from error
        finally:
            task_of_inputs.reset(converting)


def _variable(interface: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    """Return the name of the wrong input; several names if several inputs are missing."""
    names = list(interface.inputs)
    unknown = [name for name in kwargs if name not in names]
    if unknown:
        return ", ".join(unknown)
    if len(args) > len(names):
        return f"number {len(names) + 1}"
    found = _NAMED.search(str(error))
    if found is not None:
        return found[1]
    given = {*names[: len(args)], *kwargs}
    missing = [name for name in names if name not in given and name in interface.required_inputs()]
    return ", ".join(missing) or "inputs"
