"""``%flyte fit``: the last run, or a task by its name, run again under limits that are tried out."""

from __future__ import annotations

import inspect
import io
import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from flyte_notebook.core.units import UnitError
from flyte_notebook.sdk import settings
from flyte_notebook.sdk.fit import FitError, Fitting
from flyte_notebook.sdk.repeats import InputsGoneError, Repeat
from flyte_notebook.views.experiments.fit import ShownFit, fit_bundle, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flyte_notebook.history import Run
    from flyte_notebook.sdk.session import Session

MAGIC = "%flyte fit"
HOW = f"name a task and its inputs, as in {MAGIC} oomer x=5"


def fit_again(line: str, namespace: Mapping[str, Any], session: Session) -> ShownFit:
    """Fit what ``line`` names, else the last run of this kernel. Raises UsageError, and what the task raised."""
    task, inputs = _named(line, namespace) if line else _last(namespace, session)
    try:
        search = Fitting(session, task, lambda run, task, trial: session.run(run, task, (), inputs, trial=trial))
        return shown(search.run_and_show(fit_bundle))
    except (FitError, UnitError) as error:
        raise UsageError(f"{MAGIC}: {error}") from None


def _named(line: str, namespace: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a task of the notebook and its inputs: ``x=5`` as Python, those that are not given by their names."""
    try:
        name, *words = shlex.split(line, posix=False)
    except ValueError:
        raise UsageError(f"{MAGIC}: a quotation mark is not closed; {HOW}") from None
    task = namespace.get(name)
    if not settings.is_task(task):
        what = f"is of type {type(task).__name__}, no Flyte task" if name in namespace else "does not exist"
        raise UsageError(f"{MAGIC}: `{name}` {what}; {HOW}")
    given: dict[str, Any] = {}
    for word in words:
        key, equals, expression = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{MAGIC}: {word!r} is no input; {HOW}")
        try:
            given[key] = eval(expression, dict(namespace))  # noqa: S307 - the user's own words, in the user's own kernel
        except Exception as error:  # noqa: BLE001 - whatever the user's own words raise
            raise UsageError(f"{MAGIC}: {key}={expression}: {type(error).__name__}: {error}") from None
    return task, {**_by_name(task, namespace, given), **given}


def _last(namespace: Mapping[str, Any], session: Session) -> tuple[Any, dict[str, Any]]:
    """Return the task of the last run and the inputs that it had; those of a cell also by their names."""
    run = next((run for run in reversed(list(session.history)) if run.actions and not run.of_experiment), None)
    if run is None:
        raise UsageError(f"{MAGIC}: there is no run to fit; run a %%flyte_task cell first, or {HOW}")
    repeat = _repeat(run, session)
    if repeat is None:
        raise UsageError(f"{MAGIC}: what the last run was given is not kept; {HOW}")
    try:
        return repeat.task, repeat.arguments()
    except InputsGoneError:
        if not run.of_cell:
            raise UsageError(f"{MAGIC}: the inputs of the last run are not kept; {HOW}") from None
    return repeat.task, _by_name(repeat.task, namespace, {})


def _repeat(run: Run, session: Session) -> Repeat | None:
    passed = session.last_passed
    if passed is not None and passed.run == run.name:
        return Repeat(io.BytesIO(passed.payload)) if passed.payload else None
    attempts = run.actions[0].attempts
    try:
        return session.repeats.find(attempts[-1].worker) if attempts else None
    except InputsGoneError:
        return None


def _by_name(task: Any, namespace: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that are neither given nor have a default, as the notebook has them."""
    inputs = task.native_interface.inputs
    unknown = next((name for name in given if name not in inputs), None)
    if unknown is not None:
        takes = ", ".join(inputs) or "nothing"
        raise UsageError(f"{MAGIC}: {task.short_name} has no input `{unknown}`; it takes {takes}")
    needed = [name for name, (_, default) in inputs.items() if name not in given and default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in namespace]
    if missing:
        raise UsageError(f"{MAGIC}: the notebook has no `{missing[0]}`; write {MAGIC} NAME {missing[0]}=...")
    return {name: namespace[name] for name in needed}
